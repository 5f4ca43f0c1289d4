"""The clients against real servers with real models: slow, and run in CI all the same."""

import json

import numpy as np
import pytest

from mvgrpo_jax import enhance, enhancers
from mvgrpo_jax.enhancers import OnlineEnhancer, perspectives
from mvgrpo_jax.enhancers.offline import canonical, similarity
from mvgrpo_jax.enhancers.rewriters import unfaithful
from mvgrpo_jax.enhancers.vlm import Encoding, VlmCaptioner
from mvgrpo_jax.services import Service, Settings
from tests.services import real

PROMPTS = ["an old wooden boat on a quiet lake at dawn", "a busy street market with fruit stands and lanterns"]


@pytest.mark.slow
def test_a_real_language_model_rewrites_prompts(tmp_path, capsys):
    """SmolLM2-135M through `transformers serve`: what is kept is text of the model that does what was asked for."""
    folder = real.small_language_model()
    prompts, out = tmp_path / "prompts.txt", tmp_path / "captions.jsonl"
    prompts.write_text("\n".join(PROMPTS))
    with real.serve(folder) as url:
        flags = ["--endpoint", url, "--model", str(folder), "--extra", "", "--max-tokens", "40", "--temperature", "1.0"]
        patience = ["--attempt-s", "120", "--request-s", "400", "--retries", "30", "--concurrency", "1"]
        enhance.main(["--prompts", str(prompts), "--out", str(out), "--k", "1", *flags, *patience])
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert sorted(line["prompt"] for line in lines) == sorted(PROMPTS)
    for line in lines:
        (caption,) = line["captions"]
        assert not unfaithful(line["prompt"], caption["text"], caption["operation"])
        assert similarity(line["prompt"], caption["text"]) < 0.9 and canonical(caption["text"]) != canonical(line["prompt"])
    facts = json.loads((tmp_path / "captions.jsonl.summary.json").read_text())
    assert (
        facts["captions"] == 2 and facts["service"]["answers"] == 2 and (tmp_path / "captions.jsonl.png").stat().st_size > 5000
    )
    assert "2 prompts, 2 captions" in capsys.readouterr().out


@pytest.mark.slow
def test_a_real_vision_language_model_sees_pictures(tmp_path):
    """A tiny random Qwen3-VL through `transformers serve`: pictures arrive, and what a random model says is text."""
    folder = real.tiny_vision_model(tmp_path / "model")
    heard = []

    class Listener(VlmCaptioner):
        async def caption(self, image, perspective, seed, deadline):
            accept = lambda text, finish: heard.append((text, finish)) or f"heard {len(text)}"
            return await self.service.ask(self.messages(image, perspective), accept, seed=seed, deadline=deadline)

    with real.serve(folder, "--trust-remote-code") as url:
        settings = Settings(endpoints=(url,), model=str(folder), max_tokens=12, concurrency=1, hedge=0.0)
        captioner = Listener(Service(settings), Encoding("png", size=32))
        own = OnlineEnhancer(captioner, 2, 0, perspectives.DEFAULT)
        images = np.random.default_rng(0).random((1, 1, 2, 48, 32, 3), np.float32)
        out = enhancers.enhance(own, 0, ["a red circle"], images)
        log = own.log()
        own.close()
    assert log["enhancer/missing"] == 0 and all(t.startswith("heard") for view in out for row in view for t in row)
    assert len(heard) == 2 and all(isinstance(text, str) and text for text, _ in heard)
    assert {finish for _, finish in heard} <= {"stop", "length"}

"""The clients against real servers with real models: slow, and run in CI all the same."""

import asyncio

import numpy as np
import pytest

from mvgrpo_jax import enhancers, rewards
from mvgrpo_jax.enhancers import OnlineEnhancer, perspectives
from mvgrpo_jax.enhancers.rewriters import OPERATIONS, LlmRewriter, unfaithful
from mvgrpo_jax.enhancers.vlm import Encoding, VlmCaptioner
from mvgrpo_jax.services import Failure, Service, Settings
from tests.services import real

PROMPT = "an old wooden boat on a quiet lake at dawn"


@pytest.mark.nightly
def test_a_real_language_model_rewrites_a_prompt(tmp_path):
    """SmolLM2-135M through `transformers serve`: each operation is asked for, and what is kept does what was asked for. A
    model of this size seldom does; the rules must be seen to tell."""
    folder, answers = real.small_language_model(), []

    class Listener(LlmRewriter):
        def accepted(self, prompt, answer, finish, operation):
            answers.append((answer, finish, operation))
            return super().accepted(prompt, answer, finish, operation)

    async def ask(url):
        settings = Settings(
            endpoints=(url,), model=str(folder), max_tokens=32, retries=1, attempt_s=100.0, concurrency=1, hedge=0.0
        )
        service = Service(settings)
        rewriter, kept = Listener(service), {}
        for operation in OPERATIONS:
            try:
                kept[operation] = await rewriter.rewrite(PROMPT, operation, [PROMPT], np.random.default_rng(0))
            except Failure as failure:
                assert failure.reason == "rejected", failure
        await service.close()
        return kept, service.counts

    with real.serve(folder) as url:
        kept, counts = asyncio.run(ask(url))
    assert 3 <= len(answers) == counts["attempts"] <= 6 and {o for _, _, o in answers} == set(OPERATIONS)
    assert all(finish in ("stop", "length") for _, finish, _ in answers)
    assert sum("boat" in text or "lake" in text for text, _, _ in answers) >= 2  # a real model speaks of what it was given
    assert counts["answers"] == len(kept) and not any(name.startswith("error:") for name in counts)
    for operation, text in kept.items():
        assert not unfaithful(PROMPT, text, operation)


@pytest.mark.nightly
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
        images = np.random.default_rng(0).integers(0, 256, (1, 1, 2, 48, 32, 3), np.uint8)
        out = enhancers.enhance(own, 0, ["a red circle"], images)
        log = own.log()
        own.close()
    assert log["enhancer/missing"] == 0 and all(t.startswith("heard") for view in out for row in view for t in row)
    assert len(heard) == 2 and all(isinstance(text, str) and text for text, _ in heard)
    assert {finish for _, finish in heard} <= {"stop", "length"}


@pytest.mark.nightly
def test_a_real_vision_language_model_is_asked_for_grades(tmp_path):
    """The same server takes the judge's question and picture; what a random model says has no grade, and is left out."""
    folder = real.tiny_vision_model(tmp_path / "model")
    images = np.random.default_rng(1).integers(0, 256, (2, 40, 32, 3), np.uint8)
    with real.serve(folder, "--trust-remote-code") as url:
        service = {"endpoints": (url,), "model": str(folder), "max_tokens": 8, "concurrency": 1, "retries": 0}
        judge = rewards.make("it", {"kind": "unifiedreward"} | service)
        with pytest.warns(UserWarning, match="4 of 4 scores did not come"):
            scores, valid = judge.score(images, [["a red circle", "a hat"]] * 2)
        log = judge.take_log()
        judge.close()
    assert not valid.any() and log["missing"] == log.get("missing/no_score", 0) + log.get("missing/cut_off", 0) == 4

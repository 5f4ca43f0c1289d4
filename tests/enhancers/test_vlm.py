"""Captions from a server: how pictures travel, what a run does with answers, with missing ones and with hostile ones."""

import base64
import io
import json
import time

import numpy as np
import pytest
from PIL import Image

from mvgrpo_jax import enhancers
from mvgrpo_jax.enhancers import OnlineEnhancer, perspectives
from mvgrpo_jax.enhancers.vlm import Encoding, VlmCaptioner
from mvgrpo_jax.errors import Outage, UserError
from mvgrpo_jax.nano.world import render, scene
from mvgrpo_jax.run import loop, metrics
from mvgrpo_jax.run.pictures import to_uint8
from mvgrpo_jax.services import Service, Settings
from tests.runs import leaves, small_config
from tests.services import faults
from tests.services.faults import FaultServer, says, seeded, slow, status

pytestmark = pytest.mark.slow

IMAGES = to_uint8(np.stack([[[render.draw(scene.sample(np.random.default_rng([p, g]))) for g in range(3)]] for p in range(2)]))
PROMPTS = ["a red circle", "a small blue square"]


def online(server, count=3, **options):
    known = {"attempt_s": 2.0, "request_s": 4.0, "batch_s": 4.0, "backoff_s": 0.05, "retries": 1, "hedge": 0.0}
    settings = {k: options.pop(k, v) for k, v in known.items()}
    service = Service(Settings(endpoints=(server.url,), model="m", **settings))
    captioner = VlmCaptioner(service, Encoding(size=16))
    return OnlineEnhancer(captioner, count, 0, perspectives.DEFAULT, batch_s=settings["batch_s"], **options)


@pytest.mark.parametrize("format, lossless", [("png", True), ("jpeg", False), ("webp", False)])
def test_pictures_travel_as_data_urls(format, lossless):
    image = np.asarray(Image.linear_gradient("L").resize((48, 24)).convert("RGB"))
    head, _, data = Encoding(format, 95, 0).data_url(image).partition(",")
    assert head == f"data:image/{format};base64"
    back = Image.open(io.BytesIO(base64.b64decode(data)))
    assert back.format == format.upper() and back.size == (48, 24)
    error = np.abs(np.asarray(back.convert("RGB"), np.float32) - image).max() / 255
    assert error < 1e-6 if lossless else error < 0.1
    small = Image.open(io.BytesIO(base64.b64decode(Encoding(format, 90, 12).data_url(image).partition(",")[2])))
    assert small.size == (12, 6)


def test_encodings_are_checked():
    for values, message in (({"format": "gif"}, "jpeg, png, webp"), ({"quality": 0}, "quality"), ({"size": -1}, "size")):
        with pytest.raises(UserError, match=message):
            Encoding(**values)


def test_every_sample_is_described_once_and_reproducibly():
    asked = []
    for _ in range(2):
        with FaultServer(then=seeded()) as server:
            own = online(server)
            out = enhancers.enhance(own, 5, PROMPTS, IMAGES)
            log = own.log()
            own.close()
        asked.append(sorted((b["seed"], b["messages"][0]["content"][0]["text"]) for _, b in server.requests))
        pictures = {b["messages"][0]["content"][1]["image_url"]["url"] for _, b in server.requests}
        assert len(server.requests) == len(pictures) == 6 and [len(out), len(out[0]), len(out[0][0])] == [3, 2, 1]
        assert log["enhancer/asked"] == 6 and log["enhancer/missing"] == 0 and log["enhancer/wait_s"] > 0
    assert asked[0] == asked[1] and len({text for _, text in asked[0]}) > 1
    instructions = [p.instruction for p in perspectives.DEFAULT]
    assert all(any(text.endswith(i) for i in instructions) for _, text in asked[0])


def test_what_is_missing_is_masked_replaced_or_stops():
    fail, good = status("400 Bad Request"), says("A large red circle.")
    with FaultServer(fail, good, fail, then=good) as server, pytest.warns(UserWarning, match="2 of 6 captions did not come"):
        own = online(server)
        out = enhancers.enhance(own, 0, PROMPTS, IMAGES)
        assert sum(t is None for view in out for row in view for t in row) == 2 and own.log()["enhancer/missing"] == 2
        own.close()
    spare = lambda prompt: [f"{prompt}, offline {i}" for i in range(2)]
    with FaultServer(then=fail) as server, pytest.warns(UserWarning, match="replaced by offline ones"):
        own = online(server, missing="offline", spare=spare)
        out = enhancers.enhance(own, 0, PROMPTS, IMAGES)
        texts = [[out[k][p][0] for k in range(3)] for p in range(2)]
        assert [sorted(filter(None, t)) for t in texts] == [
            sorted(spare(p)) for p in PROMPTS
        ]  # two there are, one stays masked
        assert own.log()["enhancer/replaced"] == 4
        own.close()
    with FaultServer(then=fail) as server:
        own = online(server, missing="stop")
        with pytest.raises(Outage, match="6 of 6 captions did not come .6 bad request.; such as: .*status|Error code: 400"):
            enhancers.enhance(own, 0, PROMPTS, IMAGES)
        own.close()
    with pytest.raises(UserError, match="needs config.views.file"):
        online(server, missing="offline")
    with pytest.raises(UserError, match="must be one of mask, offline, stop"):
        online(server, missing="ignore")


def test_a_run_without_captions_ends_when_its_patience_does():
    with FaultServer(then=status("400 Bad Request")) as server:
        own = online(server, patience=2)
        with pytest.warns(UserWarning, match="masked"):
            enhancers.enhance(own, 0, PROMPTS, IMAGES)
        with pytest.raises(Outage, match="none came in 2 iterations"):
            enhancers.enhance(own, 1, PROMPTS, IMAGES)
        own.close()


@pytest.mark.parametrize("fault", [faults.hang, faults.drip, slow(5.0)])
def test_a_batch_is_over_at_its_deadline(fault):
    with FaultServer(then=fault) as server, pytest.warns(UserWarning, match="6 deadline"):
        own = online(server, attempt_s=1.5, request_s=1.5, batch_s=1.5)
        began = time.monotonic()
        out = enhancers.enhance(own, 0, PROMPTS, IMAGES)
        assert time.monotonic() - began < 1.5 + 1.0
        own.close()
    assert all(t is None for view in out for row in view for t in row)


def test_captions_are_cut_to_the_encoders_length():
    with FaultServer(then=says("A circle. " + "And a square. " * 3)) as server:
        own = online(server, fit=lambda text: text[:9])
        assert enhancers.enhance(own, 0, PROMPTS, IMAGES)[0][0] == ["A circle."] and own.log()["enhancer/cut"] == 6
        own.close()


def vlm_config(url, **views):
    config = small_config()
    config.views.update({"enhancer": "vlm", "perspectives": ("subject", "colour")} | views)
    quick = {"endpoints": (url,), "attempt_s": 5.0, "request_s": 10.0, "batch_s": 20.0, "backoff_s": 0.05, "hedge": 0.0}
    config.views.service.update(quick | {"model": "m", "retries": 1, "key_env": "CAPTION_KEY"})
    return config


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """(workdir, config, requests) of a run with a captioner behind a server, sampled branch by branch."""
    with pytest.MonkeyPatch.context() as patch, FaultServer(then=seeded()) as server:
        patch.setenv("CAPTION_KEY", "sk-to-be-found-nowhere")
        workdir, config = tmp_path_factory.mktemp("served"), vlm_config(server.url)
        loop.train(config, workdir)
        return workdir, config, server.requests


def numbers(workdir):
    return [
        {k: v for k, v in r.items() if not k.startswith(("time/", "memory/")) and not k.endswith("_s")}
        for r in metrics.read(workdir)
    ]


@pytest.mark.nightly
def test_sampling_in_pieces_is_the_rollout(served, tmp_path, monkeypatch):
    """Overlapped or not, the run is the same but for rounding: pictures, captions, rewards, updates."""
    monkeypatch.setenv("CAPTION_KEY", "x")
    with FaultServer(then=seeded()) as server:
        loop.train(vlm_config(server.url, overlap=False), tmp_path)
    assert len(server.requests) == len(served[2]) == 4 * 2 * 2 * 2  # iterations, prompts, branches, captions
    for a, b in zip(numbers(served[0]), numbers(tmp_path), strict=True):
        assert a.keys() == b.keys()
        np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=2e-2, atol=2e-3)
    first = [json.loads((w / "samples" / "000000.json").read_text()) for w in (served[0], tmp_path)]
    assert [c["caption"] for c in first[0]["captions"]] == [c["caption"] for c in first[1]["captions"]]
    np.testing.assert_allclose(
        [c["reward"]["scene"] for c in first[0]["captions"]], [c["reward"]["scene"] for c in first[1]["captions"]], atol=1e-4
    )


@pytest.mark.nightly
def test_the_key_is_in_no_file_of_the_run(served):
    workdir, _, requests = served
    assert requests[0][0]["authorization"] == "Bearer sk-to-be-found-nowhere"
    files = [p for p in workdir.rglob("*") if p.is_file()]
    assert len(files) > 20 and not [p for p in files if b"to-be-found-nowhere" in p.read_bytes()]


@pytest.mark.nightly
def test_an_outage_loses_no_iteration(served, tmp_path, monkeypatch, capsys):
    """The service fails in the fourth iteration: the three before are kept, and the run goes on to the same end."""
    monkeypatch.setenv("CAPTION_KEY", "x")
    whole, config, requests = served
    with FaultServer(*[seeded()] * 24, then=status("400 Bad Request")) as server:
        with pytest.raises(UserError, match="iteration 3: 8 of 8 captions did not come"):
            loop.train(vlm_config(server.url, missing="stop"), tmp_path)
    assert (tmp_path / "checkpoints" / "3").exists()
    with FaultServer(then=seeded()) as server:
        loop.train(vlm_config(server.url), tmp_path)  # another address and another rule are still the same run
    assert "going on from iteration 3" in capsys.readouterr().out and len(server.requests) == 8
    for a, b in zip(leaves(tmp_path, 4, config)[0], leaves(whole, 4, config)[0], strict=True):
        np.testing.assert_array_equal(a, b)


HOSTILE = [
    "<script>alert(1)</script> a circle",
    "a circle <img src=x onerror=alert(2)>",
    "--config.seed=99 a circle",
    "../../../etc/passwd a circle",
    "{{ 7 * 7 }} {% for %} a circle",
    "$\\frac{1}{ a circle $",
    "a circle'; rm -rf /; \"&&",
    "a circle \x1b[2J\x07\u202e\u0000 &lt;b&gt;",
]


@pytest.mark.nightly
def test_hostile_captions_are_data(tmp_path, monkeypatch):
    monkeypatch.setenv("CAPTION_KEY", "x")
    with FaultServer(then=seeded(HOSTILE)) as server:
        config = vlm_config(server.url)
        config.iterations, config.views.count, config.views.language = 1, 6, ""
        loop.train(config, tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text()
    texts = [c["caption"] for c in json.loads((tmp_path / "run" / "samples" / "000000.json").read_text())["captions"]]
    assert "config.seed=99" in " ".join(texts) and "{{ 7 * 7 }}" in " ".join(texts)
    assert "<script" not in page and "<img src=x" not in page and "\x1b" not in page and "\u202e" not in page
    assert "&#39;; rm -rf /; &#34;&amp;&amp;" in page and "&amp;lt;b&amp;gt;" in page and "49" not in "".join(texts)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["seed"] == 0
    assert [p.name for p in tmp_path.iterdir()] == ["run"]

"""Judges behind a server: the scores are those of the judge asked directly, whatever the picture's size, format or neighbours,
and what cannot be answered is said."""

import base64
import io
import json
import threading
import time

import httpx2
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from mvgrpo_jax import rewards
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.nano.world import render, scene
from mvgrpo_jax.parallel.owned import Owned
from mvgrpo_jax.rewards import serve, wire
from mvgrpo_jax.rewards.base import Judgement
from mvgrpo_jax.run import loop, metrics
from mvgrpo_jax.run.pictures import to_uint8
from tests.rewards.servers import serving, started
from tests.runs import small_config

TEXTS = ["a red circle", "a small blue square", "a black background", None]
QUICK = {"attempt_s": 30.0, "request_s": 40.0, "batch_s": 50.0, "backoff_s": 0.05, "hedge": 0.0}


class Level:
    """The brightness of a picture plus a tenth of the text's length; of the text 'never' it cannot tell."""

    def __init__(self, seconds: float = 0.0):
        self.seconds, self.asked = seconds, []

    def take_cut(self):
        return 0

    def score(self, images, captions):
        self.asked.append(images.shape)
        time.sleep(self.seconds)
        if any("explode" in (t or "") for row in captions for t in row):
            raise ZeroDivisionError("boom")
        if any("too wide" in (t or "") for row in captions for t in row):
            raise UserError("this judge reads narrow texts")
        scores = np.asarray([[x.mean() / 255 + len(t or "") / 10 for t in row] for x, row in zip(images, captions)])
        scores[np.asarray([[t == "nan" for t in row] for row in captions])] = np.nan
        return Judgement(np.float32(scores), np.asarray([[t != "never" for t in row] for row in captions]))


def world(n, seed=0):
    """Pictures of the embedded world and a text or none for each, four times."""
    images = to_uint8(np.stack([render.draw(scene.sample(np.random.default_rng([seed, i]))) for i in range(n)]))
    return images, [[TEXTS[(i + v) % 4] for v in range(4)] for i in range(n)]


def direct(kind, images, captions, options=None):
    """[N, V] of the judge in this process."""
    panel = rewards.Panel({"it": rewards.make(kind, options)})
    return panel.score("it", Owned(jnp.asarray(images)[:, None], 1), [list(view) for view in zip(*captions)])[..., 0].T


def remote(urls, **options):
    return rewards.make("http", QUICK | {"endpoints": (urls,) if isinstance(urls, str) else tuple(urls)} | options)


def post(url, body, **headers):
    return httpx2.post(f"{url}/score", content=json.dumps(body) if isinstance(body, dict) else body, headers=headers)


@pytest.mark.nightly
def test_two_servers_as_commands_of_which_one_dies_in_the_middle():
    images, captions = world(40)
    want = direct("scene", images, captions)
    answered = lambda url: httpx2.get(f"{url}/health").json()["answered"]
    with started(2, "--judge", "scene") as ((first, process), (second, _)):
        assert httpx2.get(f"{first}/health").json() == {"judges": ["scene"], "open": 0, "answered": 0}
        judge = remote((first, second), judge="scene", batch=1, concurrency=1, breaker=2)
        pending = judge.begin(np.tile(images, (8, 1, 1, 1)), captions * 8)
        while answered(first) < 4:
            time.sleep(0.01)
        process.kill()
        assert not pending.future.done()
        scores, valid = pending.result()
        log = judge.take_log()
        judge.close()
        assert answered(second) > 8 * 40 / 4
    np.testing.assert_array_equal(np.where(valid, scores, np.nan), np.tile(want, (8, 1)))
    assert log["retries"] > 0 and log["missing"] == 0


def test_a_judge_on_the_device_scores_as_it_does_here():
    """Batches of whatever size and number of texts are filled up."""
    images, captions = world(7)
    captions = [row[:3] for row in captions]
    want = direct("clip", images, captions)
    with serving({"clip": rewards.make("clip")}, batch=4) as (url, _):
        asker = remote(url, batch=7)
        got = asker.score(images, captions)
        asker.close()
    np.testing.assert_allclose(np.where(got.valid, got.scores, np.nan), want, atol=1e-5)
    assert len(np.unique(want[np.isfinite(want)].round(4))) > 10


def test_pictures_of_many_sizes_and_formats_in_one_request():
    rng, judge = np.random.default_rng(0), Level()
    pictures = [rng.integers(0, 256, (h, w, 3), np.uint8) for h, w in ((5, 7), (1, 1), (5, 7), (9, 4), (5, 7))]
    captions = [["a", None, "abc"]] * 3 + [["never", "nan", "ab"]] * 2
    body = wire.request([wire.encode(p) for p in pictures], captions)
    want = [
        [p.mean() / 255 + len(t) / 10 if t not in (None, "never", "nan") else None for t in row]
        for p, row in zip(pictures, captions)
    ]
    with serving({"level": judge}) as (url, _):
        answer = post(url, body).json()
        assert answer["judge"] == "level"
        for got, row in zip(answer["scores"], want, strict=True):
            assert [x is None for x in got] == [x is None for x in row]
            np.testing.assert_allclose([x for x in got if x is not None], [x for x in row if x is not None], rtol=1e-6)
        assert sorted(judge.asked) == [(1, 1, 1, 3), (1, 9, 4, 3), (3, 5, 7, 3)]  # one size is judged together
        files = [("images", (f"{i}.png", base64.b64decode(data))) for i, data in enumerate(body["images"])]
        form = httpx2.post(f"{url}/score", files=files, data={"captions": json.dumps(captions)})
        assert form.json() == answer
        clear = np.zeros((2, 2, 4), np.uint8)  # transparent, so white
        shades = {"RGBA": clear, "L": clear[..., 0] + 51, "P": None, "I;16": np.full((2, 2), 13107, np.uint16)}
        palette = Image.new("P", (2, 2))
        palette.putpalette([102, 102, 102])
        for mode, array in shades.items():
            buffer = io.BytesIO()
            (palette if array is None else Image.fromarray(array)).save(buffer, "PNG")
            image = base64.b64encode(buffer.getvalue()).decode()
            got = post(url, wire.request([image], [[""]])).json()["scores"]
            assert got == [[pytest.approx({"RGBA": 1.0, "L": 0.2, "P": 0.4, "I;16": 0.2}[mode], abs=1e-6)]]


def test_requests_that_come_together_are_judged_together():
    judge = Level(0.2)
    images = np.random.default_rng(1).integers(0, 256, (24, 6, 6, 3), np.uint8)
    with serving({"level": judge}, batch=8) as (url, server):
        asker = remote(url, batch=1, concurrency=32)
        scores, valid = asker.score(images, [["abc"]] * 24)
        asker.close()
        assert server.answered == 24 and server.batches < 10 and max(shape[0] for shape in judge.asked) == 8
    np.testing.assert_allclose(scores[:, 0], images.mean((1, 2, 3)) / 255 + 0.3, rtol=1e-6)
    assert valid.all()


def test_a_request_fails_for_its_own_sake():
    images = np.zeros((3, 4, 4, 3), np.uint8)
    judge = Level(0.1)
    with serving({"level": judge}) as (url, _):
        asker = remote(url, batch=1, retries=0)
        with pytest.warns(UserWarning, match="2 of 3 scores did not come"):
            _, valid = asker.score(images, [["explode"], ["fine"], ["too wide"]])
        log = asker.take_log()
        asker.close()
        np.testing.assert_array_equal(valid[:, 0], [False, True, False])
        assert log["missing/server_error"] == log["missing/bad_request"] == 1
        said = post(url, wire.request([wire.encode(images[0])], [["too wide"]]))
        assert said.status_code == 400 and said.json()["error"]["message"] == "this judge reads narrow texts"
        said = post(url, wire.request([wire.encode(images[0])], [["explode"]]))
        assert said.status_code == 500 and "ZeroDivisionError: boom" in said.json()["error"]["message"]


def test_what_cannot_be_answered_is_said():
    good = wire.encode(np.zeros((4, 4, 3), np.uint8))
    large = wire.encode(np.zeros((40, 40, 3), np.uint8))
    bodies = {
        b"{broken": (400, "not valid JSON"),
        b'["a"]': (400, "expected a JSON object"),
        b"[" * 100_000: (400, "not valid JSON"),
        json.dumps({"images": [], "captions": []}): (400, "0 pictures"),
        json.dumps({"images": ["%%%"], "captions": [["a"]]}): (400, "no base64"),
        json.dumps({"images": [3], "captions": [["a"]]}): (400, "no base64"),
        json.dumps({"images": [base64.b64encode(b"GIF89a").decode()], "captions": [["a"]], "judge": "level"}): (
            400,
            "picture 0 is no picture",
        ),
        json.dumps({"images": [good[: len(good) // 2 // 4 * 4]], "captions": [["a"]], "judge": "level"}): (
            400,
            "picture 0 is no picture",
        ),
        json.dumps({"images": [good], "captions": ["a"], "judge": "level"}): (400, "list of lists"),
        json.dumps({"images": [good], "captions": [[3]], "judge": "level"}): (400, "list of lists"),
        json.dumps({"images": [good], "captions": [[]], "judge": "level"}): (400, "list of lists"),
        json.dumps({"images": [good, good], "captions": [["a"]], "judge": "level"}): (400, "2 pictures and captions for 1"),
        json.dumps({"images": [good, good], "captions": [["a"], ["a", "b"]], "judge": "level"}): (400, "all of one length"),
        json.dumps({"images": [good], "captions": [["a"]], "judge": "levle"}): (404, "Did you mean 'level'"),
        json.dumps({"images": [good], "captions": [["a"]], "judge": 3}): (404, "there are: level, other"),
        json.dumps({"images": [good], "captions": [["a"]]}): (404, "there are: level, other"),
        json.dumps({"images": [large], "captions": [["a"]], "judge": "level"}): (413, "40 x 40 pixels"),
        json.dumps({"images": [good] * 5, "captions": [["a"]] * 5, "judge": "level"}): (413, "5 pictures"),
        json.dumps({"images": [good], "captions": [["a"] * 9], "judge": "level"}): (413, "9 captions"),
        b" " * 200_001: (413, "over 200000 bytes"),
    }
    with serving({"level": Level(), "other": Level()}, pictures=4, captions=8, pixels=1024, body=200_000) as (url, _):
        for body, (status, said) in bodies.items():
            answer = post(url, body)
            assert (answer.status_code, said in answer.json()["error"]["message"]) == (status, True), (body[:80], answer.text)
        form = httpx2.post(f"{url}/score", content=b"--x", headers={"content-type": "multipart/form-data; boundary=x"})
        assert form.status_code == 400
        assert httpx2.get(f"{url}/score").status_code == 405
        assert post(url, {"images": [good], "captions": [["a"]], "judge": "level"}).status_code == 200  # it is well after all


def test_a_token_is_asked_for(tmp_path, monkeypatch):
    images = np.zeros((1, 4, 4, 3), np.uint8)
    with serving({"level": Level()}, token="secret-of-a-server") as (url, _):
        assert post(url, {}).status_code == 401 and httpx2.get(f"{url}/health").status_code == 200
        monkeypatch.setenv("JUDGE_KEY", "secret-of-a-server")
        asker = remote(url, key_env="JUDGE_KEY")
        assert asker.score(images, [["a"]]).valid.all()
        asker.close()
        asker = remote(url)
        with pytest.warns(UserWarning, match="1 refused.*401"):
            assert not asker.score(images, [["a"]]).valid.any()
        asker.close()


def test_what_is_too_much_waits_elsewhere():
    with serving({"level": Level(0.1)}, requests=1, batch=1) as (url, server):
        asker = remote(url, batch=1, retries=10)
        scores, valid = asker.score(np.zeros((4, 4, 4, 3), np.uint8), [["a"]] * 4)
        log = asker.take_log()
        asker.close()
    assert valid.all() and log["retries"] > 0


def test_an_abandoned_request_does_no_harm():
    with serving({"level": Level(0.5)}) as (url, server):
        asker = remote(url, attempt_s=0.2, request_s=0.2, batch_s=0.3)
        with pytest.warns(UserWarning, match="deadline|timeout"):
            assert not asker.score(np.zeros((1, 4, 4, 3), np.uint8), [["a"]]).valid.any()
        asker.close()
        assert post(url, wire.request([wire.encode(np.zeros((4, 4, 3), np.uint8))], [["a"]])).status_code == 200


@pytest.mark.parametrize(
    "flags, said",
    [
        ("--judge scene --host 0.0.0.0", "give --token-file FILE, or --open"),
        ("--judge scene --host 192.0.2.1 --open", "cannot listen at 192.0.2.1"),
        ("--judge scene --port 99999", "--port must be 0 to 65535"),
        ("--judge scene --batch 0", "must be at least 1"),
        ("--judge scnee", "Did you mean 'scene'"),
        ("--judge scene --token-file /none", "no such file"),
    ],
)
def test_commands_that_cannot_be(flags, said, capsys):
    with pytest.raises(SystemExit) as stop:
        serve.main(flags.split())
    assert stop.value.code == 2 and said in capsys.readouterr().err


def test_a_taken_port_is_said(capsys):
    with serving({"level": Level()}) as (url, _), pytest.raises(SystemExit):
        serve.main(["--judge", "scene", "--port", url.rpartition(":")[2]])
    assert "cannot listen" in capsys.readouterr().err


def test_scores_come_in_the_background():
    """begin returns at once, and two batches are under way at a time."""
    with serving({"level": Level(0.3)}) as (url, _):
        asker = remote(url)
        pending = [asker.begin(np.full((2, 4, 4, 3), level, np.uint8), [["a"], ["ab"]]) for level in (0, 255)]
        assert not any(p.future.done() for p in pending)
        first, second = (p.result() for p in pending)
        np.testing.assert_allclose([first.scores[:, 0], second.scores[:, 0]], [[0.1, 0.2], [1.1, 1.2]], rtol=1e-6)
        assert pending[0].result() is first and asker.take_log()["asked"] == 4
        before = threading.active_count()
        asker.close()
        assert threading.active_count() < before


@pytest.mark.nightly
def test_a_run_trains_on_a_judge_elsewhere(tmp_path):
    """The exact judge in the run's own process and behind a server give the same rewards."""
    with serving({"scene": rewards.make("scene")}) as (url, server):
        config = small_config()
        config.unlock()
        config.rewards, config.iterations, config.eval.every = ConfigDict({"scene": 0.5, "far": 0.5}), 1, 0
        config.judges.far = ConfigDict({"kind": "http", "endpoints": (url,)})
        loop.train(config, tmp_path)
    (record,) = [r for r in metrics.read(tmp_path) if "reward/scene" in r]
    pairs = {name: name.replace("scene", "far") for name in record if "scene" in name and "reward" in name}
    assert len(pairs) > 1 and server.answered > 0
    for near, far in pairs.items():
        np.testing.assert_allclose(record[near], record[far], rtol=1e-6, err_msg=near)

"""GenEval's checks on objects that a test knows, and metadata on its way from a file of prompts to a judge."""

import json

import numpy as np
import pytest

from mvgrpo_jax import evaluate, rewards
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.rewards.examples import geneval
from mvgrpo_jax.rewards.examples.geneval import Found, met, sides_of
from mvgrpo_jax.run import loop, metrics
from tests.runs import small_config


def at(name, x, y, confidence=0.95, color="", side=10):
    return Found(name, (x, y, x + side, y + side), confidence, color)


def asked(*include, **more):
    return {"include": list(include)} | more


DOG, CAT = {"class": "dog", "count": 1}, {"class": "cat", "count": 1}


@pytest.mark.parametrize(
    "record, found, want",
    [
        (asked(DOG), [at("dog", 0, 0)], [1]),
        (asked(DOG), [at("dog", 0, 0, 0.2), at("cat", 0, 0)], [0]),
        (asked(DOG, CAT), [at("cat", 0, 0)], [0, 1]),
        (asked(DOG | {"count": 3}), [at("dog", 0, 0)], [1 / 3]),
        (asked(DOG | {"color": "red"}), [at("dog", 0, 0, color="blue")], [0]),
        (asked(DOG | {"color": "red"}), [at("dog", 0, 0, color="blue"), at("dog", 9, 9, color="red")], [1]),
        # Two dogs, and not three: counting wants certainty.
        (asked(DOG | {"count": 2}, exclude=[{"class": "dog", "count": 3}], tag="counting"), [at("dog", 0, 0)] * 2, [1, 1]),
        (asked(DOG | {"count": 2}, exclude=[{"class": "dog", "count": 3}], tag="counting"), [at("dog", 0, 0)] * 3, [0.5, 0]),
        (asked(DOG | {"count": 2}, tag="counting"), [at("dog", 0, 0), at("dog", 0, 0, 0.5)], [0.5]),
        (asked(CAT, DOG | {"position": ["left of", 0]}), [at("cat", 50, 0), at("dog", 0, 0)], [1, 1]),
        (asked(CAT, DOG | {"position": ["right of", 0]}), [at("cat", 50, 0), at("dog", 0, 0)], [1, 0]),
        (asked(CAT, DOG | {"position": ["left of", 0]}), [at("dog", 0, 0)], [0, 0]),
    ],
)
def test_checks_by_hand(record, found, want):
    assert met(record, found) == pytest.approx(want)


def test_sides_by_hand():
    box = (0, 0, 10, 10)
    assert sides_of((40, 0, 50, 10), box) == {"right of"} and sides_of((0, -40, 10, -30), box) == {"above"}
    assert sides_of((40, 40, 50, 50), box) == {"right of", "below"}
    assert sides_of((2, 0, 12, 10), box) == set(), "2 pixels are within a tenth of both sizes"
    assert sides_of((2.1, 0, 12.1, 10), box) == {"right of"}


def test_scores_of_pictures(monkeypatch):
    monkeypatch.setattr(geneval, "detect", lambda image, record: [at("dog", 0, 0)] if image.any() else [])
    images = np.stack([np.full((4, 4, 3), 9, np.uint8), np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 3), np.uint8)])
    judge = rewards.make("g", {"kind": "function", "path": "mvgrpo_jax.rewards.examples.geneval:share"})
    rewards.tell({"g": judge}, {"a dog and a cat": asked(DOG, CAT)})
    scores, valid = judge.score(images, [["a dog and a cat", "whatever"]] * 2 + [["of no record", ""]])
    np.testing.assert_array_equal(scores[:2], [[0.5, 0.5], [0, 0]])
    np.testing.assert_array_equal(valid, [[True, True], [True, True], [False, False]])
    strict = rewards.make("g", {"kind": "function", "path": "mvgrpo_jax.rewards.examples.geneval:correct"})
    rewards.tell({"g": strict}, {"a dog and a cat": asked(DOG, CAT)})
    assert not strict.score(images[:1], [["a dog and a cat"]]).scores.any()


def test_without_a_detector(monkeypatch):
    monkeypatch.delenv(geneval.DETECTOR, raising=False)
    with pytest.raises(UserError, match="MVGRPO_DETECTOR is not set; set it to the folder of an object detector"):
        geneval.detect(np.zeros((4, 4, 3), np.uint8), asked(DOG))


MINE = """
def known(images, captions, records):
    return [[float(record.get("wanted", float("nan"))) for _ in row] for row, record in zip(captions, records)]
"""


@pytest.fixture
def files(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    lines = [{"prompt": f"a {color} circle", "wanted": i} for i, color in enumerate(("red", "blue", "green", "pink"))]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def test_an_evaluation_hands_metadata_to_the_judge(files):
    flags = ["--prompts", str(files / "prompts.jsonl"), "--judge", f"mine={files / 'mine.py'}:known", "--steps", "2"]
    evaluate.main(["--pipeline", "flux-nano", *flags, "--option", "mine.kind=function", "--out", str(files / "out")])
    summary = json.loads((files / "out" / "summary.json").read_text())
    assert summary["judges"]["mine"]["mean"] == 1.5 and summary["judges"]["mine"]["missing"] == 0


@pytest.mark.nightly
def test_a_run_hands_metadata_to_the_judge(files):
    config = small_config(iterations=1)
    config.prompts.train = config.prompts.eval = str(files / "prompts.jsonl")
    config.prompts.eval_count, config.eval.every = 4, 1
    with config.unlocked():
        config.rewards = {"scene": 1.0, "mine": 0.0}
        config.judges.mine = {"kind": "function", "path": f"{files / 'mine.py'}:known"}
    loop.train(config, files / "run")
    rows = metrics.read(files / "run")
    assert rows[0]["eval/mine"] == 1.5 and rows[0]["reward/mine"] in {i / 2 for i in range(1, 6)}

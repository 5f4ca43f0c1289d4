"""Several processes evaluate what one does, each its share, and end together when one of them fails."""

import json

import numpy as np
import pytest
from PIL import Image

from mvgrpo_jax import evaluate
from mvgrpo_jax.run import loop
from tests.processes import succeed, together
from tests.runs import small_config

START = "import sys\nARGUMENTS = sys.argv[4:]\n"  # the command itself joins the processes
RUN = """
from mvgrpo_jax import evaluate
processes = ["--coordinator", sys.argv[1], "--processes", sys.argv[2], "--process_id", sys.argv[3]]
evaluate.main([*ARGUMENTS, *processes])
"""
JUDGE = """
import jax


def red(images, captions):
    return [[float(i[..., 0].mean()) / 255] for i in images]


def broken(images, captions):
    if jax.process_index() == 1:
        raise ValueError("out of order")
    return red(images, captions)
"""


@pytest.mark.nightly
def test_two_processes_evaluate_as_one_and_go_on_as_three(random_pipeline, tmp_path):
    (tmp_path / "mine.py").write_text(JUDGE)
    (tmp_path / "prompts.txt").write_text("a cross\na red circle\ntwo squares\na star\na triangle\n")
    pipeline = str(random_pipeline("narrow"))
    common = ["--pipeline", pipeline, "--prompts", str(tmp_path / "prompts.txt"), "--steps", "2", "--batch", "2"]

    def flags(name, judge="red"):
        function = ["--judge", f"function={tmp_path}/mine.py:{judge}"]
        return [*common, *function, "--judge", "clip", "--against", pipeline, "--out", str(tmp_path / name)]

    def rows(name):
        return [json.loads(line) for line in (tmp_path / name / "scores.jsonl").read_text().splitlines()]

    def image(name, row):
        return np.asarray(Image.open(tmp_path / name / row["picture"])).astype(int)

    evaluate.main(flags("one"))
    first, second = succeed(together(RUN, *flags("two"), join=START))
    assert "page: " in first and second == ""
    parts = [p.name for p in sorted((tmp_path / "two" / "parts" / "looks").iterdir())]
    assert parts == ["0.jsonl", "1.jsonl"]
    lost = [tmp_path / "two" / rows("two")[i]["picture"] for i in (1, 2, 4)]
    for path in lost:
        path.unlink()
    succeed(together(RUN, *flags("two"), processes=3, join=START))
    assert all(path.exists() for path in lost)
    for a, b in zip(rows("one"), rows("two"), strict=True):
        assert np.abs(image("one", a) - image("two", b)).max() <= 1
        assert a["prompt"] == b["prompt"] and a["scores"] == pytest.approx(b["scores"], abs=2e-3)
    compared = json.loads((tmp_path / "two" / "summary.json").read_text())["against"]["judges"]["clip"]
    assert compared["pairs"] == 5 and abs(compared["difference"]["mean"]) < 2e-3

    ended = together(RUN, *flags("three", "broken"), join=START)
    assert any(code == 2 and "process 1: the function" in err and "out of order" in err for code, _, err in ended)


@pytest.mark.nightly
def test_two_processes_evaluate_the_weights_of_a_run(tmp_path):
    config = small_config(iterations=1)
    config.eval.every, config.checkpoint.every, config.optimizer.warmup = 0, 1, 0
    loop.train(config, tmp_path / "run")
    (tmp_path / "prompts.txt").write_text("a small red circle\na cross\na star on black\n")

    def flags(name):
        where = ["--workdir", str(tmp_path / "run"), "--prompts", str(tmp_path / "prompts.txt"), "--judge", "scene"]
        return [*where, "--steps", "2", "--batch", "2", "--against", "flux-nano", "--out", str(tmp_path / name)]

    evaluate.main(flags("one"))
    succeed(together(RUN, *flags("two"), join=START))
    one, two = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("one", "two"))
    assert two["judges"]["scene"]["mean"] == pytest.approx(one["judges"]["scene"]["mean"], abs=2e-3)
    compared = [found["against"]["judges"]["scene"]["difference"]["mean"] for found in (one, two)]
    assert compared[0] != 0 and compared[1] == pytest.approx(compared[0], abs=2e-3)

"""metrics.jsonl over stops and resumptions; TensorBoard's libraries there or not."""

import importlib.util
import json
import os

import pytest

from mvgrpo_jax.run import metrics
from tests import hiding


def rows(count):
    return [{"iteration": i, "loss": float(i)} for i in range(count)]


def begun(folder, count=6):
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows(count)) + '{"iteration": 6, "lo')
    return folder


def test_a_continued_run_drops_what_its_checkpoint_does_not_know(tmp_path):
    writer = metrics.Writer(begun(tmp_path), 4)
    assert metrics.read(tmp_path) == rows(4)
    writer.write(4, {"loss": float("nan")})
    writer.close()
    assert metrics.read(tmp_path) == [*rows(4), {"iteration": 4, "loss": None}]
    assert [p.name for p in tmp_path.iterdir() if "metrics" in p.name] == ["metrics.jsonl"]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("place", ["in the third line", "before the new file takes its place"])
def test_a_stop_while_the_history_is_rewritten_loses_none_of_it(tmp_path, monkeypatch, place):
    begun(tmp_path)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    real, written = json.dumps, []

    def dumps(row):
        written.append(row)
        if len(written) == 3:
            raise Killed
        return real(row)

    def replace(*args):
        raise Killed

    if place == "in the third line":
        monkeypatch.setattr(metrics.json, "dumps", dumps)
    else:
        monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(Killed):
        metrics.Writer(tmp_path, 4)
    monkeypatch.undo()
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    metrics.Writer(tmp_path, 4).close()  # and the same command goes on
    assert metrics.read(tmp_path) == rows(4)


WRITE = """
import sys
from pathlib import Path
from configs import common
from mvgrpo_jax.run import trackers
from mvgrpo_jax.run.metrics import Writer
workdir = Path(sys.argv[1])
writer, tracked = Writer(workdir, 0), trackers.begin(common.get_config(), workdir)
for i in range(3):
    for one in (writer.write, tracked.numbers):
        one(i, {"reward": i / 2, "gone": float("nan")})
writer.close()
tracked.close()
"""


@pytest.mark.skipif(not importlib.util.find_spec("tensorflow"), reason="there is no TensorFlow for this Python")
@pytest.mark.parametrize(
    "hidden", ["tensorflow", *(pytest.param(name, marks=pytest.mark.nightly) for name in ("", "tensorboard"))]
)
def test_without_tensorboard_one_warning_and_every_number(tmp_path, hidden):
    workdir = tmp_path / "run"
    workdir.mkdir()
    done = hiding.run(["-c", WRITE, str(workdir)], tmp_path, hidden)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert rows == [{"iteration": i, "reward": i / 2, "gone": None} for i in range(3)]
    if hidden:
        assert done.stderr.count("\n") == 1 and not (workdir / "tensorboard").exists()
        assert f"warning: TensorBoard files are off (No module named '{hidden}" in done.stderr
        assert "pip install 'mvgrpo_jax[tensorboard]'" in done.stderr
    else:
        assert done.stderr == ""  # TensorFlow's notes among them
        assert list((workdir / "tensorboard").iterdir())

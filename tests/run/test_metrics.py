"""Numbers of a run with TensorBoard's libraries and without."""

import importlib.util
import json

import pytest

from tests import hiding

WRITE = """
import sys
from pathlib import Path
from mvgrpo_jax.run.metrics import Writer
writer = Writer(Path(sys.argv[1]), 0)
for i in range(3):
    writer.write(i, {"reward": i / 2, "gone": float("nan")})
writer.close()
"""


@pytest.mark.skipif(not importlib.util.find_spec("tensorflow"), reason="there is no TensorFlow for this Python")
@pytest.mark.parametrize("hidden", ["", "tensorflow", "tensorboard"])
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

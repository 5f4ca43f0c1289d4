"""What a run has on its disk at the fullest, against what is said before it begins."""

import errno
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.run import build, disk, loop, metrics
from tests.processes import ROOT
from tests.runs import small_config


def small(**changes):
    config = small_config(iterations=3, group_size=2)
    config.checkpoint.every, config.checkpoint.keep, config.log.images_every = 1, 1, 1
    config.update_from_flattened_dict(changes)
    return config


class Watched:
    """The most that was in folders of a workdir at a time, looked at every few milliseconds."""

    def __init__(self, workdir: Path):
        self.workdir, self.most, self.closed = workdir, {}, threading.Event()
        self.thread = threading.Thread(target=self._look)

    def _look(self):
        while not self.closed.wait(0.01):
            for name in ("checkpoints", "best", "eval", "samples", "pipeline", "exports", "lora", "."):
                self.most[name] = max(self.most.get(name, 0), disk.used(self.workdir / name))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.closed.set()
        self.thread.join()


@pytest.mark.nightly
@pytest.mark.parametrize(
    "changes, least",
    [
        ({}, 0.5),
        ({"lora.rank": 4, "ema.decay": 0.0, "export.at_checkpoints": True, "checkpoint.keep": 2, "eval.every": 1}, 0.1),
    ],
    ids=["whole", "adapters"],
)
def test_a_run_stays_below_what_was_said_and_not_far_below(tmp_path, changes, least):
    """least: the share of it that is there. Of small adapters what stands beside the arrays is the larger part."""
    config = small(**changes)
    outlined = build.outline(config)
    outlined.close()
    said = outlined.on_disk
    with Watched(tmp_path) as found:
        loop.train(config, tmp_path)
    assert least * said["checkpoints"] < found.most["checkpoints"] <= said["checkpoints"]
    assert found.most["best"] <= said["best"] and found.most["eval"] <= said["evaluations"]
    assert found.most["samples"] <= said["samples"]
    written = sum(found.most[name] for name in ("pipeline", "exports", "lora"))
    assert least * said["exports"] < written <= said["exports"]
    assert found.most["."] <= sum(said.values())
    assert f"disk: at most {sum(said.values()) / disk.GIB:.3g} GiB (checkpoints" in outlined.describe()


def test_a_disk_that_is_too_small_is_told_before(tmp_path, monkeypatch):
    (tmp_path / "old").write_bytes(b"x" * 1000)
    usage = disk.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: usage._replace(free=5000))
    with pytest.warns(UserWarning, match="may need .* GiB more, .* GiB are free; lower config.checkpoint.keep"):
        disk.warn_if_short({"checkpoints": 6001}, tmp_path)
    with warnings.catch_warnings(action="error"):
        disk.warn_if_short({"checkpoints": 6000}, tmp_path)  # 1000 of them are there


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_a_message(tmp_path, number):
    with pytest.raises(
        UserError, match=r"metrics.jsonl: could not be written \(.*\); free some space and run the same command"
    ):
        with disk.explained(tmp_path):
            raise OSError(number, os.strerror(number), str(tmp_path / "metrics.jsonl"))
    with pytest.raises(PermissionError), disk.explained(tmp_path):
        raise PermissionError(errno.EACCES, "no")


FULL = """
import resource, sys
from mvgrpo_jax.run import disk, metrics
from mvgrpo_jax.errors import reports_errors
from pathlib import Path
workdir = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
def work():
    with disk.explained(workdir):
        writer = metrics.Writer(workdir, 0)
        for number in range(100_000):
            writer.write(number, {"loss": number / 3})
reports_errors(work)()
"""


def test_a_real_bound_on_a_file_while_the_numbers_are_written(tmp_path):
    """A line that was cut off is passed over, and those before it are there."""
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "free some space" in done.stderr and "Traceback" not in done.stderr, done.stderr
    rows = metrics.read(tmp_path)
    assert [row["iteration"] for row in rows] == list(range(len(rows))) and 100 < len(rows) < 1000

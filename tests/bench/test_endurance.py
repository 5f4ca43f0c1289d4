"""The bench of a long run: what it calls a failure, and a short run of it."""

import json
import subprocess
import sys

import pytest

from bench import endurance
from tests.processes import ROOT

MIB = 2**20


def series(count=40, **changes):
    """Iterations of a run with nothing wrong; changes: name -> value by iteration."""
    good = {"own": lambda i: 800 * MIB, "live": lambda i: 30 * MIB, "compiled": lambda i: ["update"] * (i < 2)}
    return [{"iteration": i} | {name: value(i) for name, value in (good | changes).items()} for i in range(count)]


LOOKS = [{"disk": 10 * MIB, "lines": n, "whole": True} for n in range(5)]


@pytest.mark.parametrize(
    "rows, looks, words",
    [
        (series(), LOOKS, []),
        (series(own=lambda i: (800 + 2 * i) * MIB), LOOKS, ["own grew from"]),
        (series(own=lambda i: (800 + 10 * (i % 2)) * MIB), LOOKS, []),
        (series(live=lambda i: (30 + 0.1 * i) * MIB), LOOKS, ["live grew from"]),
        (series(compiled=lambda i: ["decode"] * (i == 30)), LOOKS, ["compiled after 10 iterations: {30: ['decode']}"]),
        (series(), [*LOOKS, LOOKS[0] | {"disk": 60 * MIB, "lines": 9}], ["60.0 MiB on the disk, 50.0 were said"]),
        (series(), [*LOOKS, LOOKS[0]], ["metrics.jsonl lost lines"]),
        (series(), [*LOOKS, LOOKS[-1] | {"whole": False}], ["metrics.jsonl lost lines"]),
    ],
)
def test_what_is_wrong_is_found(rows, looks, words):
    found = endurance.failures(rows, looks, 50 * MIB, 10)
    assert len(found) == len(words) and all(text.startswith(word) for text, word in zip(found, words)), found


@pytest.mark.nightly
def test_a_short_run(tmp_path):
    # Each checkpoint, evaluation and sheet of samples enlarges glibc's arenas, the eighth by no more than a few MiB.
    flags = ["--iterations", "80", "--warm", "41", "--every", "5", "--out", str(tmp_path / "run"), "--docs", str(tmp_path)]
    done = subprocess.run([sys.executable, "bench/endurance.py", *flags], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    facts = json.loads((tmp_path / "bench" / "endurance.json").read_text())
    assert facts["iterations"] == 80 and facts["failures"] == [] and facts["readings of metrics.jsonl"] > 0
    assert (tmp_path / "images" / "endurance.png").stat().st_size > 10_000

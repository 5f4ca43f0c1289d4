"""The bench that strikes runs: its pieces, and one short chain of each kind."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from bench import chaos_faults, chaos_job, chaos_report, chaos_starts
from tests.processes import ROOT


@pytest.fixture
def checkpoint(tmp_path):
    """A folder with files of a checkpoint's names."""
    folder = tmp_path / "4"
    for name, size in (("state/d/a", 5000), ("state/manifest.ocdbt", 300), ("data/metadata", 40), ("files.json", 200)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(np.random.default_rng(size).bytes(size))
    return folder


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("how", chaos_faults.DAMAGES)
def test_every_damage_changes_one_thing(checkpoint, how):
    before = contents(checkpoint)
    words = chaos_faults.damage(checkpoint, how, np.random.default_rng(1))
    after = contents(checkpoint)
    changed = {name for name in before if before[name] != after.get(name)}
    if how == "no state":
        assert changed == {"state/d/a", "state/manifest.ocdbt"} and words == "state deleted"
        return
    (name,) = changed
    assert words == f"{name} {how}"
    if how == "one bit":
        bits = np.unpackbits(np.frombuffer(before[name], np.uint8)) != np.unpackbits(np.frombuffer(after[name], np.uint8))
        assert bits.sum() == 1
    elif how == "64 bytes":
        assert len(after[name]) == len(before[name])
    elif how == "deleted":
        assert name not in after
    else:
        assert before[name].startswith(after[name]) and len(after[name]) < len(before[name])


def test_a_disk_fills_up_and_is_cleared():
    disk = chaos_faults.Disk(4 * 2**20)
    try:
        writer = [sys.executable, "-c", "import sys; sys.stdin.read(1); open(sys.argv[1], 'wb').write(b'x' * 2**20)"]
        for full in (True, False):
            process = subprocess.Popen([*writer, str(disk.folder / "file")], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
            if full:
                disk.fill(process, 4096)
            process.communicate(b"x")
            assert (process.returncode != 0) is full
            disk.clear()
    finally:
        disk.close()
    assert not disk.folder.exists()


def test_lengths_of_places_and_what_was_said():
    marks = [("rollout", 0.0), ("judge", 1.0), ("update", 1.5), ("checkpoint", 2.0), ("rollout", 2.5), ("seal", 3.0)]
    started = chaos_starts.Started([-9, 75], ["", "mvgrpo: 0%| 0/6 [?it/s]\nprocess 0 died\n"], 2, [marks, marks[:2]])
    assert chaos_starts.lengths(started) == {
        **{"rollout": (1.0 + 0.5) / 2, "judge": 0.5, "update": 0.5},
        **{"checkpoint": 1.0, "seal": 1.0},
    }
    assert started.updates == 3 and not started.finished
    assert [started.said(i) for i in (0, 1)] == ["", "process 0 died"]


def test_the_table_counts():
    same = {"state": True, "export": True}
    row = {
        "kind": "kill",
        "processes": 2,
        "place": "judge",
        "seed": 0,
        "iterations": 6,
        "same": same,
        "said": ["process 0 died"],
    }
    blows = [
        row | {"chain": 0, "delay_s": 0.1, "statuses": [-9, 75], "began": 0, "updates": 3},
        row | {"chain": 0, "delay_s": 0.1, "statuses": [-9, 1], "began": 2, "updates": 4, "said": [""]},
        row | {"chain": 1, "delay_s": 0.0, "statuses": [0, 0], "began": 0, "updates": 6, "same": same | {"state": False}},
    ]
    (found,) = chaos_report.summary(blows)
    assert found["blows"] == 2 and found["statuses"] == {"-9": 2, "1": 1, "75": 1}
    assert (found["runs"], found["bit for bit"]) == (2, 1)
    assert (found["trained again at most"], found["without a message"], found["not meant"]) == (1, 1, 1)
    assert "| SIGKILL | 2 | 2 | 2 x -9, 1 x 1, 1 x 75 | 1 | 1 | 2 | 1 |" in chaos_report.table(blows)


@pytest.mark.nightly
@pytest.mark.parametrize("kind, processes", [("kill", 1), ("kill", 2), ("term", 2), ("damage", 1), ("disk", 1), ("server", 1)])
def test_a_short_chain_ends_bit_for_bit(tmp_path, kind, processes):
    counts = {f"--{name}s": 2 if name == kind else 0 for name in ("kill", "term", "damage", "disk", "server")}
    flags = [word for pair in counts.items() for word in map(str, pair)]
    command = [sys.executable, "bench/chaos.py", "--out", str(tmp_path), "--processes", str(processes), "--iterations", "3"]
    done = subprocess.run([*command, *flags], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    blows = [json.loads(line) for line in (tmp_path / "blows.jsonl").read_text().splitlines()]
    assert all(all(blow["same"].values()) for blow in blows) and any(blow["delay_s"] > 0 for blow in blows), blows
    assert not any(row["not meant"] or row["without a message"] for row in chaos_report.summary(blows)), blows
    shutil.rmtree(tmp_path)


def test_places_are_those_that_a_run_marks():
    text = (ROOT / "bench" / "chaos_job.py").read_text()
    assert all(f'"{place}")' in text for place in chaos_job.PLACES)

"""Medians of rounds, and ratios within them."""

import json

import pytest

from bench import nano_iteration, timing


def test_ratios_are_those_of_the_rounds(tmp_path, monkeypatch, capsys):
    seconds = {
        ("now", 12): [2.0, 4.0, 3.0],
        ("now", 0): [1.0, 2.0, 2.0],
        ("old", 12): [5.0, 6.0, 6.0],
        ("old", 0): [2.0, 2.0, 3.0],
    }
    begun = {key: iter(values) for key, values in seconds.items()}

    def measure(tree, flags, iterations, workdir):
        value = next(begun["old" if tree.name == "old" else "now", flags["views.count"]])
        return [{"time/iteration": value, "time/idle": 0.1}, {"time/iteration": value}]

    monkeypatch.setattr(nano_iteration, "measure", measure)
    monkeypatch.setattr(nano_iteration, "tree_of", lambda commit, work: work / commit)
    monkeypatch.setattr(timing, "begin", lambda: None)
    out = tmp_path / "out.json"
    words = ["--case", "K = 12", "--case", "K = 0", "--against", "old", "--work", str(tmp_path), "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["nano_iteration.py", *words])
    nano_iteration.main()
    found = json.loads(out.read_text())["nano_iteration"]
    assert found["cases"]["K = 12"] == {
        "now": {"seconds": 3.0, "idle": 0.1},
        "old": {"seconds": 6.0, "idle": 0.1, "ratio": pytest.approx(2.0)},
    }
    assert found["views"] == {"now": 2.0, "old": 2.5}
    assert "| K = 0 | old | 2.00 | 10.0 | 1.50 |" in capsys.readouterr().out

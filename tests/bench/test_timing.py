"""Timing of peers: order, warm-up, bounds, ratios by round, how much others used, and the record."""

import json
import subprocess
import sys
import time

import pytest

from bench import timing


def test_arms_take_turns_and_the_warm_round_does_not_count():
    order = []
    arms = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    seconds = timing.interleaved(arms, rounds=3, warm=2)
    assert order == ["a", "b"] * 5
    assert {name: len(found) for name, found in seconds.items()} == {"a": 3, "b": 3}


def test_no_round_begins_after_the_bound_and_one_is_always_measured():
    assert len(timing.interleaved({"a": lambda: None}, rounds=1000, most=0.0)["a"]) == 1


def test_a_ratio_is_of_rounds_not_of_medians():
    """The disturbance doubles both arms of a round, so that the rounds' ratios stay 3."""
    ours = [1.0, 2.0, 1.0, 4.0, 1.0]
    assert timing.ratio([3.0 * x for x in ours], ours) == 3.0
    assert timing.ratio([1.0, 4.0, 9.0], [1.0, 2.0, 3.0]) == 2.0
    assert timing.total({"a": [1.0, 2.0], "b": [10.0, 20.0], "c": [0.0, 0.0]}, "a", "b") == [11.0, 22.0]


def test_what_others_use_is_told_from_what_this_process_uses(monkeypatch):
    own, busy = iter([5.0, 8.0]), iter([100.0, 104.0])
    monkeypatch.setattr(timing, "_own", lambda: next(own))
    monkeypatch.setattr(timing, "_busy", lambda: next(busy))
    monkeypatch.setattr(timing.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(timing.time, "perf_counter", iter([10.0, 12.0]).__next__)
    with timing.Disturbance() as others:
        pass
    assert others.share == pytest.approx((4.0 - 3.0) / (2.0 * 2))


def test_a_busy_neighbour_is_seen():
    spin = subprocess.Popen([sys.executable, "-c", "import time\nend = time.time() + 1.5\nwhile time.time() < end: pass"])
    with timing.Disturbance() as others:
        time.sleep(0.8)
    spin.kill()
    spin.wait()
    assert others.share > 0.1 / timing.os.cpu_count()


def test_a_record_keeps_what_is_there_and_says_when_it_was_disturbed(tmp_path):
    path = tmp_path / "bench" / "x.json"
    timing.record(path, "one", {"seconds": 1.0}, share=0.0)
    timing.record(path, "two", {"seconds": 2.0}, share=0.4)
    rows = json.loads(path.read_text())
    assert [rows[n]["seconds"] for n in ("one", "two")] == [1.0, 2.0]
    assert [rows[n]["disturbed"] for n in ("one", "two")] == [False, True]
    assert rows["one"]["machine"]["processors"] == timing.os.cpu_count() and rows["one"]["command"].startswith("python ")


def test_a_table():
    assert timing.table(("a", "b"), [("x", 1.23456), ("y", 7)]).splitlines() == [
        "| a | b |",
        "| --- | --- |",
        "| x | 1.23 |",
        "| y | 7 |",
    ]

"""The bench of waiting: its closed form by hand, and that its simulated servers are waited for."""

from types import SimpleNamespace

import numpy as np
import pytest

from bench import pipeline


def test_the_bound_by_hand():
    """Rollout 10, update 2, answers after 6: 4 are waited for, of 16 in all. Answers within the update cost nothing."""
    assert pipeline.bound(10.0, 2.0, 5.0, 1.0) == pytest.approx(4 / 16)
    assert pipeline.bound(10.0, 2.0, 1.0, 0.5) == 0.0


def test_times_are_log_normal_about_their_median():
    drawn = np.log([pipeline.seconds(0.2, seed) for seed in range(2000)])
    assert np.median(drawn) == pytest.approx(np.log(0.2), abs=0.02) and drawn.std() == pytest.approx(pipeline.SIGMA, rel=0.05)


def test_the_longest_of_many():
    drawn = np.exp(pipeline.SIGMA * np.random.default_rng(0).standard_normal((20_000, 24))).max(1)
    assert pipeline.last_of(24) == pytest.approx(np.median(drawn), rel=0.01) and pipeline.last_of(1) == pytest.approx(1.0)


def test_the_table():
    row = {"latency": 0.5, "way": "ahead", "seconds": 1.5, "idle": 0.012, "ratio": 1.3, "bound": 0.2}
    assert pipeline.table([row]).splitlines()[-1] == "| 0.5 | ahead | 1.50 | 1.2 | 1.30 | 20.0 |"


@pytest.mark.nightly
def test_devices_wait_for_slow_answers_unless_they_draw_ahead():
    """Captions take a second, programs a few hundredths: serial, the devices wait for most of an iteration."""
    options = SimpleNamespace(iterations=3, prompts=2, group=2, steps=4, trained=[0, 1])
    serial = pipeline.measure("serial", 1.0, 0.1, options)
    assert len(serial) == 2 and all(row["whole"] > 0.8 and row["time/idle"] > 0.3 for row in serial)
    ahead = pipeline.measure("ahead", 1.0, 0.1, options)
    assert all(row["rollout"] > 0 and row["update"] > 0 for row in serial + ahead)
    assert np.mean([row["whole"] for row in ahead]) <= np.mean([row["whole"] for row in serial]) + 0.2

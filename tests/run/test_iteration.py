"""What is logged of an iteration."""

from types import SimpleNamespace

import numpy as np

from mvgrpo_jax.run import iteration


def test_groups_without_a_signal_are_counted_by_the_rule_of_the_advantage():
    """Two views of two prompts: rewards near 1000 that differ by one step of float32 give no advantage, those that differ by 1
    do, and the group of a missing caption is not counted: 1 of 3."""
    values = np.float32([[[[1000.0, 1000.00006]], [[1000.0, 1001.0]]], [[[0.0, 1.0]], [[0.0, 0.0]]]])
    active = np.array([[[True], [True]], [[True], [False]]])
    algorithm = SimpleNamespace(graph=SimpleNamespace(moving=False))
    run = SimpleNamespace(programs=SimpleNamespace(algorithm=algorithm), weights={"clip": 1.0}, enhancer=None)
    scores = iteration.Scores({"clip": values}, active, {"clip": 0.0}, {"clip": 1.0}, {"clip": 0}, 0, {}, 0.0)
    log = iteration.summarise(run, 0, scores, {})
    assert abs(log["zero_std/clip"] - 1 / 3) < 1e-6
    assert log["views/active"] == 1.5

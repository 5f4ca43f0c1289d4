"""Metrics against sums by hand, also when a scan has stacked them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvgrpo_jax.core.reductions import Max, Mean, Min


def test_a_mean_is_weighted_over_everything():
    values, weight = np.array([[1.0, 2.0], [3.0, 10.0]], np.float32), np.array([[1.0, 0.0], [2.0, 0.5]], np.float32)
    mean = Mean.of(values).weighted(weight).reduce()
    assert mean.value() == pytest.approx((1 + 6 + 5) / 3.5)


def test_steps_of_a_scan_join_by_their_weights_and_not_by_their_number():
    def step(carry, x):
        value, weight = x
        return carry, {"mean": Mean.of(value).weighted(weight), "min": Min(value), "max": Max(value)}

    values, weights = jnp.array([2.0, -4.0, 9.0]), jnp.array([1.0, 3.0, 0.0])
    _, stacked = jax.lax.scan(step, 0, (values, weights))
    found = {name: float(metric.reduce().value()) for name, metric in stacked.items()}
    assert found == {"mean": pytest.approx((2 - 12) / 4), "min": -4.0, "max": 9.0}


def test_weights_leave_extremes_alone():
    assert Min(jnp.array([3.0, -1.0])).weighted(jnp.array([1.0, 0.0])).reduce().value() == -1.0
    assert Max(jnp.array([3.0, -1.0])).weighted(jnp.array([0.0, 1.0])).reduce().value() == 3.0

"""Advantages by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from mvgrpo_jax.core import advantages

REWARD = jnp.asarray([[1.0, 2.0, 3.0, 6.0], [0.1, 0.1, 0.1, 0.1]])


def test_group_advantage_by_hand():
    # mean 3, deviations -2 -1 0 3: squares sum to 14; unbiased variance 14/3, population 14/4
    got = advantages.group_advantage(REWARD[:1])
    np.testing.assert_allclose(got, np.array([[-2, -1, 0, 3]]) / np.sqrt(14 / 3), rtol=1e-6)
    got = advantages.group_advantage(REWARD[:1], ddof=0, eps=1e-4)
    np.testing.assert_allclose(got, np.array([[-2, -1, 0, 3]]) / (np.sqrt(3.5) + 1e-4), rtol=1e-6)


def test_advantage_is_bounded():
    reward = jnp.zeros((1, 64)).at[0, 0].set(1.0)
    got = advantages.group_advantage(reward, bound=5.0)
    assert got[0, 0] == 5.0 and got.min() > -1.0


def test_equal_rewards_give_exactly_nothing():
    """0.1 has no exact float: its mean differs from it by rounding, which a division by the deviation would blow up."""
    for value in (0.1, 0.3, 1e-9, 123.456, 0.0):
        got = advantages.group_advantage(jnp.full((3, 12), value))
        np.testing.assert_array_equal(got, 0.0)


def test_combining_before_or_after_normalising():
    a, b = jnp.asarray([[0.0, 1.0]]), jnp.asarray([[30.0, 10.0]])
    weights = {"a": 1.0, "b": 0.5}
    after = advantages.combine({"a": a, "b": b}, weights, "advantages")
    unit = np.sqrt(0.5)  # two values: each is 1/sqrt(2) unbiased deviations from the mean
    np.testing.assert_allclose(after, [[-unit + 0.5 * unit, unit - 0.5 * unit]], rtol=1e-5)
    before = advantages.combine({"a": a, "b": b}, weights, "rewards")  # 15 against 6: the first is better
    np.testing.assert_allclose(before, [[unit, -unit]], rtol=1e-5)
    with pytest.raises(ValueError, match="advantages, rewards"):
        advantages.combine({"a": a}, weights, "mean")


def test_one_deviation_for_the_batch():
    got = advantages.group_advantage(REWARD[:1], deviation=jnp.asarray([[2.0]]), eps=0.0)
    np.testing.assert_allclose(got, [[-1.0, -0.5, 0.0, 1.5]])

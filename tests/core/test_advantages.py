"""Advantages by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from mvgrpo_jax.core import advantages
from mvgrpo_jax.core.graph import tree

THERE = jnp.ones((1,), bool)
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
    after = advantages.combine({"a": a, "b": b}, weights, "advantages", THERE)
    unit = np.sqrt(0.5)  # two values: each is 1/sqrt(2) unbiased deviations from the mean
    np.testing.assert_allclose(after, [[-unit + 0.5 * unit, unit - 0.5 * unit]], rtol=1e-5)
    before = advantages.combine({"a": a, "b": b}, weights, "rewards", THERE)  # 15 against 6: the first is better
    np.testing.assert_allclose(before, [[unit, -unit]], rtol=1e-5)
    with pytest.raises(ValueError, match="advantages, rewards"):
        advantages.combine({"a": a}, weights, "mean", THERE)


def test_one_deviation_for_the_batch():
    got = advantages.group_advantage(REWARD[:1], deviation=jnp.asarray([[2.0]]), eps=0.0)
    np.testing.assert_allclose(got, [[-1.0, -0.5, 0.0, 1.5]])


def test_a_deviation_of_the_batch_leaves_out_missing_views():
    """View 0 of two prompts and two samples is 1, 3 and 5, 7: mean 4, squares 9 + 1 + 1 + 9, deviation sqrt(5). Of view 1 the
    second caption is missing: of 2 and 6 the deviation is 2, with the zeros it would be sqrt(6). View 2 has none at all."""
    reward = jnp.asarray([[[[1.0, 3.0]], [[5.0, 7.0]]], [[[2.0, 6.0]], [[0.0, 0.0]]], [[[0.0, 0.0]], [[0.0, 0.0]]]])
    active = jnp.asarray([[[True], [True]], [[True], [False]], [[False], [False]]])
    got = advantages.batch_deviation(reward, active)
    assert got.shape == (3, 1, 1, 1)
    np.testing.assert_allclose(got.reshape(-1), [np.sqrt(5.0), 2.0, 0.0], rtol=1e-6)
    np.testing.assert_allclose(advantages.batch_deviation(reward, active | True)[1].item(), np.sqrt(6.0), rtol=1e-6)
    # of 2 and 6 the unbiased advantages are -+ 1 / sqrt(2), whose population deviation is 1 / sqrt(2) again
    whitened = advantages.combine({"a": reward}, {"a": 1.0}, "whitened", active)
    np.testing.assert_allclose(whitened[1, 0, 0], [-1.0, 1.0], rtol=2e-4)
    np.testing.assert_array_equal(whitened[2], 0.0)


def test_flatness_is_the_same_on_the_host():
    """Rewards near 1000 that differ by 1e-4 are equal in float32; near 1 they are not."""
    reward = np.float32([[1000.0, 1000.0001], [1.0, 1.0001], [1e-7, 2e-7]])
    for values in (reward, jnp.asarray(reward)):
        np.testing.assert_array_equal(advantages.is_flat(values), [True, False, True])


def test_missing_rewards_leave_a_group_of_the_others():
    """Of 1, 2, -, 6, 3 and of -, 4, -, -, -: the first group's are those of 1, 2, 6, 3, the second has nothing to compare."""
    nan = np.nan
    reward = jnp.asarray([[1.0, 2.0, nan, 6.0, 3.0], [nan, 4.0, nan, nan, nan]])
    got = advantages.group_advantage(reward)
    np.testing.assert_allclose(got[0], np.array([-2, -1, nan, 3, 0]) / np.sqrt(14 / 3), rtol=1e-6)
    assert np.isnan(got[1]).all()
    equal = advantages.group_advantage(jnp.asarray([[0.1, nan, 0.1]]))
    np.testing.assert_array_equal(equal, [[0.0, nan, 0.0]])
    for values in (np.asarray(reward), reward, np.full((2, 3), nan)):
        np.testing.assert_array_equal(advantages.is_flat(values), [False, True] if values.shape[1] == 5 else [True, True])


def test_missing_rewards_in_a_mix():
    """Advantages are summed over the judges that could tell, raw rewards only where all could."""
    nan, unit = np.nan, np.sqrt(0.5)
    a, b = jnp.asarray([[[[0.0, 1.0, nan]]]]), jnp.asarray([[[[nan, 3.0, 5.0]]]])
    there, weights = jnp.ones((1, 1, 1), bool), {"a": 1.0, "b": 0.5}
    got = advantages.combine({"a": a, "b": b}, weights, "advantages", there)
    np.testing.assert_allclose(got[0, 0], [[-unit, unit - 0.5 * unit, 0.5 * unit]], rtol=1e-5)
    assert np.isnan(advantages.combine({"a": a, "b": b}, weights, "rewards", there)).all()  # one sample has both
    whitened = advantages.combine({"a": a, "b": a}, weights, "whitened", there)
    np.testing.assert_allclose(whitened[0, 0], [[-1.0, 1.0, nan]], rtol=2e-4)
    deviation = advantages.batch_deviation(jnp.asarray([[[[1.0, nan, 5.0]]]]), there)
    assert deviation.item() == 2.0


def test_missing_rewards_in_a_tree():
    """Two leaves below each of two nodes: 1 and -, 3 and 5. The nodes have 1 and 4, which are 1/sqrt(2) deviations apart."""
    graph = tree(4, (0, 1), (2, 2), trained=(0, 1))
    reward = jnp.asarray([[[[1.0, np.nan, 3.0, 5.0]]], [[[4.0, 2.0, 0.0, 0.0]]]])
    both = advantages.tree_advantage(reward, jnp.zeros((1, graph.blocks, graph.group)), graph)
    edges = both[0].reshape(-1)
    np.testing.assert_allclose(both[1].reshape(-1)[:2], [np.sqrt(0.5), -np.sqrt(0.5)], rtol=1e-6)
    np.testing.assert_allclose(edges[:2], [-np.sqrt(0.5), np.sqrt(0.5)], rtol=1e-6)
    np.testing.assert_allclose(edges[2:6], (np.array([1.0, np.nan, 3.0, 5.0]) - 3.0) / 2.0, rtol=1e-6)

"""Advantages: arrays of rewards in, arrays of the same shape out. The last axis is the group.

A reward that a judge could not give is not-a-number: it is left out of its group's mean and deviation, and its advantage is
not-a-number too, as is every one of a group with fewer than two rewards. Whoever trains gives those no weight.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from mvgrpo_jax.core.graph import RolloutGraph
from mvgrpo_jax.core.rollout import in_blocks

# Rewards of a group that differ by less than rounding are equal: dividing by their deviation would amplify noise.
FLAT = 1e-6
# How several rewards become one advantage; see combine.
COMBINE = ("advantages", "rewards", "whitened")


def is_flat(reward: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
    """Whether a group's rewards are equal up to float32 rounding: bool [...] for rewards [..., G], on the host or a device. A
    group without any is."""
    xp = np if isinstance(reward, np.ndarray) else jnp
    there = ~xp.isnan(reward)
    high, low = xp.where(there, reward, -xp.inf).max(-1), xp.where(there, reward, xp.inf).min(-1)
    return ~(high - low > FLAT * xp.where(there, abs(reward), 0.0).max(-1).clip(min=1.0))


def total(values: jax.Array, axis: int = 0) -> jax.Array:
    """The sum over an axis of what is there; not-a-number where nothing is."""
    there = ~jnp.isnan(values)
    return jnp.where(there.any(axis), jnp.where(there, values, 0.0).sum(axis), jnp.nan)


def group_advantage(
    reward: jax.Array, *, ddof: int = 1, eps: float = 1e-8, bound: float = 5.0, deviation: jax.Array | None = None
) -> jax.Array:
    """A_i = (r_i - mean_G r) / (std_G r + eps), clipped to [-bound, bound]; zero for a group of equal rewards.

    reward: [..., G]. ddof 1 is the unbiased deviation (MV-GRPO's authors' code), 0 the population's (Flow-GRPO).
    deviation: replaces the group's own, e.g. one of the whole batch; broadcast against [..., 1].
    """
    reward = reward.astype(jnp.float32)
    there = ~jnp.isnan(reward)
    count = there.sum(-1, keepdims=True)
    mean = jnp.where(there, reward, 0.0).sum(-1, keepdims=True) / jnp.maximum(count, 1)
    centred = jnp.where(there, reward - mean, 0.0)
    if deviation is None:
        deviation = jnp.sqrt((centred**2).sum(-1, keepdims=True) / jnp.maximum(count - ddof, 1))
    advantage = jnp.clip(centred / (deviation + eps), -bound, bound)
    advantage = jnp.where(is_flat(reward)[..., None], 0.0, advantage)
    return jnp.where(there & (count > 1), advantage, jnp.nan)


def batch_deviation(reward: jax.Array, active: jax.Array) -> jax.Array:
    """One population deviation of each view's rewards [V, P, R, ...], shaped to replace the groups' own.

    active: bool [V, P, R], or [V, P, 1] for rewards by block: False where a caption is missing, whose groups do not count. 0
    for a view without any.
    """
    axes = tuple(range(1, reward.ndim))
    there = active.reshape(*active.shape, *[1] * (reward.ndim - active.ndim)) & ~jnp.isnan(reward)
    count = jnp.maximum(there.sum(axes, keepdims=True), 1)
    centred = jnp.where(there, reward - jnp.where(there, reward, 0.0).sum(axes, keepdims=True) / count, 0.0)
    return jnp.sqrt((centred**2).sum(axes, keepdims=True) / count)


def combine(
    rewards: dict[str, jax.Array],
    weights: dict[str, float],
    method: str,
    active: jax.Array,
    advantage: Callable[[jax.Array], jax.Array] = group_advantage,
) -> jax.Array:
    """One advantage [V, P, R, ...] from several rewards; active: as of `batch_deviation`.

    method 'advantages': each reward is normalised, then weighted and summed (MixGRPO's advantage_aggr); 'rewards': the raw
    rewards are weighted and summed, then normalised (Flow-GRPO); 'whitened': as 'advantages', then divided by the deviation
    of the whole batch (Flow-Factory's gdpo). Where some of a sample's rewards are missing, advantages are summed without them;
    raw rewards are summed only where all are there.
    """
    if method in ("advantages", "whitened"):
        mixed = total(jnp.stack([weights[name] * advantage(r) for name, r in rewards.items()]))
        return mixed / (batch_deviation(mixed, active) + 1e-4) if method == "whitened" else mixed
    if method == "rewards":
        return advantage(sum(weights[name] * r for name, r in rewards.items()))
    raise ValueError(f"unknown way to combine rewards {method!r}; there are: {', '.join(COMBINE)}")


def tree_advantage(reward: jax.Array, log_prob: jax.Array, graph: RolloutGraph, *, fusion: float = 0.0, **options) -> jax.Array:
    """Advantages of a tree's edges in the graph's blocks [V, P, B, G] from its leaves' rewards [V, P, 1, G].

    A node's reward is the mean of the leaves below it, weighted by softmax(fusion x log-probability of the path from the node
    to the leaf), log_prob [P, B, G] being the edges'; it is compared with the nodes of its own depth (BranchGRPO, arXiv
    2509.06040, section 3). An edge has the advantage of the node it leads to.
    """
    edges = log_prob.reshape(log_prob.shape[0], -1)
    ends = np.cumsum(graph.draws)
    path = jnp.zeros((log_prob.shape[0], graph.group))  # from the nodes of a depth to each leaf
    depths = []
    for nodes, end in zip(graph.draws[::-1], ends[::-1]):
        below = (nodes, graph.group // nodes)
        leaves = reward.reshape(*reward.shape[:-1], *below)
        there = ~jnp.isnan(leaves)
        of_path = jnp.broadcast_to(fusion * path.reshape(-1, 1, *below), leaves.shape)
        of_leaf = jax.nn.softmax(of_path, axis=-1, where=there)
        fused = jnp.where(there.any(-1), jnp.where(there, leaves * of_leaf, 0.0).sum(-1), jnp.nan)
        depths.append(group_advantage(fused, **options))
        path = path + jnp.repeat(edges[:, end - nodes : end], below[1], axis=1)
    return in_blocks(graph, jnp.concatenate(depths[::-1], axis=-1)[..., 0, :])

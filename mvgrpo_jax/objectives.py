"""Losses: arrays in, arrays out, one value per sample. Averages and weights are the caller's."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def clipped_surrogate(ratio: jax.Array, advantage: jax.Array, clip: float) -> jax.Array:
    """max(-A r, -A clip(r, 1 - clip, 1 + clip)): PPO's pessimistic loss, to be minimised; any broadcastable shapes."""
    return jnp.maximum(-advantage * ratio, -advantage * jnp.clip(ratio, 1.0 - clip, 1.0 + clip))


def gaussian_kl(mean: jax.Array, mean_ref: jax.Array, std: jax.Array) -> jax.Array:
    """(mean - mean_ref)^2 / (2 std^2), averaged over the last two axes: KL of two Gaussians of equal deviation [...]."""
    return jnp.mean((mean - mean_ref) ** 2 / (2.0 * std**2), (-2, -1))


def view_weights(active: jax.Array, how: str) -> jax.Array:
    """The weight of each view in the multi-view objective (MV-GRPO, arXiv 2603.12648, w_k).

    active: bool [V, ...], False where a caption is missing. 'mean': 1 / (number of active views); 'sum': 1 each.
    """
    active = active.astype(jnp.float32)
    if how == "mean":
        return active / jnp.maximum(active.sum(0), 1.0)
    if how == "sum":
        return active
    raise ValueError(f"unknown aggregation of views {how!r}; there are: mean, sum")

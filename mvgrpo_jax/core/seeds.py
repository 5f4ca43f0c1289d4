"""Random keys from seeds of 64 bits."""

from __future__ import annotations

import operator

import jax

SEEDS = 2**64


def key(seed: int) -> jax.Array:
    """The key of a seed in 0 .. 2^64 - 1. ValueError outside.

    jax.random.key reads 32 bits unless x64 is on: it takes 2^32 for 0 and fails above 2^63. Here the low 32 bits make the
    key and the high ones, where they are not 0, are folded in, so that a seed below 2^32 has jax.random.key's own key.
    """
    seed = operator.index(seed)
    if not 0 <= seed < SEEDS:
        raise ValueError(f"expected a seed from 0 to {SEEDS - 1}, got {seed}")
    high, low = divmod(seed, 2**32)
    made = jax.random.key(low)
    return jax.random.fold_in(made, high) if high else made

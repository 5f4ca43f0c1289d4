"""Timing of calls on a device, its memory, and random arrays made there."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

LIMIT = 30.0  # seconds of a row's calls after which no further one is made


def timed(call: Callable, inner: int = 1):
    """(median seconds of a call after the first, its last result); inner: calls that are given to the device at once."""
    seconds, out = [], None
    while len(seconds) < 4 and sum(seconds) < LIMIT:
        out, began = None, time.perf_counter()
        for _ in range(inner):
            out = call()
        jax.block_until_ready(out)
        seconds.append((time.perf_counter() - began) / inner)
    return statistics.median(seconds[1:] or seconds), out


def peak() -> int:
    """The most bytes in use on the device since the process began; 0 where the platform does not count them."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)


def random(shapes, seed: int = 0):
    """Arrays on the device for abstract ones: kernels and tables that keep a vector's size, scales of 1, small biases."""
    flat, tree = jax.tree_util.tree_flatten_with_path(shapes)

    def make(key):
        out = []
        for (path, x), k in zip(flat, jax.random.split(key, len(flat))):
            name = getattr(path[-1], "key", "") if path else ""
            fan_in = math.prod(x.shape[:-1]) if len(x.shape) == 4 else x.shape[-2] if len(x.shape) > 1 else 1
            wide = {"kernel": fan_in**-0.5, "bias": 0.02, "embedding": 0.1}.get(name, 1.0)
            out.append(
                jnp.ones(x.shape, x.dtype) if name == "scale" else (wide * jax.random.normal(k, x.shape)).astype(x.dtype)
            )
        return tree.unflatten(out)

    return jax.jit(make, out_shardings=jax.tree.map(lambda x: x.sharding, shapes))(jax.random.key(seed))

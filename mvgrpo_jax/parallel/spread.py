"""Work of prompts x lanes, spread evenly over the devices, a bounded share of it at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mvgrpo_jax.parallel import rules


def padded(count: int, parts: int) -> int:
    """The next multiple of `parts`."""
    return -(-count // parts) * parts


def even(x: jax.Array) -> jax.Array:
    """[P, n, ...] -> [P, m, ...]: m is n, or the next multiple that divides over the devices of a group; the last lane is
    repeated."""
    more = padded(x.shape[1], rules.parts("lanes")) - x.shape[1]
    return jnp.concatenate([x, jnp.repeat(x[:, -1:], more, axis=1)], axis=1) if more else x


def flatten(x: jax.Array) -> jax.Array:
    """[P, n, ...] -> [P * m, ...], split like a batch: every device has an equal share. m is n, or where P * n does not divide
    over the devices, that of `even`; of even lanes no device gets another group's prompts."""
    prompts, lanes = x.shape[:2]
    if prompts * lanes % rules.parts("batch"):
        x = even(x)
    if x.shape[1] % rules.parts("lanes") == 0:
        x = rules.constrain(x, "prompts", "lanes")
    return rules.constrain(x.reshape(-1, *x.shape[2:]), "batch")


def unflatten(x: jax.Array, prompts: int) -> jax.Array:
    """What `flatten` made of [P, n, ...], as [P, m, ...]."""
    x = rules.constrain(x, "batch")
    x = x.reshape(prompts, -1, *x.shape[1:])
    return rules.constrain(x, "prompts", "lanes") if x.shape[1] % rules.parts("lanes") == 0 else x


def by_parts(function: Callable, items: Any, most: int) -> Any:
    """function(items) of a tree of arrays [N, ...] split like a batch, of at most `most` items a device at a time, one part
    after the other, so that memory holds the activations of one."""
    count, devices = len(jax.tree.leaves(items)[0]), rules.parts("batch")
    local = count // devices
    each = max(n for n in range(1, local + 1) if local % n == 0 and n <= max(most, 1))
    if each == local:
        return function(items)

    def cut(a):
        a = a.reshape(devices, local // each, each, *a.shape[1:])
        return jnp.moveaxis(a, 1, 0).reshape(local // each, devices * each, *a.shape[3:])

    def join(a):
        a = a.reshape(local // each, devices, each, *a.shape[2:])
        return rules.constrain(jnp.moveaxis(a, 0, 1).reshape(count, *a.shape[3:]), "batch")

    out = jax.lax.map(lambda x: function(jax.tree.map(lambda a: rules.constrain(a, "batch"), x)), jax.tree.map(cut, items))
    return jax.tree.map(join, out)

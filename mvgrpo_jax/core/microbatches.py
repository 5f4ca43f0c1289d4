"""A batch cut into microbatches: reshaped once, then scanned.

A microbatch is one recorded block of transitions, with a chunk of its states, of the views and of the prompts. Every leaf of
a cut batch leads with AXES; where it is the same for all microbatches along an axis, that axis has the size 1 and the leaf is
not repeated: all views share the transitions, all states of a block share the encodings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mvgrpo_jax.core.structs import Batch, Condition, Steps

# From the slowest to the fastest. Optimiser steps are taken along 'minibatch' (and 'block'), gradients add up along the others.
AXES = ("minibatch", "block", "state", "view", "prompt")
# What the first dimensions of Old's leaves are counted by.
_OLD = ("view", "prompt", "block", None, "state")


class Counts(NamedTuple):
    """How many parts each of AXES has."""

    minibatch: int
    block: int
    state: int
    view: int
    prompt: int


class Microbatch(NamedTuple):
    """What one forward and backward pass sees, of v views and p prompts.

    x_t: [p, m, L, C]; x_next: [p, g, L, C]; recorded: the rollout's log_prob [p, g]; steps: [p, m]. views: leading [v, p];
    advantage, weight: [v, p, g]. old: under the rollout's parameters, log_prob [v, p, Q, g] and mean [v, p, Q, m, L, C] or
    None; None where they are the current ones. is_prompt: bool [v].
    """

    x_t: jax.Array
    x_next: jax.Array
    recorded: jax.Array
    steps: Steps
    views: Condition
    advantage: jax.Array
    weight: jax.Array
    old: tuple[jax.Array, jax.Array | None] | None
    is_prompt: jax.Array


def cut(batch: Batch, counts: Counts) -> Microbatch:
    """The batch with every leaf [minibatch, block, state, view, prompt, ...]; counts must divide the sizes."""

    def of_step(a: jax.Array) -> jax.Array:  # [P, B, M or G, ...]
        return _split(a, ("prompt", "block", "state"), counts)

    def of_view(a: jax.Array) -> jax.Array:  # [V, P, B, G]
        return _split(a, ("view", "prompt", "block", "state"), counts)

    t, old = batch.transitions, batch.old
    is_prompt = jnp.arange(batch.weight.shape[0]) == 0
    return Microbatch(
        x_t=of_step(t.x_t),
        x_next=of_step(t.x_next),
        recorded=of_step(t.log_prob),
        steps=jax.tree.map(of_step, t.steps),
        views=jax.tree.map(lambda a: _split(a, ("view", "prompt", "block"), counts), batch.views),
        advantage=of_view(batch.advantage),
        weight=of_view(batch.weight),
        old=old and tuple(None if a is None else _split(a, _OLD, counts) for a in old),
        is_prompt=_split(is_prompt, ("view",), counts),
    )


def join(a: jax.Array, counts: Counts) -> jax.Array:
    """A leaf of Old from what a `scan` over all AXES made of the microbatches, [v, p, Q, g or m, ...] of each."""
    views, prompts, paths, states, *rest = a.shape[sum(n > 1 for n in counts) :]
    whole_prompts = prompts * counts.minibatch * counts.prompt
    whole = (views * counts.view, whole_prompts, counts.block, paths, states * counts.state, *rest)
    shape, order, _ = _layout(whole, _OLD, counts)
    return a.reshape([shape[i] for i in order]).transpose(np.argsort(order)).reshape(whole)


def _split(a: jax.Array, axes: tuple[str | None, ...], counts: Counts) -> jax.Array:
    """A leaf whose first dimensions are `axes`: parts in front, one dimension for each of AXES, then what a part holds."""
    shape, order, missing = _layout(a.shape, axes, counts)
    return jnp.expand_dims(a.reshape(shape).transpose(order), missing)


def _layout(sizes: tuple[int, ...], axes: tuple[str | None, ...], counts: Counts) -> tuple[list[int], list[int], list[int]]:
    """(every dimension taken apart, the order that has the parts in front, which of AXES are not there).

    Prompts and views are dealt out (every n-th belongs to one part), so that each part stays spread over the devices that hold
    them.
    """
    shape: list[int] = []
    parts: dict[str, int] = {}  # where in `shape` the parts of an axis are counted
    content: list[int] = []
    for number, size in enumerate(sizes):
        axis = axes[number] if number < len(axes) else None
        if axis == "prompt":
            content.append(len(shape))
            parts |= {"minibatch": len(shape) + 1, "prompt": len(shape) + 2}
            shape += [size // (counts.minibatch * counts.prompt), counts.minibatch, counts.prompt]
        elif axis == "block":
            parts["block"] = len(shape)
            shape.append(size)
        elif axis == "view":
            content.append(len(shape))
            parts[axis] = len(shape) + 1
            shape += [size // counts.view, counts.view]
        elif axis:  # the states' draws lie beside each other
            parts[axis] = len(shape)
            content.append(len(shape) + 1)
            shape += [getattr(counts, axis), size // getattr(counts, axis)]
        else:
            content.append(len(shape))
            shape.append(size)
    order = [parts[axis] for axis in AXES if axis in parts] + content
    missing = [number for number, axis in enumerate(AXES) if axis not in parts]
    return shape, order, missing


def scan(body: Callable[[Any, Any], tuple[Any, Any]], carry: Any, xs: Any, axes: int) -> tuple[Any, Any]:
    """body(carry, x) -> (carry, y) over the first `axes` dimensions of every leaf of xs, the last of them fastest.

    A leaf of size 1 along a dimension is the same for all steps along it. Returns the last carry and the ys, stacked.
    """
    if not axes:
        return body(carry, xs)
    leaves, structure = jax.tree.flatten(xs)
    length = max(a.shape[0] for a in leaves)
    varies = [a.shape[0] > 1 for a in leaves]
    shared = [None if moving else a[0] for a, moving in zip(leaves, varies)]

    def step(carry, moving):
        moving = iter(moving)
        x = jax.tree.unflatten(structure, [next(moving) if a is None else a for a in shared])
        return scan(body, carry, x, axes - 1)

    if length == 1:
        return step(carry, [])
    return jax.lax.scan(step, carry, [a for a, moving in zip(leaves, varies) if moving], length)

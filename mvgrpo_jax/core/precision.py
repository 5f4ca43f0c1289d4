"""Precisions by name, and training of low-precision parameters through float32 masters.

bfloat16 has 8 significant bits: a change of less than 1/512 of a weight is rounded away, and one of 2e-6 is for nearly all
weights. The masters collect such changes; the parameters are the masters, rounded (mixed precision, arXiv 1710.03740).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.models.module import Params, cast

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def dtype_of(name: str) -> jnp.dtype:
    """A dtype by its name in configs and on command lines. UserError lists what exists."""
    if name not in DTYPES:
        raise UserError(f"unknown dtype {name!r}; there are: {', '.join(DTYPES)}")
    return DTYPES[name]


class MasterState(NamedTuple):
    """masters: float32, a tree like the parameters. inner: the wrapped optimiser's state, of the masters."""

    masters: Params
    inner: Any


def with_master_weights(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The optimiser on float32 masters of parameters in any floating dtype.

    init(params): the masters start as the parameters. update(grads, state, params) takes gradients of any floating dtype and
    returns float32 updates with which `optax.apply_updates` makes the parameters equal to the new masters rounded to the
    parameters' dtype. Moments, weight decay and bounds on the gradient see float32 alone. Raises ValueError without params.
    """

    def init(params: Params) -> MasterState:
        masters = jax.tree.map(lambda p: jnp.array(p, jnp.float32), params)  # a copy where they are float32 already
        return MasterState(masters, optimizer.init(masters))

    def update(grads: Params, state: MasterState, params: Params | None = None) -> tuple[Params, MasterState]:
        if params is None:
            raise ValueError("master weights need the parameters that are updated")
        changes, inner = optimizer.update(cast(grads, jnp.float32), state.inner, state.masters)
        masters = optax.apply_updates(state.masters, changes)
        # Of two numbers with 8 significant bits the difference in float32 is exact unless one is 2^16 times the other.
        updates = jax.tree.map(lambda m, p: m.astype(p.dtype).astype(jnp.float32) - p.astype(jnp.float32), masters, params)
        return updates, MasterState(masters, inner)

    return optax.GradientTransformation(init, update)


def masters_of(opt_state: Any, params: Params) -> Params:
    """The float32 masters where the optimiser keeps some, else the parameters: what averages and exports are made of."""
    return opt_state.masters if isinstance(opt_state, MasterState) else params

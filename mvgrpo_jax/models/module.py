"""From an NNX module to a pure function over a nested dict of arrays, and stacks of equal blocks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A network as a pure function: `network(params, *args)`; `network.bind(params)` gives the module itself.

    graph: NNX's static description. shapes: nested dict of jax.ShapeDtypeStruct, the single source for initialisation,
    sharding, conversion and checkpoints. stacks: path of each scanned block stack -> number of blocks.
    """

    make: Callable[[nnx.Rngs], nnx.Module]
    graph: Any
    shapes: Params
    stacks: dict[str, int]

    @classmethod
    def of(cls, make: Callable[[nnx.Rngs], nnx.Module], stacks: dict[str, int] | None = None) -> Network:
        """Describes the module that `make(rngs)` builds, without allocating it."""
        graph, state = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
        return cls(make, graph, nnx.to_pure_dict(state), stacks or {})

    def init(self, key: jax.Array) -> Params:
        """Random parameters; jit-able."""
        return nnx.to_pure_dict(nnx.state(self.make(nnx.Rngs(key))))

    def bind(self, params: Params) -> nnx.Module:
        return nnx.merge(self.graph, params)

    def __call__(self, params: Params, *args, **kwargs):
        return self.bind(params)(*args, **kwargs)


def build_stack(make: Callable[[nnx.Rngs], nnx.Module], depth: int, rngs: nnx.Rngs) -> nnx.Module:
    """`depth` blocks in one module whose parameters have a leading layer axis."""
    return nnx.split_rngs(splits=depth)(nnx.vmap(make, in_axes=(0,), out_axes=0))(rngs)


REMAT = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def scan_stack(stack: nnx.Module, carry, step: Callable, *, remat: str = "none", unroll: int = 1):
    """Applies a stack block after block: carry = step(block, carry). `remat` is a key of REMAT."""
    if remat not in REMAT:
        raise ValueError(f"unknown remat policy {remat!r}; there are: {', '.join(REMAT)}")
    graph, params = nnx.split(stack)

    def body(carry, layer):
        return step(nnx.merge(graph, layer), carry), None

    if remat != "none":
        body = jax.checkpoint(body, policy=REMAT[remat], prevent_cse=False)
    return jax.lax.scan(body, carry, params, unroll=unroll)[0]


def scan_layers(stack: nnx.Module, carry, step: Callable, inputs=None):
    """Applies a stack block after block where each block takes an input of its own and gives an output: carry, output =
    step(block, carry, input). inputs: a tree of arrays with a leading layer axis, or None. Returns (carry, outputs), these with
    a leading layer axis."""
    graph, params = nnx.split(stack)

    def body(carry, layer):
        block, own = layer
        return step(nnx.merge(graph, block), carry, own)

    return jax.lax.scan(body, carry, (params, inputs))


def cast(params: Params, dtype: jnp.dtype) -> Params:
    """Casts every floating-point leaf."""
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, params)


def count(params: Params) -> int:
    """The number of parameters."""
    return sum(x.size for x in jax.tree.leaves(params))

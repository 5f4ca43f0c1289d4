"""Low-rank adapters on linear layers (LoRA, arXiv 2106.09685): y = x W + (alpha / rank) (x A) B, W frozen.

The product is taken in activation space, never as a merged matrix: merging inside a loss would hold a second copy of the
weights. A starts Gaussian with deviation 1 / rank, as PEFT's `gaussian`, and B at zero, so that the policy starts as the
base; a tree whose B are zero is the reference policy.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.models.layers import Linear
from mvgrpo_jax.models.module import Network, Params

ADAPTER = ("lora_a", "lora_b")


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """targets: patterns of layer names, each with its rank; the first that matches a whole name decides, and rank 0
    leaves the layer out. A name has no block number: blocks of one stack are adapted alike. alpha: numerator of the
    scale; 0 means the rank itself, a scale of 1."""

    targets: tuple[tuple[str, int], ...]
    alpha: float = 0.0

    @classmethod
    def parse(cls, rank: int, alpha: float, targets: tuple[str, ...]) -> LoraConfig:
        """targets: 'PATTERN' with the common rank, or 'PATTERN=RANK'. Raises UserError."""
        if alpha < 0 or alpha != alpha or alpha == float("inf"):
            raise UserError(f"config.lora.alpha must be a positive number, or 0 for the rank itself; got {alpha}")
        pairs = []
        for target in targets:
            pattern, _, own = target.partition("=")
            try:
                re.compile(pattern)
                pairs.append((pattern, int(own) if own else rank))
            except (re.error, ValueError, OverflowError, RecursionError) as error:
                raise UserError(f"config.lora.targets: {target!r} is not PATTERN or PATTERN=RANK ({error})") from None
            if pairs[-1][1] < 0:
                raise UserError(f"config.lora.targets: {target!r} has a negative rank")
        return cls(tuple(pairs), alpha)

    def rank(self, name: str) -> int:
        """The rank of a layer's adapter; 0 for none."""
        return next((rank for pattern, rank in self.targets if re.fullmatch(pattern, name)), 0)

    def scale(self, rank: int) -> float:
        return self.alpha / rank if self.alpha else 1.0


def linears(module: nnx.Module) -> dict[str, Linear]:
    """Every linear layer by its checkpoint name, without block numbers."""
    return {".".join(map(str, path)): node for path, node in nnx.iter_graph(module) if isinstance(node, Linear)}


def attach(module: nnx.Module, config: LoraConfig, rngs: nnx.Rngs) -> nnx.Module:
    """Gives every target layer its two factors. Raises UserError when a pattern matches no layer."""
    layers = linears(module)
    for pattern, _ in config.targets:
        if not any(re.fullmatch(pattern, name) for name in layers):
            raise UserError(
                f"config.lora.targets: {pattern!r} matches no layer of the transformer; its layers are: "
                f"{', '.join(sorted(layers))}"
            )
    for name, layer in layers.items():
        if rank := config.rank(name):
            *stack, in_dim, out_dim = layer.kernel.shape
            if rank > min(in_dim, out_dim):
                raise UserError(f"config.lora: rank {rank} is larger than layer {name} of {in_dim} x {out_dim}")
            layer.lora_a = nnx.LoRAParam(jax.random.normal(rngs.params(), (*stack, in_dim, rank), jnp.float32) / rank)
            layer.lora_b = nnx.LoRAParam(jnp.zeros((*stack, rank, out_dim), jnp.float32))
            layer.lora_scale = config.scale(rank)
    return module


def adapt(network: Network, config: LoraConfig) -> Network:
    """The network with adapters; its parameter tree is `join(base, adapters)`."""
    return Network.of(lambda rngs: attach(network.make(rngs), config, rngs), network.stacks)


def adapters(tree: Params) -> Params:
    """The adapters' part of a parameter tree (of arrays, shapes or shardings); empty branches are left out."""
    out = {k: adapters(v) if isinstance(v, dict) else v for k, v in tree.items() if isinstance(v, dict) or k in ADAPTER}
    return {k: v for k, v in out.items() if not (isinstance(v, dict) and not v)}


def init(network: Network, key: jax.Array) -> Params:
    """Fresh adapters of an adapted network. Under jit the base is never made."""
    return adapters(network.init(key))


def join(base: Params, adapters: Params) -> Params:
    """One tree of two that share branches and no leaf."""
    out = dict(base)
    for key, node in adapters.items():
        out[key] = join(base[key], node) if isinstance(node, dict) and key in base else node
    return out


def merge(base: Params, adapters: Params, config: LoraConfig, path: tuple[str, ...] = ()) -> Params:
    """The base with every adapter added into its kernel, in float32, then in the kernel's own dtype."""
    out: dict[str, Any] = dict(base)
    for key, node in adapters.items():
        if key in ADAPTER:
            continue
        inner = merge(base[key], node, config, (*path, key))
        if ADAPTER[0] in node:
            kernel = base[key]["kernel"]
            scale = config.scale(node["lora_a"].shape[-1])
            delta = scale * jnp.matmul(node["lora_a"].astype(jnp.float32), node["lora_b"].astype(jnp.float32))
            inner["kernel"] = (kernel.astype(jnp.float32) + delta).astype(kernel.dtype)
        out[key] = inner
    return out

"""Adapters between parameter trees and factors.

Factors stand between files and trees: layer name in diffusers' words, with block number -> (down [r, in], up [out, r]), the
scale already multiplied into `up`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mvgrpo_jax.convert.naming import entries
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.models.lora import LoraConfig
from mvgrpo_jax.models.module import Network, Params

Factors = dict[str, tuple[np.ndarray, np.ndarray]]


def _blocks(network: Network, path: tuple[str, ...]) -> tuple[str, list[str]]:
    """The layer's name without numbers, and its names in checkpoints, one a block."""
    name = ".".join(path)
    stack = next((s for s in network.stacks if name.startswith(s + ".")), None)
    if stack is None:
        return name, [name]
    return name, [f"{stack}.{i}{name[len(stack) :]}" for i in range(network.stacks[stack])]


def _walk(tree: Params, path: tuple[str, ...] = ()):
    for key, node in tree.items():
        if "lora_a" in node:
            yield (*path, key), node
        else:
            yield from _walk(node, (*path, key))


def factors_of(network: Network, adapters: Params, config: LoraConfig) -> Factors:
    """The factors of a tree of adapters (leaves that numpy can read)."""
    out: Factors = {}
    for path, node in _walk(adapters):
        _, blocks = _blocks(network, path)
        down, up = (np.asarray(node[k], np.float32) for k in ("lora_a", "lora_b"))
        up = up * np.float32(config.scale(down.shape[-1]))
        layered = down.ndim == 3
        for i, name in enumerate(blocks):
            a, b = (down[i], up[i]) if layered else (down, up)
            out[name] = (a.T, b.T)
    return out


def tree_of(network: Network, factors: Factors) -> tuple[Params, LoraConfig]:
    """A tree of adapters with scale 1, and its config. Blocks without an adapter get zeros, as do missing ranks."""
    groups: dict[str, dict[int, tuple[np.ndarray, np.ndarray]]] = {}
    numbered = {}
    for entry in entries(network).values():
        if entry.path[-1] == "kernel":
            name, blocks = _blocks(network, entry.path[:-1])
            numbered |= {block: (name, i, len(blocks), entry.path[:-1]) for i, block in enumerate(blocks)}
    for block, pair in factors.items():
        name, i, _, _ = numbered[block]
        groups.setdefault(name, {})[i] = pair
    tree: Params = {}
    targets = []
    for name, members in groups.items():
        _, _, count, path = next(v for v in numbered.values() if v[0] == name)
        rank = max(down.shape[0] for down, _ in members.values())
        some_down, some_up = next(iter(members.values()))
        a = np.zeros((count, some_down.shape[1], rank), np.float32)
        b = np.zeros((count, rank, some_up.shape[0]), np.float32)
        for i, (down, up) in members.items():
            a[i, :, : down.shape[0]], b[i, : up.shape[1]] = down.T, up.T
        layered = any(name.startswith(s + ".") for s in network.stacks)
        node = tree
        for key in path:
            node = node.setdefault(key, {})
        node |= {"lora_a": a if layered else a[0], "lora_b": b if layered else b[0]}
        targets.append((name.replace(".", r"\."), rank))
    return tree, LoraConfig(tuple(targets))


def start_from(fresh: Params, config: LoraConfig, loaded: Params, where: str, path: tuple[str, ...] = ()) -> Params:
    """A run's fresh adapters with a loaded LoRA inside: same function as the loaded one, room for more rank.

    Raises UserError when the run's targets or ranks do not cover the file's.
    """
    name = ".".join(path)
    missing = sorted(set(loaded) - set(fresh))
    if missing:
        raise UserError(
            f"{where}: adapts {'.'.join((*path, missing[0]))}, which config.lora.targets leaves out; add a pattern for it"
        )
    out: dict[str, Any] = dict(fresh)
    if "lora_a" in loaded:
        a, b = (np.array(fresh[k], np.float32) for k in ("lora_a", "lora_b"))
        rank, own = loaded["lora_a"].shape[-1], a.shape[-1]
        if rank > own:
            raise UserError(f"{where}: rank {rank} at {name}, but config.lora gives it {own}; raise config.lora.rank")
        a[..., :rank] = loaded["lora_a"]
        b[..., :rank, :] = loaded["lora_b"] / config.scale(own)
        return {"lora_a": a, "lora_b": b}
    for key, node in loaded.items():
        out[key] = start_from(fresh[key], config, node, where, (*path, key))
    return out

"""The two-way table between our parameter paths and the names in diffusers and transformers checkpoints.

Modules carry the checkpoint's names, so the table is one rule: a leaf's last word and layout are translated, and a
block stack's leading axis becomes a number in the name. The exceptions are listed in `_RENAMED`.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np

from mvgrpo_jax.models.module import Network

# Where transformers keeps a parameter elsewhere than where it is used.
_RENAMED = {
    "encoder.relative_attention_bias.weight": "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
}

# Entries of real checkpoints that hold no information of their own: a copy of a tied table, and index buffers.
REDUNDANT = re.compile(r"encoder\.embed_tokens\.weight|(.*\.)?embeddings\.position_ids")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor of a checkpoint. path: our leaf; layer: its index on the leaf's leading axis, None without one.

    shape: the tensor's shape in the checkpoint.
    """

    name: str
    path: tuple[str, ...]
    layer: int | None
    shape: tuple[int, ...]


def to_torch(array: np.ndarray, leaf: str) -> np.ndarray:
    """Our layout -> torch's: kernels [in, out] become [out, in], [h, w, in, out] become [out, in, h, w]."""
    if leaf != "kernel":
        return array
    return array.T if array.ndim == 2 else array.transpose(3, 2, 0, 1)


def from_torch(array: np.ndarray, leaf: str) -> np.ndarray:
    """The inverse of `to_torch`."""
    if leaf != "kernel":
        return array
    return array.T if array.ndim == 2 else array.transpose(2, 3, 1, 0)


def leaves(tree: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """(path, leaf) of a nested dict, in sorted order."""
    if not isinstance(tree, dict):
        return [(path, tree)]
    return [item for key in sorted(tree) for item in leaves(tree[key], (*path, key))]


def entries(network: Network) -> dict[str, Entry]:
    """Every checkpoint tensor of a network, by name."""
    table = {}
    for path, leaf in leaves(network.shapes):
        words = [*path[:-1], {"kernel": "weight", "scale": "weight", "embedding": "weight"}.get(path[-1], path[-1])]
        name = ".".join(words)
        stack = next((s for s in network.stacks if name.startswith(s + ".")), None)
        for layer in range(network.stacks[stack]) if stack else [None]:
            shape = leaf.shape if layer is None else leaf.shape[1:]
            full = name if layer is None else f"{stack}.{layer}{name[len(stack) :]}"
            full = _RENAMED.get(full, full)
            torch_shape = to_torch(np.broadcast_to(np.float32(0), shape), path[-1]).shape
            table[full] = Entry(full, path, layer, torch_shape)
    return table

"""The two-way table between our parameter paths and the names in diffusers and transformers checkpoints.

Modules carry the checkpoint's names, so the table is one rule: a leaf's last word and layout are translated, and a
block stack's leading axis becomes a number in the name. The exceptions are listed in `_RENAMED`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from mvgrpo_jax.models.module import Network

# Where transformers keeps a parameter elsewhere than where it is used.
_RENAMED = {
    "encoder.relative_attention_bias.weight": "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
}

# A table that T5 keeps under several names, of which files have one or more. The first one that is there is read: where two
# differ, transformers' encoder reads that one too.
TIED = {"shared.weight": ("encoder.embed_tokens.weight", "shared.weight", "decoder.embed_tokens.weight")}

# Index buffers of old versions, which hold no information.
_BUFFERS = re.compile(r"(.*\.)?embeddings\.position_ids")

# What stands beside an encoder in files of the whole model that it is a part of, and is not needed: transformers leaves it out.
# spiece_model: ComfyUI's tokenizer.
_T5 = re.compile(r"decoder\.(block\.\d+\.layer|final_layer_norm|embed_tokens)\..+|lm_head\.weight|spiece_model")
_CLIP_TEXT = re.compile(r"text_projection(\.weight)?|visual_projection\.weight|vision_model\..+|logit_scale")


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
    """Our layout -> torch's: kernels [in, out] become [out, in], [h, w, in, out] become [out, in, h, w], and with a time axis
    [t, h, w, in, out] become [out, in, t, h, w]."""
    if leaf != "kernel":
        return array
    space = range(array.ndim - 2)
    return array.transpose(array.ndim - 1, array.ndim - 2, *space)


def from_torch(array: np.ndarray, leaf: str) -> np.ndarray:
    """The inverse of `to_torch`."""
    if leaf != "kernel":
        return array
    return array.transpose(*range(2, array.ndim), 1, 0)


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


def spare(wanted: Iterable[str], found: Iterable[str]) -> tuple[set[str], list[str]]:
    """(keys without information of their own, keys of other parts of the same model) among `found`, neither of which the
    network with the keys `wanted` reads: index buffers and tied copies; what T5's encoder or CLIP's text tower leaves out."""
    wanted = set(wanted)
    rest = [n for n in found if n not in wanted]
    copies = {n for name, aliases in TIED.items() if name in wanted for n in aliases}
    silent = {n for n in rest if _BUFFERS.fullmatch(n) or n in copies}
    if wanted & TIED.keys():
        other = _T5
    elif wanted and all(n.startswith("text_model.") for n in wanted):
        other = _CLIP_TEXT
    else:
        return silent, []
    return silent, sorted(n for n in rest if n not in silent and other.fullmatch(n))


def tied(wanted: Iterable[str], found: Iterable[str]) -> dict[str, str]:
    """Wanted key -> the key of the file that has its values, for tables with several names."""
    wanted, found = set(wanted), set(found)
    return {
        name: next(n for n in aliases if n in found)
        for name, aliases in TIED.items()
        if name in wanted and not found.isdisjoint(aliases)
    }

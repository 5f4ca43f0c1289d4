"""ImageReward's checkpoint under the names of models.blip: a table of its tensors, its sizes, and its head multiplied out."""

from __future__ import annotations

import dataclasses

import numpy as np

from mvgrpo_jax.convert.configs import count_blocks
from mvgrpo_jax.convert.folding import HEAD, Folded, Joined
from mvgrpo_jax.convert.original import FromOriginal, Layout, Rows, parameters
from mvgrpo_jax.convert.sources import Renamed, Source
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.models.clip import TowerConfig

MEAN, DEVIATION = 0.16717362830052426, 1.0333394966054072  # of scores in training: what is published is standardised
_VISION, _TEXT, _HEAD = "blip.visual_encoder.", "blip.text_encoder.", "mlp.layers."
_UNUSED = ("blip.vision_proj.", "blip.text_proj.")
_HEAD_SIZE = 64  # of BLIP's image towers, base and large

# The published sizes: ViT-L/16.
VIT_L_16 = TowerConfig(
    hidden_size=1024,
    intermediate_size=4096,
    num_hidden_layers=24,
    num_attention_heads=16,
    hidden_act="gelu",
    layer_norm_eps=1e-6,
    image_size=224,
    patch_size=16,
)


# The tensors that tell the image tower's sizes, in the checkpoint and under the names of models.blip.
_SIZES = (
    (f"{_VISION}patch_embed.proj.weight", f"{_VISION}pos_embed", f"{_VISION}blocks", "mlp.fc1.weight"),
    (
        "vision_model.embeddings.patch_embedding.weight",
        "vision_model.embeddings.position_embedding.weight",
        "vision_model.encoder.layers",
        "mlp.fc1.weight",
    ),
)


def vision_config(source: Source) -> TowerConfig:
    """The image tower's sizes by the shapes of a checkpoint. UserError where it is none."""
    names = source.names()
    found = next((keys for keys in _SIZES if {*keys[:2], f"{keys[2]}.0.{keys[3]}"} <= set(names)), None)
    if found is None:
        raise UserError(
            f"{source.where}: expected ImageReward's tensors, as {_SIZES[0][0]}; found {', '.join(names[:3])}, ...; check that "
            "the file is this judge's"
        )
    patches, places, blocks, hidden = found
    width, patch = source.shape(patches)[0], source.shape(patches)[-1]
    return dataclasses.replace(
        VIT_L_16,
        hidden_size=width,
        intermediate_size=source.shape(f"{blocks}.0.{hidden}")[0],
        num_hidden_layers=count_blocks(names, blocks),
        num_attention_heads=max(width // _HEAD_SIZE, 1),
        image_size=round((source.shape(places)[-2] - 1) ** 0.5) * patch,
        patch_size=patch,
    )


def layout(config: TowerConfig) -> Layout:
    """The image tower's tensors as row ranges of the checkpoint's."""
    rows = [
        Rows("vision_model.embeddings.class_embedding", f"{_VISION}cls_token"),
        Rows("vision_model.embeddings.position_embedding.weight", f"{_VISION}pos_embed"),
    ]
    modules = [
        Rows("vision_model.embeddings.patch_embedding", f"{_VISION}patch_embed.proj"),
        Rows("vision_model.post_layernorm", f"{_VISION}norm"),
    ]
    width = config.hidden_size
    for i in range(config.num_hidden_layers):
        layer, block = f"vision_model.encoder.layers.{i}", f"{_VISION}blocks.{i}"
        names = {"layer_norm1": "norm1", "layer_norm2": "norm2", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
        names |= {"self_attn.out_proj": "attn.proj"}
        modules += [Rows(f"{layer}.{a}", f"{block}.{b}") for a, b in names.items()]
        modules += [
            Rows(f"{layer}.self_attn.{name}_proj", f"{block}.attn.qkv", at=j * width, count=width)
            for j, name in enumerate("qkv")
        ]
    return rows + [r for row in modules for r in parameters(row)]


class Flat:
    """A source in which the class token is a vector and the places are a table."""

    def __init__(self, source: Source):
        self.source, self.where = source, source.where

    def _axes(self, name: str) -> int:
        """Leading axes of 1 that are left out."""
        return {"cls_token": 2, "pos_embed": 1}.get(name.removeprefix(_VISION), 0)

    def names(self) -> list[str]:
        return self.source.names()

    def shape(self, name: str) -> tuple[int, ...]:
        return self.source.shape(name)[self._axes(name) :]

    def dtype(self, name: str) -> np.dtype:
        return self.source.dtype(name)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        if not self._axes(name):
            return self.source.read(name, start, stop)
        return self.source.read(name).reshape(self.shape(name))[start:stop]


def named(source: Source, config: TowerConfig) -> Source:
    """The tensors of models.blip's ImageReward from its checkpoint, or from what `convert judge` wrote."""
    names = source.names()
    if HEAD[0] in names:
        return source
    text = {n.removeprefix("blip."): n for n in names if n.startswith(_TEXT)}
    rest = {n: n for n in names if not n.startswith((_TEXT, _HEAD, *_UNUSED))}
    vision = FromOriginal(Flat(Renamed(source, rest)), layout(config))
    return Joined([vision, Renamed(source, text), Folded(source, _HEAD, MEAN, DEVIATION)])

"""The original single-file layouts of Flux and its autoencoder (flux1-dev.safetensors, ae.safetensors).

They differ from diffusers' in names, in fused projections (q, k, v and, in single blocks, the MLP stand under one another in
one matrix), in the order of the last modulation's halves, and in 1 x 1 convolutions for the autoencoder's attention. So every
tensor of one layout is made of row ranges of tensors of the other: one table of ranges serves both directions.
"""

from __future__ import annotations

import dataclasses
import re

import numpy as np

from mvgrpo_jax.convert.sources import Source
from mvgrpo_jax.models.flux import FluxConfig
from mvgrpo_jax.models.vae import VaeConfig


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows `start` .. `start + count` of diffusers' tensor `name` lie at `at` in the original tensor. count 0: all."""

    name: str
    original: str
    start: int = 0
    at: int = 0
    count: int = 0


Layout = list[Rows]


def flux_modules(config: FluxConfig) -> list[Rows]:
    """The linear layers and norms of the transformer, without `.weight` and `.bias`."""
    d = config.width
    rows = [
        Rows("x_embedder", "img_in"),
        Rows("context_embedder", "txt_in"),
        Rows("proj_out", "final_layer.linear"),
        Rows("norm_out.linear", "final_layer.adaLN_modulation.1", start=d, at=0, count=d),  # shift
        Rows("norm_out.linear", "final_layer.adaLN_modulation.1", start=0, at=d, count=d),  # scale
    ]
    embedders = {"timestep_embedder": "time_in", "text_embedder": "vector_in"}
    embedders |= {"guidance_embedder": "guidance_in"} if config.guidance_embeds else {}
    for ours, theirs in embedders.items():
        rows += [
            Rows(f"time_text_embed.{ours}.linear_1", f"{theirs}.in_layer"),
            Rows(f"time_text_embed.{ours}.linear_2", f"{theirs}.out_layer"),
        ]
    for i in range(config.num_layers):
        ours, theirs = f"transformer_blocks.{i}", f"double_blocks.{i}"
        for side, qkv, out, norm, mod, ff in (
            ("img", ("to_q", "to_k", "to_v"), "to_out.0", "norm_", "norm1", "ff"),
            ("txt", ("add_q_proj", "add_k_proj", "add_v_proj"), "to_add_out", "norm_added_", "norm1_context", "ff_context"),
        ):
            rows += [Rows(f"{ours}.attn.{n}", f"{theirs}.{side}_attn.qkv", at=j * d, count=d) for j, n in enumerate(qkv)]
            rows += [
                Rows(f"{ours}.attn.{out}", f"{theirs}.{side}_attn.proj"),
                Rows(f"{ours}.attn.{norm}q", f"{theirs}.{side}_attn.norm.query_norm"),
                Rows(f"{ours}.attn.{norm}k", f"{theirs}.{side}_attn.norm.key_norm"),
                Rows(f"{ours}.{mod}.linear", f"{theirs}.{side}_mod.lin"),
                Rows(f"{ours}.{ff}.net.0.proj", f"{theirs}.{side}_mlp.0"),
                Rows(f"{ours}.{ff}.net.2", f"{theirs}.{side}_mlp.2"),
            ]
    for i in range(config.num_single_layers):
        ours, theirs = f"single_transformer_blocks.{i}", f"single_blocks.{i}"
        fused = (("attn.to_q", d), ("attn.to_k", d), ("attn.to_v", d), ("proj_mlp", 4 * d))
        rows += [Rows(f"{ours}.{n}", f"{theirs}.linear1", at=j * d, count=count) for j, (n, count) in enumerate(fused)]
        rows += [
            Rows(f"{ours}.proj_out", f"{theirs}.linear2"),
            Rows(f"{ours}.attn.norm_q", f"{theirs}.norm.query_norm"),
            Rows(f"{ours}.attn.norm_k", f"{theirs}.norm.key_norm"),
            Rows(f"{ours}.norm.linear", f"{theirs}.modulation.lin"),
        ]
    return rows


def parameters(row: Rows, scale: bool = False, bias: bool = True) -> list[Rows]:
    """The rows of a module's weight and bias; scale: of a norm without bias, whose weight the original calls so."""
    weight = [dataclasses.replace(row, name=f"{row.name}.weight", original=f"{row.original}.{'scale' if scale else 'weight'}")]
    return weight + (
        [dataclasses.replace(row, name=f"{row.name}.bias", original=f"{row.original}.bias")] if bias and not scale else []
    )


def flux_layout(config: FluxConfig) -> Layout:
    rows = flux_modules(config)
    return [r for row in rows for r in parameters(row, scale=row.original.endswith(("query_norm", "key_norm")))]


def vae_layout(config: VaeConfig) -> Layout:
    last = len(config.block_out_channels) - 1
    rows = []

    def resnet(ours: str, theirs: str, shortcut: bool) -> None:
        names = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2"}
        names |= {"conv_shortcut": "nin_shortcut"} if shortcut else {}
        rows.extend(Rows(f"{ours}.{a}", f"{theirs}.{b}") for a, b in names.items())

    for side, depth in (("encoder", config.layers_per_block), ("decoder", config.layers_per_block + 1)):
        dims = config.block_out_channels if side == "encoder" else config.block_out_channels[::-1]
        block, level, sampler, resample = (
            ("down_blocks", "down", "downsamplers", "downsample")
            if side == "encoder"
            else ("up_blocks", "up", "upsamplers", "upsample")
        )
        for i, dim in enumerate(dims):
            number = i if side == "encoder" else last - i  # the original counts both sides from the pixels
            previous = dims[max(i - 1, 0)]
            for j in range(depth):
                changes = j == 0 and previous != dim
                resnet(f"{side}.{block}.{i}.resnets.{j}", f"{side}.{level}.{number}.block.{j}", changes)
            if i < last:
                rows.append(Rows(f"{side}.{block}.{i}.{sampler}.0.conv", f"{side}.{level}.{number}.{resample}.conv"))
        for j in range(2):
            resnet(f"{side}.mid_block.resnets.{j}", f"{side}.mid.block_{j + 1}", False)
        if config.mid_block_add_attention:
            names = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
            rows += [Rows(f"{side}.mid_block.attentions.0.{a}", f"{side}.mid.attn_1.{b}") for a, b in names.items()]
        ends = {"conv_in": "conv_in", "conv_norm_out": "norm_out", "conv_out": "conv_out"}
        rows += [Rows(f"{side}.{a}", f"{side}.{b}") for a, b in ends.items()]
    return [r for row in rows for r in parameters(row)]


def _is_pointwise(name: str) -> bool:
    """A 1 x 1 convolution in the original that is a linear layer in diffusers."""
    return re.fullmatch(r".*\.mid\.attn_1\.(q|k|v|proj_out)\.weight", name) is not None


class FromOriginal:
    """An original single file read under diffusers' names and shapes."""

    def __init__(self, source: Source, layout: Layout):
        self.source, self.where = source, source.where
        present = set(source.names())
        self.parts: dict[str, list[Rows]] = {}
        for row in layout:
            if row.original in present:
                self.parts.setdefault(row.name, []).append(row)
        known = {row.original for row in layout}
        self.unknown = sorted(present - known)

    def names(self) -> list[str]:
        return [*self.parts, *self.unknown]  # an unknown tensor is reported under its own name

    def dtype(self, name: str) -> np.dtype:
        return self.source.dtype(self.parts[name][0].original if name in self.parts else name)

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self.parts:
            return self.source.shape(name)
        rows = self.parts[name]
        whole = self.source.shape(rows[0].original)
        whole = whole[:2] if _is_pointwise(rows[0].original) else whole
        if not rows[0].count:
            return whole
        # Rows that the original does not have are missing from the shape, so that the mismatch is reported.
        return (sum(max(0, min(r.count, whole[0] - r.at)) for r in rows), *whole[1:])

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        if not (shape := self.shape(name)):  # a number
            return self.source.read(self.parts[name][0].original)
        count, *rest = shape
        stop = count if stop is None else stop
        parts = []
        for row in sorted(self.parts[name], key=lambda r: r.start):
            first, last = max(start, row.start), min(stop, row.start + (row.count or count))
            if first < last:
                parts.append(self.source.read(row.original, row.at + first - row.start, row.at + last - row.start))
        array = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return array.reshape(stop - start, *rest)


class ToOriginal:
    """Tensors under diffusers' names as the original single file has them."""

    def __init__(self, source: Source, layout: Layout):
        self.source, self.where = source, source.where
        self.parts: dict[str, list[Rows]] = {}
        for row in sorted(layout, key=lambda r: (r.original, r.at)):
            self.parts.setdefault(row.original, []).append(row)

    def names(self) -> list[str]:
        return list(self.parts)

    def dtype(self, name: str) -> np.dtype:
        return self.source.dtype(self.parts[name][0].name)

    def shape(self, name: str) -> tuple[int, ...]:
        rows = self.parts[name]
        first = self.source.shape(rows[0].name)
        shape = (sum(r.count for r in rows) or first[0], *first[1:])
        return (*shape, 1, 1) if _is_pointwise(name) else shape

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        rows = self.parts[name]
        parts = [self.source.read(r.name, r.start, r.start + r.count if r.count else None) for r in rows]
        array = (parts[0] if len(parts) == 1 else np.concatenate(parts)).reshape(self.shape(name))
        return array if stop is None and not start else array[start:stop]

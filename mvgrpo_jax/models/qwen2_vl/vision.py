"""The vision tower: patches of one frame, repeated in time, to tokens of the decoder's width."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from mvgrpo_jax.models.attention import attention
from mvgrpo_jax.models.layers import ACTIVATIONS, Indexed, LayerNorm, Linear, heads, merge_heads
from mvgrpo_jax.models.module import build_stack, scan_stack
from mvgrpo_jax.models.qwen2_vl import rotary
from mvgrpo_jax.models.qwen2_vl.config import VisionConfig
from mvgrpo_jax.parallel.rules import constrain

_normal = jax.nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")


class PatchProjection(nnx.Module):
    """[N, S, channels x time x side x side] -> [N, S, embed_dim]; a 3-D convolution of which every patch is one place."""

    def __init__(self, config: VisionConfig, rngs: nnx.Rngs):
        side, time = config.patch_size, config.temporal_patch_size
        self.kernel = nnx.Param(_normal(rngs.params(), (time, side, side, config.in_channels, config.embed_dim), jnp.float32))

    def __call__(self, x):
        kernel = self.kernel[...].transpose(3, 0, 1, 2, 4)
        return x @ kernel.reshape(-1, kernel.shape[-1]).astype(x.dtype)


class PatchEmbed(nnx.Module):
    def __init__(self, config: VisionConfig, rngs: nnx.Rngs):
        self.proj = PatchProjection(config, rngs)


class Attention(nnx.Module):
    def __init__(self, config: VisionConfig, rngs: nnx.Rngs):
        self.qkv = Linear(config.embed_dim, 3 * config.embed_dim, rngs=rngs)
        self.proj = Linear(config.embed_dim, config.embed_dim, rngs=rngs)
        self.heads = config.num_heads

    def __call__(self, x, turn):
        q, k, v = (heads(a, self.heads) for a in jnp.split(self.qkv(x), 3, axis=-1))
        return self.proj(merge_heads(attention(rotary.rotate(q, turn), rotary.rotate(k, turn), v, kind="native")))


class Mlp(nnx.Module):
    def __init__(self, config: VisionConfig, rngs: nnx.Rngs):
        wide = int(config.embed_dim * config.mlp_ratio)
        self.fc1, self.fc2 = Linear(config.embed_dim, wide, rngs=rngs), Linear(wide, config.embed_dim, rngs=rngs)
        self.act = config.hidden_act

    def __call__(self, x):
        return self.fc2(ACTIVATIONS[self.act](self.fc1(x)))


class Block(nnx.Module):
    def __init__(self, config: VisionConfig, rngs: nnx.Rngs):
        self.norm1, self.norm2 = LayerNorm(config.embed_dim, 1e-6), LayerNorm(config.embed_dim, 1e-6)
        self.attn, self.mlp = Attention(config, rngs), Mlp(config, rngs)

    def __call__(self, x, turn):
        x = constrain(x, "batch")
        x = x + self.attn(self.norm1(x), turn)
        return constrain(x + self.mlp(self.norm2(x)), "batch")


class Merger(nnx.Module):
    """Each merge x merge neighbouring patches, which stand together, become one token."""

    def __init__(self, config: VisionConfig, rngs: nnx.Rngs):
        self.joined = config.embed_dim * config.spatial_merge_size**2
        self.ln_q = LayerNorm(config.embed_dim, 1e-6)
        self.mlp = Indexed(
            {0: Linear(self.joined, self.joined, rngs=rngs), 2: Linear(self.joined, config.hidden_size, rngs=rngs)}
        )

    def __call__(self, x):
        x = self.ln_q(x).reshape(x.shape[0], -1, self.joined)
        return self.mlp[2](ACTIVATIONS["gelu"](self.mlp[0](x)))


class VisionTower(nnx.Module):
    """patches [N, high x wide, channels x time x side x side] of pictures of one grid (high, wide), merge x merge neighbours
    together -> tokens [N, high x wide / merge^2, hidden_size]."""

    def __init__(self, config: VisionConfig, rngs: nnx.Rngs):
        self.patch_embed = PatchEmbed(config, rngs)
        self.blocks = build_stack(lambda r: Block(config, r), config.depth, rngs)
        self.merger = Merger(config, rngs)
        self.merge, self.head_dim = config.spatial_merge_size, config.embed_dim // config.num_heads

    def __call__(self, patches, grid: tuple[int, int]):
        turn = rotary.of_patches(grid, self.merge, self.head_dim)
        x = scan_stack(self.blocks, self.patch_embed.proj(patches), lambda block, x: block(x, turn))
        return self.merger(x)

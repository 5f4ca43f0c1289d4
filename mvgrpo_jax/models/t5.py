"""T5 v1.1 encoder: RMSNorm before each layer, gated GELU, relative position buckets, unscaled attention.

The residual stream of T5-XXL grows to tens of thousands, far above what a layer adds: in float16 it overflows, in bfloat16
(8 bits of mantissa) small additions are lost. So the stream is float32 whatever the arithmetic of the layers, and each layer's
last product is handed over in float32.
"""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from flax import nnx

from mvgrpo_jax.models.attention import attention
from mvgrpo_jax.models.layers import ACTIVATIONS, Embed, Indexed, Linear, RMSNorm, heads, merge_heads
from mvgrpo_jax.models.module import Network, build_stack, scan_stack
from mvgrpo_jax.parallel.rules import constrain


@dataclasses.dataclass(frozen=True)
class T5Config:
    """The fields of a T5 config.json that shape the encoder."""

    vocab_size: int = 32128
    d_model: int = 4096
    d_kv: int = 64
    d_ff: int = 10240
    num_layers: int = 24
    num_heads: int = 64
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    feed_forward_proj: str = "gated-gelu"

    def __post_init__(self):
        if self.feed_forward_proj != "gated-gelu":
            raise ValueError(f"only T5 v1.1 (feed_forward_proj 'gated-gelu') is known, got {self.feed_forward_proj!r}")


def position_buckets(length: int, buckets: int, max_distance: int) -> np.ndarray:
    """int32 [length, length]: the bucket of key position - query position; exact near by, logarithmic farther away."""
    relative = np.arange(length)[None, :] - np.arange(length)[:, None]
    half, exact = buckets // 2, buckets // 4
    distance = np.abs(relative)
    log = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact)) / math.log(max_distance / exact)
    far = np.minimum(exact + (log * (half - exact)).astype(np.int32), half - 1)
    return (np.where(distance < exact, distance, far) + half * (relative > 0)).astype(np.int32)


class SelfAttention(nnx.Module):
    def __init__(self, config: T5Config, rngs: nnx.Rngs):
        inner = config.num_heads * config.d_kv
        self.q, self.k, self.v = (Linear(config.d_model, inner, bias=False, rngs=rngs) for _ in range(3))
        self.o = Linear(inner, config.d_model, bias=False, rngs=rngs)
        self.heads = config.num_heads

    def __call__(self, x, bias, mask):
        q, k, v = (constrain(heads(f(x), self.heads), "batch", None, "hidden") for f in (self.q, self.k, self.v))
        mixed = merge_heads(attention(q, k, v, bias=bias.astype(q.dtype), mask=mask, scale=1.0))
        return self.o(mixed, jnp.float32)


class AttentionLayer(nnx.Module):
    def __init__(self, config: T5Config, rngs: nnx.Rngs):
        self.SelfAttention = SelfAttention(config, rngs)
        self.layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)


class GatedFeedForward(nnx.Module):
    def __init__(self, config: T5Config, rngs: nnx.Rngs):
        self.wi_0, self.wi_1 = (Linear(config.d_model, config.d_ff, bias=False, rngs=rngs) for _ in range(2))
        self.wo = Linear(config.d_ff, config.d_model, bias=False, rngs=rngs)

    def __call__(self, x):
        h = constrain(ACTIVATIONS["gelu_new"](self.wi_0(x)) * self.wi_1(x), "batch", None, "hidden")
        return self.wo(h, jnp.float32)


class FeedForwardLayer(nnx.Module):
    def __init__(self, config: T5Config, rngs: nnx.Rngs):
        self.DenseReluDense = GatedFeedForward(config, rngs)
        self.layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)


class Block(nnx.Module):
    def __init__(self, config: T5Config, rngs: nnx.Rngs):
        self.layer = Indexed({0: AttentionLayer(config, rngs), 1: FeedForwardLayer(config, rngs)})

    def __call__(self, x, bias, mask, dtype):
        """x: float32; dtype: of the layers' arithmetic."""
        attn, ff = self.layer[0], self.layer[1]
        x = constrain(x, "batch")
        x = x + attn.SelfAttention(attn.layer_norm(x).astype(dtype), bias, mask)
        return constrain(x + ff.DenseReluDense(ff.layer_norm(x).astype(dtype)), "batch")


class Stack(nnx.Module):
    def __init__(self, config: T5Config, rngs: nnx.Rngs):
        self.block = build_stack(lambda r: Block(config, r), config.num_layers, rngs)
        # Every layer shares the first one's table; transformers stores it there.
        self.relative_attention_bias = Embed(config.relative_attention_num_buckets, config.num_heads, std=0.1, rngs=rngs)
        self.final_layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)


class T5Encoder(nnx.Module):
    """ids: int [N, S] -> [N, S, d_model] in `dtype`. mask: bool [N, S], True at tokens that may be attended to."""

    def __init__(self, config: T5Config, rngs: nnx.Rngs):
        self.shared = Embed(config.vocab_size, config.d_model, std=1.0, rngs=rngs)
        self.encoder = Stack(config, rngs)
        self.buckets = (config.relative_attention_num_buckets, config.relative_attention_max_distance)

    def __call__(self, ids, mask=None, dtype=jnp.float32):
        bucket = position_buckets(ids.shape[1], *self.buckets)
        bias = self.encoder.relative_attention_bias(bucket).transpose(2, 0, 1)[None]
        mask = None if mask is None else mask[:, None, None, :]
        x = self.shared(ids).astype(jnp.float32)
        x = scan_stack(self.encoder.block, x, lambda block, x: block(x, bias, mask, dtype))
        return self.encoder.final_layer_norm(x).astype(dtype)


def t5(config: T5Config) -> Network:
    """The network of a text_encoder_2/config.json."""
    return Network.of(lambda rngs: T5Encoder(config, rngs), {"encoder.block": config.num_layers})

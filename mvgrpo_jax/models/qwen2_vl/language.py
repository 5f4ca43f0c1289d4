"""The decoder: grouped attention, causal, over a whole sequence, or by several continuations of one shared beginning.

A beginning (here a picture and the instruction) is computed once and its keys and values are kept; each of its continuations
attends to them and to itself, as it would in one sequence.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mvgrpo_jax.models.attention import attention
from mvgrpo_jax.models.layers import ACTIVATIONS, Embed, Linear, RMSNorm, heads, merge_heads
from mvgrpo_jax.models.module import build_stack, scan_layers
from mvgrpo_jax.models.qwen2_vl import rotary
from mvgrpo_jax.models.qwen2_vl.config import Qwen2VLConfig
from mvgrpo_jax.parallel.rules import constrain


class Past(NamedTuple):
    """Keys, turned by their positions, and values of a beginning: [N, T, kv_heads, head_dim]; of all layers, these in front."""

    keys: jax.Array
    values: jax.Array


def continued(q, k, v, past: Past) -> jax.Array:
    """Causal attention of V continuations of each of N beginnings, in float32 up to the weights. q [N, V, S, heads, head_dim],
    k and v [N, V, S, kv_heads, head_dim] -> [N, V, S, heads, head_dim]. The beginning's keys are not copied for each."""
    n, views, length, count, size = q.shape
    grouped = q.reshape(n, views, length, k.shape[-2], -1, size)
    dot = lambda pattern, a, b: jnp.einsum(pattern, a, b, preferred_element_type=jnp.float32)
    before = dot("nvskgd,ntkd->nvkgst", grouped, past.keys)
    own = dot("nvskgd,nvukd->nvkgsu", grouped, k)
    own = jnp.where(np.tril(np.ones((length, length), bool)), own, -jnp.inf)
    weights = jax.nn.softmax(jnp.concatenate([before, own], -1) * size**-0.5, axis=-1).astype(v.dtype)
    first, second = jnp.split(weights, [past.keys.shape[1]], axis=-1)
    out = dot("nvkgst,ntkd->nvskgd", first, past.values) + dot("nvkgsu,nvukd->nvskgd", second, v)
    return out.astype(q.dtype).reshape(n, views, length, count, size)


class Attention(nnx.Module):
    def __init__(self, config: Qwen2VLConfig, rngs: nnx.Rngs):
        width, size = config.hidden_size, config.head_dim
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.q_proj = Linear(width, self.heads * size, rngs=rngs)
        self.k_proj, self.v_proj = (Linear(width, self.kv_heads * size, rngs=rngs) for _ in range(2))
        self.o_proj = Linear(self.heads * size, width, bias=False, rngs=rngs)

    def __call__(self, x, turn, past: Past | None):
        """(result, the keys and values of x)."""
        q = rotary.rotate(heads(self.q_proj(x), self.heads), turn)
        k = rotary.rotate(heads(self.k_proj(x), self.kv_heads), turn)
        v = heads(self.v_proj(x), self.kv_heads)
        if past is None:
            mixed = attention(q, k, v, kind="native", causal=True)
        else:
            mixed = continued(q, k, v, past)
        return self.o_proj(merge_heads(mixed)), Past(k, v)


class Mlp(nnx.Module):
    def __init__(self, config: Qwen2VLConfig, rngs: nnx.Rngs):
        width, wide = config.hidden_size, config.intermediate_size
        self.gate_proj, self.up_proj = (Linear(width, wide, bias=False, rngs=rngs) for _ in range(2))
        self.down_proj = Linear(wide, width, bias=False, rngs=rngs)
        self.act = config.hidden_act

    def __call__(self, x):
        return self.down_proj(ACTIVATIONS[self.act](self.gate_proj(x)) * self.up_proj(x))


class Layer(nnx.Module):
    def __init__(self, config: Qwen2VLConfig, rngs: nnx.Rngs):
        self.self_attn, self.mlp = Attention(config, rngs), Mlp(config, rngs)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def __call__(self, x, turn, past: Past | None = None):
        x = constrain(x, "batch")  # parameters are gathered, not items
        mixed, made = self.self_attn(self.input_layernorm(x), turn, past)
        x = x + mixed
        return constrain(x + self.mlp(self.post_attention_layernorm(x)), "batch"), made


class Decoder(nnx.Module):
    """Embedded tokens -> hidden states after the last norm. positions: int [3, S], see rotary."""

    def __init__(self, config: Qwen2VLConfig, rngs: nnx.Rngs):
        self.embed_tokens = Embed(config.vocab_size, config.hidden_size, rngs=rngs)
        self.layers = build_stack(lambda r: Layer(config, r), config.num_hidden_layers, rngs)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary = (config.head_dim, config.rope_theta, config.mrope_section)

    def __call__(self, x, positions: np.ndarray) -> tuple[jax.Array, Past]:
        """x [N, S, hidden_size] -> (as large, the keys and values of all layers)."""
        turn = rotary.of_tokens(positions, *self.rotary)
        x, past = scan_layers(self.layers, x, lambda layer, x, _: layer(x, turn))
        return self.norm(x), past

    def extend(self, x, positions: np.ndarray, past: Past) -> jax.Array:
        """x [N, V, S, hidden_size], V continuations of each of N beginnings -> as large."""
        turn = rotary.of_tokens(positions, *self.rotary)
        x, _ = scan_layers(self.layers, x, lambda layer, x, kept: (layer(x, turn, kept)[0], None), past)
        return self.norm(x)

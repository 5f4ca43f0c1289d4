"""Layers. Parameters are cast to the input's dtype where they are used: the input decides the compute precision.

Normalisations compute in float32 and return the input's dtype. Images are channels-last.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx

_normal = jax.nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
_zeros = jax.nn.initializers.zeros


class Linear(nnx.Module):
    """y = x W + b. x: [..., in_dim] -> [..., out_dim]. The single place where a low-rank path attaches (models/lora.py)."""

    def __init__(self, in_dim: int, out_dim: int, *, bias: bool = True, init=_normal, rngs: nnx.Rngs):
        self.kernel = nnx.Param(init(rngs.params(), (in_dim, out_dim), jnp.float32))
        if bias:
            self.bias = nnx.Param(jnp.zeros((out_dim,), jnp.float32))

    def __call__(self, x: jax.Array, out: jnp.dtype | None = None) -> jax.Array:
        """out: the result's dtype, when it is to be wider than the factors'."""
        y = jnp.matmul(x, self.kernel[...].astype(x.dtype), preferred_element_type=out)
        if hasattr(self, "lora_a"):
            y += (x @ self.lora_a[...].astype(x.dtype)) @ self.lora_b[...].astype(x.dtype) * self.lora_scale
        return y + self.bias[...].astype(y.dtype) if hasattr(self, "bias") else y


class Conv(nnx.Module):
    """2-D convolution, [N, H, W, in] -> [N, H', W', out]; `padding` as ((top, bottom), (left, right))."""

    def __init__(self, in_dim, out_dim, size, *, stride=1, padding=((0, 0), (0, 0)), bias=True, rngs: nnx.Rngs):
        self.kernel = nnx.Param(_normal(rngs.params(), (size, size, in_dim, out_dim), jnp.float32))
        if bias:
            self.bias = nnx.Param(jnp.zeros((out_dim,), jnp.float32))
        self.stride, self.padding = stride, padding

    def __call__(self, x: jax.Array) -> jax.Array:
        y = jax.lax.conv_general_dilated(
            x,
            self.kernel[...].astype(x.dtype),
            (self.stride, self.stride),
            self.padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y + self.bias[...].astype(x.dtype) if hasattr(self, "bias") else y


class Embed(nnx.Module):
    """Rows of a table: ids [...] -> [..., dim]."""

    def __init__(self, count: int, dim: int, *, std: float = 0.02, rngs: nnx.Rngs):
        self.embedding = nnx.Param(std * jax.random.normal(rngs.params(), (count, dim), jnp.float32))

    def __call__(self, ids: jax.Array) -> jax.Array:
        return self.embedding[...][ids]


class RMSNorm(nnx.Module):
    """x / rms(x) * scale over the last axis."""

    def __init__(self, dim: int, eps: float = 1e-6):
        self.scale = nnx.Param(jnp.ones((dim,), jnp.float32))
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        h = x.astype(jnp.float32)
        h = h * jax.lax.rsqrt(jnp.mean(h * h, -1, keepdims=True) + self.eps)
        return (h * self.scale[...].astype(jnp.float32)).astype(x.dtype)


def layer_norm(x: jax.Array, eps: float) -> jax.Array:
    """Zero mean, unit variance over the last axis, in float32."""
    h = x.astype(jnp.float32)
    h = h - h.mean(-1, keepdims=True)
    return h * jax.lax.rsqrt(jnp.mean(h * h, -1, keepdims=True) + eps)


class LayerNorm(nnx.Module):
    def __init__(self, dim: int, eps: float = 1e-5):
        self.scale = nnx.Param(jnp.ones((dim,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((dim,), jnp.float32))
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        h = layer_norm(x, self.eps)
        return (h * self.scale[...].astype(jnp.float32) + self.bias[...].astype(jnp.float32)).astype(x.dtype)


class GroupNorm(nnx.Module):
    """Normalises [N, H, W, C] over space and each of `groups` groups of channels."""

    def __init__(self, groups: int, dim: int, eps: float = 1e-6):
        self.scale = nnx.Param(jnp.ones((dim,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((dim,), jnp.float32))
        self.groups, self.eps = groups, eps

    def __call__(self, x: jax.Array) -> jax.Array:
        n, height, width, channels = x.shape
        h = x.astype(jnp.float32).reshape(n, height * width, self.groups, channels // self.groups)
        h = h - h.mean((1, 3), keepdims=True)
        h = h * jax.lax.rsqrt(jnp.mean(h * h, (1, 3), keepdims=True) + self.eps)
        h = h.reshape(x.shape) * self.scale[...].astype(jnp.float32) + self.bias[...].astype(jnp.float32)
        return h.astype(x.dtype)


class Indexed(nnx.Module):
    """Sub-modules with numbers for names, as in torch's Sequential and ModuleList (gaps allowed)."""

    def __init__(self, modules: dict[int, nnx.Module]):
        for index, module in modules.items():
            setattr(self, str(index), module)

    def __getitem__(self, index: int) -> nnx.Module:
        return getattr(self, str(index))


def heads(x: jax.Array, count: int) -> jax.Array:
    """[..., S, heads * head_dim] -> [..., S, heads, head_dim]."""
    return x.reshape(*x.shape[:-1], count, -1)


def merge_heads(x: jax.Array) -> jax.Array:
    """[..., S, heads, head_dim] -> [..., S, heads * head_dim]."""
    return x.reshape(*x.shape[:-2], -1)


def sinusoid(position: jax.Array, dim: int, max_period: float = 10_000.0) -> jax.Array:
    """[N] -> float32 [N, dim]: cosines, then sines, of geometrically spaced frequencies (diffusers' flip_sin_to_cos)."""
    half = dim // 2
    frequency = jnp.exp(-math.log(max_period) * jnp.arange(half, dtype=jnp.float32) / half)
    angle = position.astype(jnp.float32)[:, None] * frequency
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], -1)


ACTIVATIONS = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}

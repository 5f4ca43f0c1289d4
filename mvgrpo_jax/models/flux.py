"""FluxTransformer2DModel: the velocity network of Flux.1 (19 double and 38 single blocks at full size)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from mvgrpo_jax.models.attention import attention
from mvgrpo_jax.models.layers import Indexed, Linear, RMSNorm, _zeros, heads, layer_norm, merge_heads, sinusoid
from mvgrpo_jax.models.module import Network, build_stack, scan_stack
from mvgrpo_jax.parallel.rules import constrain

EPS = 1e-6
# Axes of heads and hidden units. Activations are pinned to the batch at every block: without that the compiler splits them
# along the width that the weights are stored by, and sums activations over devices instead of gathering weights.
HIDDEN = ("batch", None, "hidden")


@dataclasses.dataclass(frozen=True)
class FluxConfig:
    """The fields of diffusers' transformer/config.json that shape the network."""

    in_channels: int = 64
    out_channels: int | None = None
    num_layers: int = 19
    num_single_layers: int = 38
    attention_head_dim: int = 128
    num_attention_heads: int = 24
    joint_attention_dim: int = 4096
    pooled_projection_dim: int = 768
    guidance_embeds: bool = True
    axes_dims_rope: tuple[int, ...] = (16, 56, 56)

    def __post_init__(self):
        object.__setattr__(self, "axes_dims_rope", tuple(self.axes_dims_rope))
        if sum(self.axes_dims_rope) != self.attention_head_dim:
            raise ValueError(f"axes_dims_rope {self.axes_dims_rope} must sum to attention_head_dim {self.attention_head_dim}")

    @property
    def width(self) -> int:
        return self.attention_head_dim * self.num_attention_heads


def rotary(ids: jax.Array, axes_dims: tuple[int, ...], theta: float = 10_000.0) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines of the rotary embedding: ids [S, axes] -> two float32 [S, head_dim / 2]."""
    angles = []
    for axis, dim in enumerate(axes_dims):
        frequency = theta ** (-jnp.arange(0, dim, 2, dtype=jnp.float32) / dim)
        angles.append(ids[:, axis].astype(jnp.float32)[:, None] * frequency)
    angle = jnp.concatenate(angles, -1)
    return jnp.cos(angle), jnp.sin(angle)


def rotate(x: jax.Array, rope: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotates neighbouring pairs of x [N, S, heads, head_dim], in float32."""
    cos, sin = (a[None, :, None, :] for a in rope)
    pair = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    even, odd = pair[..., 0], pair[..., 1]
    return jnp.stack([even * cos - odd * sin, odd * cos + even * sin], -1).reshape(x.shape).astype(x.dtype)


def latent_ids(height: int, width: int) -> jax.Array:
    """Rotary ids of packed latents, (0, row, column): float32 [height * width, 3], sizes in packed tokens."""
    rows, columns = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    return jnp.stack([jnp.zeros_like(rows), rows, columns], -1).reshape(-1, 3).astype(jnp.float32)


class Mlp(nnx.Module):
    """linear_1, SiLU, linear_2: the embedders of time, guidance and pooled text."""

    def __init__(self, in_dim: int, width: int, rngs: nnx.Rngs):
        self.linear_1 = Linear(in_dim, width, rngs=rngs)
        self.linear_2 = Linear(width, width, rngs=rngs)

    def __call__(self, x):
        return self.linear_2(jax.nn.silu(self.linear_1(x)))


class Embedder(nnx.Module):
    def __init__(self, config: FluxConfig, rngs: nnx.Rngs):
        self.timestep_embedder = Mlp(256, config.width, rngs)
        if config.guidance_embeds:
            self.guidance_embedder = Mlp(256, config.width, rngs)
        self.text_embedder = Mlp(config.pooled_projection_dim, config.width, rngs)

    def __call__(self, sigma, guidance, pooled, to_lanes):
        # Time and guidance are in [0, 1] and units of guidance; the network knows them times 1000.
        emb = self.timestep_embedder(sinusoid(sigma * 1000.0, 256).astype(pooled.dtype))
        if hasattr(self, "guidance_embedder"):
            emb += self.guidance_embedder(sinusoid(guidance * 1000.0, 256).astype(pooled.dtype))
        return emb + to_lanes(self.text_embedder(pooled))


class Modulation(nnx.Module):
    """`count` vectors [N, 1, width] from the embedding [N, width]; starts at zero, as adaLN-zero does."""

    def __init__(self, width: int, count: int, rngs: nnx.Rngs):
        self.linear = Linear(width, count * width, init=_zeros, rngs=rngs)
        self.count = count

    def __call__(self, emb):
        return jnp.split(self.linear(jax.nn.silu(emb))[:, None], self.count, -1)


def modulate(x, shift, scale):
    return (layer_norm(x, EPS) * (1.0 + scale) + shift).astype(x.dtype)


class FeedForward(nnx.Module):
    def __init__(self, width: int, rngs: nnx.Rngs):
        self.net = Indexed({0: Projection(width, 4 * width, rngs), 2: Linear(4 * width, width, rngs=rngs)})

    def __call__(self, x):
        return self.net[2](constrain(jax.nn.gelu(self.net[0].proj(x), approximate=True), *HIDDEN))


class Projection(nnx.Module):
    def __init__(self, in_dim: int, out_dim: int, rngs: nnx.Rngs):
        self.proj = Linear(in_dim, out_dim, rngs=rngs)


class Attention(nnx.Module):
    """Queries, keys and values of the image tokens and, in double blocks, of the text tokens beside them."""

    def __init__(self, config: FluxConfig, joint: bool, kind: str, rngs: nnx.Rngs):
        width, head_dim = config.width, config.attention_head_dim
        self.to_q, self.to_k, self.to_v = (Linear(width, width, rngs=rngs) for _ in range(3))
        self.norm_q, self.norm_k = RMSNorm(head_dim, EPS), RMSNorm(head_dim, EPS)
        if joint:
            self.add_q_proj, self.add_k_proj, self.add_v_proj = (Linear(width, width, rngs=rngs) for _ in range(3))
            self.norm_added_q, self.norm_added_k = RMSNorm(head_dim, EPS), RMSNorm(head_dim, EPS)
            self.to_out = Indexed({0: Linear(width, width, rngs=rngs)})
            self.to_add_out = Linear(width, width, rngs=rngs)
        self.heads, self.kind = config.num_attention_heads, kind

    def qkv(self, x):
        q, k, v = (constrain(heads(f(x), self.heads), *HIDDEN) for f in (self.to_q, self.to_k, self.to_v))
        return self.norm_q(q), self.norm_k(k), v

    def added_qkv(self, x):
        q, k, v = (constrain(heads(f(x), self.heads), *HIDDEN) for f in (self.add_q_proj, self.add_k_proj, self.add_v_proj))
        return self.norm_added_q(q), self.norm_added_k(k), v

    def mix(self, q, k, v, rope):
        return merge_heads(attention(rotate(q, rope), rotate(k, rope), v, kind=self.kind))


class DoubleBlock(nnx.Module):
    def __init__(self, config: FluxConfig, kind: str, rngs: nnx.Rngs):
        self.norm1 = Modulation(config.width, 6, rngs)
        self.norm1_context = Modulation(config.width, 6, rngs)
        self.attn = Attention(config, True, kind, rngs)
        self.ff = FeedForward(config.width, rngs)
        self.ff_context = FeedForward(config.width, rngs)

    def __call__(self, img, txt, emb, rope):
        img, txt, emb = (constrain(a, "batch") for a in (img, txt, emb))
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = self.norm1(emb)
        shift_c, scale_c, gate_c, shift_mlp_c, scale_mlp_c, gate_mlp_c = self.norm1_context(emb)
        qkv = self.attn.qkv(modulate(img, shift, scale))
        added = self.attn.added_qkv(modulate(txt, shift_c, scale_c))
        out = self.attn.mix(*(jnp.concatenate([a, b], 1) for a, b in zip(added, qkv)), rope)
        out_txt, out_img = jnp.split(out, [txt.shape[1]], 1)
        img = img + gate * self.attn.to_out[0](out_img)
        img = img + gate_mlp * self.ff(modulate(img, shift_mlp, scale_mlp))
        txt = txt + gate_c * self.attn.to_add_out(out_txt)
        txt = txt + gate_mlp_c * self.ff_context(modulate(txt, shift_mlp_c, scale_mlp_c))
        return constrain(img, "batch"), constrain(txt, "batch")


class SingleBlock(nnx.Module):
    def __init__(self, config: FluxConfig, kind: str, rngs: nnx.Rngs):
        width = config.width
        self.norm = Modulation(width, 3, rngs)
        self.attn = Attention(config, False, kind, rngs)
        self.proj_mlp = Linear(width, 4 * width, rngs=rngs)
        self.proj_out = Linear(5 * width, width, rngs=rngs)

    def __call__(self, x, emb, rope):
        x, emb = constrain(x, "batch"), constrain(emb, "batch")
        shift, scale, gate = self.norm(emb)
        h = modulate(x, shift, scale)
        mlp = constrain(jax.nn.gelu(self.proj_mlp(h), approximate=True), *HIDDEN)
        out = self.attn.mix(*self.attn.qkv(h), rope)
        return constrain(x + gate * self.proj_out(jnp.concatenate([out, mlp], -1)), "batch")


class FluxTransformer(nnx.Module):
    """Velocity of packed latents.

    img: [N, L, in_channels]; sigma: [N] in [0, 1]; txt: [N, S, joint_attention_dim]; pooled: [N, pooled_projection_dim];
    img_ids: [L, 3]; guidance: [N] (unused without a guidance embedding). Returns [N, L, out_channels] in img's dtype.
    to_lanes: where several of the N have one text, txt and pooled hold each text once, and this makes [N, ...] of an array that
    leads with the texts: a text is embedded once.
    """

    def __init__(self, config: FluxConfig, rngs: nnx.Rngs, remat: str, unroll: int, attention: str):
        width = config.width
        self.x_embedder = Linear(config.in_channels, width, rngs=rngs)
        self.context_embedder = Linear(config.joint_attention_dim, width, rngs=rngs)
        self.time_text_embed = Embedder(config, rngs)
        self.transformer_blocks = build_stack(lambda r: DoubleBlock(config, attention, r), config.num_layers, rngs)
        self.single_transformer_blocks = build_stack(
            lambda r: SingleBlock(config, attention, r), config.num_single_layers, rngs
        )
        self.norm_out = Modulation(width, 2, rngs)
        self.proj_out = Linear(width, config.out_channels or config.in_channels, init=_zeros, rngs=rngs)
        self.axes_dims_rope, self.remat, self.unroll = config.axes_dims_rope, remat, unroll

    def __call__(self, img, sigma, txt, pooled, img_ids, guidance, to_lanes=lambda of_texts: of_texts):
        ids = jnp.concatenate([jnp.zeros((txt.shape[1], img_ids.shape[1]), img_ids.dtype), img_ids])
        rope = rotary(ids, self.axes_dims_rope)
        emb = constrain(self.time_text_embed(sigma, guidance, pooled.astype(img.dtype), to_lanes), "batch")
        txt = constrain(to_lanes(self.context_embedder(txt.astype(img.dtype))), "batch")
        img = constrain(self.x_embedder(img), "batch")
        options = {"remat": self.remat, "unroll": self.unroll}
        img, txt = scan_stack(self.transformer_blocks, (img, txt), lambda b, c: b(*c, emb, rope), **options)
        x = jnp.concatenate([txt, img], 1)
        x = scan_stack(self.single_transformer_blocks, x, lambda b, c: b(c, emb, rope), **options)
        scale, shift = self.norm_out(emb)  # diffusers' AdaLayerNormContinuous has the scale first
        return constrain(self.proj_out(modulate(x[:, txt.shape[1] :], shift, scale)), "batch")


def flux(config: FluxConfig, remat: str = "none", unroll: int = 1, attention: str = "xla") -> Network:
    """The network of a transformer/config.json. remat: a key of module.REMAT; attention: a kernel of models/attention.py."""
    return Network.of(
        lambda rngs: FluxTransformer(config, rngs, remat, unroll, attention),
        {"transformer_blocks": config.num_layers, "single_transformer_blocks": config.num_single_layers},
    )


def forward_flops(config: FluxConfig, image_tokens: int, text_tokens: int) -> int:
    """Floating-point operations of one forward pass of one sample: matrix products only, two per multiply-add."""
    d, tokens = config.width, image_tokens + text_tokens
    linear = config.num_layers * 12 * d * d * tokens + config.num_single_layers * 12 * d * d * tokens
    scores = (config.num_layers + config.num_single_layers) * 2 * tokens * tokens * d
    modulation = (12 * config.num_layers + 3 * config.num_single_layers + 2) * d * d
    embed = (256 * d + d * d) * (2 if config.guidance_embeds else 1)
    ends = image_tokens * d * (config.in_channels + (config.out_channels or config.in_channels))
    return 2 * int(linear + scores + modulation + embed + ends) + text_flops(config, text_tokens)


def text_flops(config: FluxConfig, text_tokens: int) -> int:
    """Those of them that embed a text, which all samples of one text share."""
    d = config.width
    return 2 * (text_tokens * d * config.joint_attention_dim + config.pooled_projection_dim * d + d * d)

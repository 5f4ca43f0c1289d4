"""CLIP: the text tower (Flux's pooled prompt) and the full model with both projections (rewards)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from mvgrpo_jax.models.attention import attention
from mvgrpo_jax.models.layers import ACTIVATIONS, Conv, Embed, LayerNorm, Linear, heads, merge_heads
from mvgrpo_jax.models.module import Network, build_stack, scan_stack
from mvgrpo_jax.parallel.rules import constrain


@dataclasses.dataclass(frozen=True)
class TowerConfig:
    """One transformer tower; `eos_token_id` and `vocab_size` are the text tower's, image and patch size the vision's."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    vocab_size: int = 49408
    max_position_embeddings: int = 77
    eos_token_id: int = 2
    image_size: int = 224
    patch_size: int = 14
    num_channels: int = 3


@dataclasses.dataclass(frozen=True)
class ClipConfig:
    """The full model: both towers and the shared space."""

    text: TowerConfig
    vision: TowerConfig
    projection_dim: int = 512


class SelfAttention(nnx.Module):
    def __init__(self, config: TowerConfig, rngs: nnx.Rngs):
        width = config.hidden_size
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (Linear(width, width, rngs=rngs) for _ in range(4))
        self.heads = config.num_attention_heads

    def __call__(self, x, mask):
        q, k, v = (heads(f(x), self.heads) for f in (self.q_proj, self.k_proj, self.v_proj))
        return self.out_proj(merge_heads(attention(q, k, v, mask=mask)))


class Mlp(nnx.Module):
    def __init__(self, config: TowerConfig, rngs: nnx.Rngs):
        self.fc1 = Linear(config.hidden_size, config.intermediate_size, rngs=rngs)
        self.fc2 = Linear(config.intermediate_size, config.hidden_size, rngs=rngs)
        self.act = config.hidden_act

    def __call__(self, x):
        return self.fc2(ACTIVATIONS[self.act](self.fc1(x)))


class Layer(nnx.Module):
    def __init__(self, config: TowerConfig, rngs: nnx.Rngs):
        self.self_attn = SelfAttention(config, rngs)
        self.layer_norm1 = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.mlp = Mlp(config, rngs)
        self.layer_norm2 = LayerNorm(config.hidden_size, config.layer_norm_eps)

    def __call__(self, x, mask):
        x = constrain(x, "batch")  # parameters are gathered, not items
        x = x + self.self_attn(self.layer_norm1(x), mask)
        return constrain(x + self.mlp(self.layer_norm2(x)), "batch")


class LayerStack(nnx.Module):
    def __init__(self, config: TowerConfig, rngs: nnx.Rngs):
        self.layers = build_stack(lambda r: Layer(config, r), config.num_hidden_layers, rngs)

    def __call__(self, x, mask=None):
        return scan_stack(self.layers, x, lambda layer, x: layer(x, mask))


class TextEmbeddings(nnx.Module):
    def __init__(self, config: TowerConfig, rngs: nnx.Rngs):
        self.token_embedding = Embed(config.vocab_size, config.hidden_size, rngs=rngs)
        self.position_embedding = Embed(config.max_position_embeddings, config.hidden_size, std=0.01, rngs=rngs)


class TextTower(nnx.Module):
    """ids: int [N, S] -> (hidden [N, S, hidden_size], pooled [N, hidden_size]), the latter at the end-of-text token."""

    def __init__(self, config: TowerConfig, rngs: nnx.Rngs):
        self.embeddings = TextEmbeddings(config, rngs)
        self.encoder = LayerStack(config, rngs)
        self.final_layer_norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.eos_token_id = config.eos_token_id

    def __call__(self, ids, dtype=jnp.float32):
        length = ids.shape[1]
        x = self.embeddings.token_embedding(ids) + self.embeddings.position_embedding(jnp.arange(length))
        causal = jnp.tril(jnp.ones((length, length), bool))[None, None]
        x = self.final_layer_norm(self.encoder(x.astype(dtype), causal))
        # transformers: configs written with eos_token_id 2 (OpenAI's) mean the largest id instead.
        end = ids.argmax(-1) if self.eos_token_id == 2 else (ids == self.eos_token_id).argmax(-1)
        return x, x[jnp.arange(ids.shape[0]), end]


class VisionEmbeddings(nnx.Module):
    def __init__(self, config: TowerConfig, rngs: nnx.Rngs, *, bias: bool = False):
        width, patch = config.hidden_size, config.patch_size
        self.class_embedding = nnx.Param(0.02 * jax.random.normal(rngs.params(), (width,)))
        self.patch_embedding = Conv(config.num_channels, width, patch, stride=patch, bias=bias, rngs=rngs)
        self.position_embedding = Embed((config.image_size // patch) ** 2 + 1, width, rngs=rngs)

    def __call__(self, image):
        x = self.patch_embedding(image)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        first = jnp.broadcast_to(self.class_embedding[...].astype(x.dtype), (x.shape[0], 1, x.shape[-1]))
        return jnp.concatenate([first, x], 1) + self.position_embedding.embedding[...].astype(x.dtype)


class VisionTower(nnx.Module):
    """image: [N, image_size, image_size, 3], normalised -> pooled [N, hidden_size], the class token."""

    def __init__(self, config: TowerConfig, rngs: nnx.Rngs):
        self.embeddings = VisionEmbeddings(config, rngs)
        self.pre_layrnorm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.encoder = LayerStack(config, rngs)
        self.post_layernorm = LayerNorm(config.hidden_size, config.layer_norm_eps)

    def __call__(self, image):
        return self.post_layernorm(self.encoder(self.pre_layrnorm(self.embeddings(image)))[:, 0])


class ClipText(nnx.Module):
    """CLIPTextModel: the text tower alone."""

    def __init__(self, config: TowerConfig, rngs: nnx.Rngs):
        self.text_model = TextTower(config, rngs)

    def __call__(self, ids, dtype=jnp.float32):
        return self.text_model(ids, dtype)


class Clip(nnx.Module):
    """CLIPModel. `embed_text` and `embed_image` give unit vectors [N, projection_dim] of the shared space."""

    def __init__(self, config: ClipConfig, rngs: nnx.Rngs):
        self.text_model = TextTower(config.text, rngs)
        self.vision_model = VisionTower(config.vision, rngs)
        self.text_projection = Linear(config.text.hidden_size, config.projection_dim, bias=False, rngs=rngs)
        self.visual_projection = Linear(config.vision.hidden_size, config.projection_dim, bias=False, rngs=rngs)
        self.logit_scale = nnx.Param(jnp.asarray(2.6592, jnp.float32))

    def embed_text(self, ids, dtype=jnp.float32):
        return unit(self.text_projection(self.text_model(ids, dtype)[1]))

    def embed_image(self, image):
        return unit(self.visual_projection(self.vision_model(image)))

    def __call__(self, ids, image):
        """Logits of every image under every text: [N_image, N_text]."""
        scale = jnp.exp(self.logit_scale[...].astype(jnp.float32))
        return scale * self.embed_image(image) @ self.embed_text(ids).T


def unit(x: jax.Array) -> jax.Array:
    x = x.astype(jnp.float32)
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def clip_text(config: TowerConfig) -> Network:
    """The network of a CLIPTextModel config.json."""
    return Network.of(lambda rngs: ClipText(config, rngs), {"text_model.encoder.layers": config.num_hidden_layers})


def clip(config: ClipConfig) -> Network:
    """The network of a CLIPModel config.json."""
    return Network.of(
        lambda rngs: Clip(config, rngs),
        {
            "text_model.encoder.layers": config.text.num_hidden_layers,
            "vision_model.encoder.layers": config.vision.num_hidden_layers,
        },
    )


def config_from(config: dict) -> ClipConfig:
    """A CLIPModel config.json, in which fields that equal CLIP's defaults may be left out."""

    def tower(name: str, defaults: dict) -> TowerConfig:
        known = {f.name for f in dataclasses.fields(TowerConfig)}
        given = {k: v for k, v in config.get(name, {}).items() if k in known and v is not None}
        return TowerConfig(**(defaults | given))

    text = dict(hidden_size=512, intermediate_size=2048, num_attention_heads=8, eos_token_id=49407)
    return ClipConfig(tower("text_config", text), tower("vision_config", {"patch_size": 32}), config.get("projection_dim", 512))

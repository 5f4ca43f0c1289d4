"""BLIP's text encoder that looks at a picture, and its image tower, with one number at their end.

arXiv 2201.12086 (BLIP), 2304.05977 (ImageReward).

Names of the image tower are CLIP's, of which it is a variant: a bias with its patches, no norm before its blocks and one of all
tokens after them. Names of the text encoder are BERT's.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from mvgrpo_jax.models.attention import attention
from mvgrpo_jax.models.clip import LayerStack, TowerConfig, VisionEmbeddings
from mvgrpo_jax.models.layers import ACTIVATIONS, Embed, LayerNorm, Linear, heads, merge_heads
from mvgrpo_jax.models.module import Network, build_stack, scan_stack
from mvgrpo_jax.parallel.rules import constrain


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """The fields of a med_config.json that count here, with ImageReward's values."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    vocab_size: int = 30524
    max_position_embeddings: int = 512


@dataclasses.dataclass(frozen=True)
class BlipConfig:
    text: BertConfig
    vision: TowerConfig


class BlipVision(nnx.Module):
    """image: [N, image_size, image_size, 3], normalised -> [N, tokens, hidden_size]."""

    def __init__(self, config: TowerConfig, rngs: nnx.Rngs):
        self.embeddings = VisionEmbeddings(config, rngs, bias=True)
        self.encoder = LayerStack(config, rngs)
        self.post_layernorm = LayerNorm(config.hidden_size, config.layer_norm_eps)

    def __call__(self, image):
        return self.post_layernorm(self.encoder(self.embeddings(image)))


class Projections(nnx.Module):
    """Attention of x [N, S, hidden] to `seen` [N, T, width] without the projection back."""

    def __init__(self, config: BertConfig, width: int, rngs: nnx.Rngs):
        self.query = Linear(config.hidden_size, config.hidden_size, rngs=rngs)
        self.key, self.value = (Linear(width, config.hidden_size, rngs=rngs) for _ in range(2))
        self.heads = config.num_attention_heads

    def __call__(self, x, seen, mask=None):
        q, k, v = (heads(f(a), self.heads) for f, a in ((self.query, x), (self.key, seen), (self.value, seen)))
        return merge_heads(attention(q, k, v, mask=mask))


class Output(nnx.Module):
    """The norm of what is added to x."""

    def __init__(self, config: BertConfig, width: int, rngs: nnx.Rngs):
        self.dense = Linear(width, config.hidden_size, rngs=rngs)
        self.LayerNorm = LayerNorm(config.hidden_size, config.layer_norm_eps)

    def __call__(self, hidden, x):
        return self.LayerNorm(x + self.dense(hidden))


class Attention(nnx.Module):
    def __init__(self, config: BertConfig, width: int, rngs: nnx.Rngs):
        self.self = Projections(config, width, rngs)
        self.output = Output(config, config.hidden_size, rngs)


class Intermediate(nnx.Module):
    def __init__(self, config: BertConfig, rngs: nnx.Rngs):
        self.dense = Linear(config.hidden_size, config.intermediate_size, rngs=rngs)


class BertLayer(nnx.Module):
    def __init__(self, config: BertConfig, seen: int, rngs: nnx.Rngs):
        self.attention = Attention(config, config.hidden_size, rngs)
        self.crossattention = Attention(config, seen, rngs)
        self.intermediate = Intermediate(config, rngs)
        self.output = Output(config, config.intermediate_size, rngs)
        self.act = config.hidden_act

    def __call__(self, x, mask, pictures):
        """x: [N, V, S, hidden]; a picture's V texts are one row of queries to it, so that it is projected once for all."""
        x = constrain(x, "batch")
        flat = x.reshape(-1, *x.shape[2:])
        flat = self.attention.output(self.attention.self(flat, flat, mask), flat)
        rows = flat.reshape(x.shape[0], -1, x.shape[-1])
        rows = self.crossattention.output(self.crossattention.self(rows, pictures), rows)
        hidden = ACTIVATIONS[self.act](self.intermediate.dense(rows))
        return constrain(self.output(hidden, rows).reshape(x.shape), "batch")


class BertEmbeddings(nnx.Module):
    def __init__(self, config: BertConfig, rngs: nnx.Rngs):
        self.word_embeddings = Embed(config.vocab_size, config.hidden_size, rngs=rngs)
        self.position_embeddings = Embed(config.max_position_embeddings, config.hidden_size, rngs=rngs)
        self.LayerNorm = LayerNorm(config.hidden_size, config.layer_norm_eps)

    def __call__(self, ids, dtype):
        x = self.word_embeddings(ids) + self.position_embeddings(jnp.arange(ids.shape[-1]))
        return self.LayerNorm(x.astype(dtype))


class BertStack(nnx.Module):
    def __init__(self, config: BertConfig, seen: int, rngs: nnx.Rngs):
        self.layer = build_stack(lambda r: BertLayer(config, seen, r), config.num_hidden_layers, rngs)

    def __call__(self, x, mask, pictures):
        return scan_stack(self.layer, x, lambda layer, x: layer(x, mask, pictures))


class BlipText(nnx.Module):
    """ids: int [N, V, S], there: bool of the same shape, False at padding; pictures: [N, tokens, width] -> [N, V, S, hidden].
    Every text token sees every other one and the whole picture of its row."""

    def __init__(self, config: BertConfig, seen: int, rngs: nnx.Rngs):
        self.embeddings = BertEmbeddings(config, rngs)
        self.encoder = BertStack(config, seen, rngs)

    def __call__(self, ids, there, pictures):
        mask = there.reshape(-1, 1, 1, there.shape[-1])
        return self.encoder(self.embeddings(ids, pictures.dtype), mask, pictures)


class ImageReward(nnx.Module):
    """image: [N, side, side, 3], normalised, ids and there: [N, V, S] -> float32 [N, V]: linear in the first token's vector."""

    def __init__(self, config: BlipConfig, rngs: nnx.Rngs):
        self.vision_model = BlipVision(config.vision, rngs)
        self.text_encoder = BlipText(config.text, config.vision.hidden_size, rngs)
        self.head = Linear(config.text.hidden_size, 1, rngs=rngs)

    def __call__(self, image, ids, there) -> jax.Array:
        hidden = self.text_encoder(ids, there, self.vision_model(image))
        return self.head(hidden[:, :, 0].astype(jnp.float32))[..., 0]


def image_reward(config: BlipConfig) -> Network:
    return Network.of(
        lambda rngs: ImageReward(config, rngs),
        {
            "vision_model.encoder.layers": config.vision.num_hidden_layers,
            "text_encoder.encoder.layer": config.text.num_hidden_layers,
        },
    )

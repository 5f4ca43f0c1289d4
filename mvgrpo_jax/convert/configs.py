"""The config that a file's shapes imply, and the config.json that diffusers and transformers expect beside such weights."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from mvgrpo_jax.convert.naming import TIED
from mvgrpo_jax.convert.sources import Source
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.models.clip import TowerConfig
from mvgrpo_jax.models.flux import FluxConfig
from mvgrpo_jax.models.t5 import T5Config
from mvgrpo_jax.models.vae import VaeConfig

Config = FluxConfig | VaeConfig | TowerConfig | T5Config

# The tensors that tell a transformer's sizes, in the original layout and in diffusers'.
_FLUX = {
    "original": {
        "input": "img_in.weight",
        "output": "final_layer.linear.weight",
        "head": "double_blocks.0.img_attn.norm.query_norm.scale",
        "text": "txt_in.weight",
        "pooled": "vector_in.in_layer.weight",
        "guidance": "guidance_in.in_layer.weight",
        "double": "double_blocks",
        "single": "single_blocks",
    },
    "diffusers": {
        "input": "x_embedder.weight",
        "output": "proj_out.weight",
        "head": "transformer_blocks.0.attn.norm_q.weight",
        "text": "context_embedder.weight",
        "pooled": "time_text_embed.text_embedder.linear_1.weight",
        "guidance": "time_text_embed.guidance_embedder.linear_1.weight",
        "double": "transformer_blocks",
        "single": "single_transformer_blocks",
    },
}
_VAE = {
    "original": {
        "level": "encoder.down.{}.block",
        "conv": "encoder.down.{}.block.0.conv1.weight",
        "mid": "encoder.mid.attn_1.q.weight",
    },
    "diffusers": {
        "level": "encoder.down_blocks.{}.resnets",
        "conv": "encoder.down_blocks.{}.resnets.0.conv1.weight",
        "mid": "encoder.mid_block.attentions.0.to_q.weight",
    },
}


def count_blocks(names: list[str], stem: str) -> int:
    """Blocks stem.0, stem.1, ... among the names."""
    numbers = {int(m[1]) for n in names if (m := re.match(rf"{re.escape(stem)}\.(\d+)\.", n))}
    return max(numbers) + 1 if numbers else 0


def flux_config(source: Source, layout: str) -> FluxConfig:
    """The config that a transformer's shapes imply; the rotary split is Flux's, scaled to the head."""
    shape, names, keys = source.shape, source.names(), _FLUX[layout]
    width, head = shape(keys["input"])[0], shape(keys["head"])[0]
    return FluxConfig(
        in_channels=shape(keys["input"])[1],
        out_channels=shape(keys["output"])[0],
        num_layers=count_blocks(names, keys["double"]),
        num_single_layers=count_blocks(names, keys["single"]),
        attention_head_dim=head,
        num_attention_heads=width // head,
        joint_attention_dim=shape(keys["text"])[1],
        pooled_projection_dim=shape(keys["pooled"])[1],
        guidance_embeds=keys["guidance"] in names,
        axes_dims_rope=(head // 8, head * 7 // 16, head * 7 // 16),
    )


def vae_config(source: Source, layout: str) -> VaeConfig:
    """The config that an autoencoder's shapes imply, with Flux's groups of norms and scale and shift of the latents."""
    shape, names, keys = source.shape, source.names(), _VAE[layout]
    level, conv = keys["level"], keys["conv"]
    return VaeConfig(
        in_channels=shape("encoder.conv_in.weight")[1],
        out_channels=shape("decoder.conv_out.weight")[0],
        latent_channels=shape("encoder.conv_out.weight")[0] // 2,
        block_out_channels=tuple(shape(conv.format(i))[0] for i in range(count_blocks(names, level.partition(".{}")[0]))),
        layers_per_block=count_blocks(names, level.format(0)),
        mid_block_add_attention=keys["mid"] in names,
    )


def clip_config(source: Source, prefix: str) -> TowerConfig:
    """The config of CLIP-L's text tower, with as many positions as the file has (long variants have 248).

    Raises ValueError for another tower: shapes do not tell its heads, its activation and its end-of-text token.
    """
    shape = lambda name: source.shape(prefix + name)
    found = {
        "vocab_size": shape("embeddings.token_embedding.weight")[0],
        "hidden_size": shape("embeddings.token_embedding.weight")[1],
        "intermediate_size": shape("encoder.layers.0.mlp.fc1.weight")[0],
        "num_hidden_layers": count_blocks(source.names(), f"{prefix}encoder.layers"),
    }
    if other := {n: v for n, v in found.items() if v != getattr(TowerConfig(), n)}:
        told = ", ".join(f"{n} {v}" for n, v in other.items())
        raise ValueError(f"a text tower other than CLIP-L: {told}; its shapes do not tell heads, activation and last token")
    return TowerConfig(**found, max_position_embeddings=shape("embeddings.position_embedding.weight")[0])


def t5_config(source: Source) -> T5Config:
    """The config that the shapes of a T5 v1.1 encoder imply."""
    shape, names, block = source.shape, source.names(), "encoder.block.0.layer"
    table = next((n for n in TIED["shared.weight"] if n in names), "shared.weight")
    buckets, heads = shape(f"{block}.0.SelfAttention.relative_attention_bias.weight")
    return T5Config(
        vocab_size=shape(table)[0],
        d_model=shape(table)[1],
        d_kv=shape(f"{block}.0.SelfAttention.q.weight")[0] // heads,
        d_ff=shape(f"{block}.1.DenseReluDense.wi_0.weight")[0],
        num_layers=count_blocks(names, "encoder.block"),
        num_heads=heads,
        relative_attention_num_buckets=buckets,
    )


def component_config(config: Config) -> dict[str, Any]:
    """The config.json that diffusers or transformers expects beside such weights."""
    values = dataclasses.asdict(config)
    if isinstance(config, FluxConfig):
        return {"_class_name": "FluxTransformer2DModel", "patch_size": 1, **values}
    if isinstance(config, T5Config):
        ids = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
        return {"architectures": ["T5EncoderModel"], "model_type": "t5", "is_encoder_decoder": False, **ids, **values}
    if isinstance(config, TowerConfig):
        text = {n: v for n, v in values.items() if n not in ("image_size", "patch_size", "num_channels")}
        ids = {"bos_token_id": 0, "pad_token_id": 1, "projection_dim": config.hidden_size}
        return {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model", **ids, **text}
    levels = len(config.block_out_channels)
    return {
        "_class_name": "AutoencoderKL",
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "act_fn": "silu",
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        **values,
    }


def needs(where: str, error: Exception) -> UserError:
    """What to say when a file's shapes do not imply a config."""
    if isinstance(error, KeyError):
        return UserError(f"{where}: a file of this kind needs {error}, which is not there")
    return UserError(f"{where}: {error}; give its config.json with --config, or a pipeline with --base")

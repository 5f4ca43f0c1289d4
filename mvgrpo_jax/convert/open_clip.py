"""open_clip's models under the names of transformers' CLIPModel: its config, and a table of its tensors.

It keeps q, k and v under one another in one matrix and the two projections to the shared space turned; the rest are names
(mlfoundations/open_clip, src/open_clip/model.py and transformer.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mvgrpo_jax.convert.original import FromOriginal, Layout, Rows, parameters
from mvgrpo_jax.convert.sources import Source
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.models.clip import ClipConfig, TowerConfig

CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
SIGN = "visual.conv1.weight"  # a tensor that only open_clip's files have
_TURNED = ("visual.proj", "text_projection")
_BUFFERS = ("attn_mask", "visual.attn_mask")

# What a model_cfg may say and what it means where it does not; None and False mean that a feature is not used.
_MODEL = {"embed_dim": None, "quick_gelu": False, "vision_cfg": {}, "text_cfg": {}}
_VISION = {"layers": 12, "width": 768, "head_width": 64, "mlp_ratio": 4.0, "patch_size": 16, "image_size": 224}
_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12, "mlp_ratio": 4.0}
# Settings that change nothing here: of training, of the tokenizer, and those of the plain model spelled out.
_IDLE = {
    "patch_dropout": None,
    "output_tokens": None,
    "pad_id": None,
    "eos_id": None,
    "pool_type": ("tok", "argmax"),
    "pos_embed_type": ("learnable",),
    "proj_type": ("linear",),
    "block_type": ("default",),
    "init_logit_scale": None,
    "hf_tokenizer_name": None,
    "tokenizer_kwargs": None,
}

# Published sizes of models that come without their config; VIT_L_14 as OpenAI trained it.
VIT_L_14 = {
    "embed_dim": 768,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 224, "layers": 24, "width": 1024, "patch_size": 14},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 768, "heads": 12, "layers": 12},
}
VIT_H_14 = {
    "embed_dim": 1024,
    "vision_cfg": {"image_size": 224, "layers": 32, "width": 1280, "head_width": 80, "patch_size": 14},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 1024, "heads": 16, "layers": 24},
}


def config_from(model: dict, where: str = CONFIG) -> ClipConfig:
    """The config of the model_cfg of an open_clip_config.json. UserError for a model that is not two plain transformers."""
    model = _known(model, _MODEL, where)
    vision, text = _known(model["vision_cfg"], _VISION, where), _known(model["text_cfg"], _TEXT, where)
    act = "quick_gelu" if model["quick_gelu"] else "gelu"
    side, patch = (v[0] if isinstance(v, list) and v[0] == v[-1] else v for v in (vision["image_size"], vision["patch_size"]))
    if not all(isinstance(n, int) and n > 0 for n in (side, patch, model["embed_dim"])):
        raise UserError(
            f"{where}: expected embed_dim, and image_size and patch_size of a square, as whole numbers; found "
            f"{model['embed_dim']}, {side} and {patch}"
        )
    return ClipConfig(
        text=TowerConfig(
            hidden_size=text["width"],
            intermediate_size=int(text["width"] * text["mlp_ratio"]),
            num_hidden_layers=text["layers"],
            num_attention_heads=text["heads"],
            hidden_act=act,
            vocab_size=text["vocab_size"],
            max_position_embeddings=text["context_length"],
            eos_token_id=2,  # the largest id marks the end
        ),
        vision=TowerConfig(
            hidden_size=vision["width"],
            intermediate_size=int(vision["width"] * vision["mlp_ratio"]),
            num_hidden_layers=vision["layers"],
            num_attention_heads=vision["width"] // vision["head_width"],
            hidden_act=act,
            image_size=side,
            patch_size=patch,
        ),
        projection_dim=model["embed_dim"],
    )


def _known(given: dict, defaults: dict[str, Any], where: str) -> dict[str, Any]:
    for key, value in given.items():
        idle = key in _IDLE and (_IDLE[key] is None or value in _IDLE[key])
        if key not in defaults and not idle and value not in (None, False, {}):
            raise UserError(
                f"{where}: {key} {value!r} makes another model than CLIP's two plain transformers; take a model without it, as "
                "ViT-H-14"
            )
    return defaults | {k: v for k, v in given.items() if k in defaults}


def layout(config: ClipConfig) -> Layout:
    """CLIPModel's tensors as row ranges of open_clip's."""
    rows = [
        Rows("text_model.embeddings.token_embedding.weight", "token_embedding.weight"),
        Rows("text_model.embeddings.position_embedding.weight", "positional_embedding"),
        Rows("text_projection.weight", "text_projection"),
        Rows("logit_scale", "logit_scale"),
        Rows("vision_model.embeddings.class_embedding", "visual.class_embedding"),
        Rows("vision_model.embeddings.position_embedding.weight", "visual.positional_embedding"),
        Rows("vision_model.embeddings.patch_embedding.weight", SIGN),
        Rows("visual_projection.weight", "visual.proj"),
    ]
    modules = [
        Rows("text_model.final_layer_norm", "ln_final"),
        Rows("vision_model.pre_layrnorm", "visual.ln_pre"),
        Rows("vision_model.post_layernorm", "visual.ln_post"),
    ]
    for ours, theirs, tower in (("text_model", "", config.text), ("vision_model", "visual.", config.vision)):
        width = tower.hidden_size
        for i in range(tower.num_hidden_layers):
            layer, block = f"{ours}.encoder.layers.{i}", f"{theirs}transformer.resblocks.{i}"
            names = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
            names |= {"self_attn.out_proj": "attn.out_proj"}
            modules += [Rows(f"{layer}.{a}", f"{block}.{b}") for a, b in names.items()]
            for part in ("weight", "bias"):
                rows += [
                    Rows(f"{layer}.self_attn.{name}_proj.{part}", f"{block}.attn.in_proj_{part}", at=j * width, count=width)
                    for j, name in enumerate("qkv")
                ]
    return rows + [r for row in modules for r in parameters(row)]


class Turned:
    """A source in which open_clip's two projections lie as torch's linear layers do, and without buffers."""

    def __init__(self, source: Source):
        self.source, self.where = source, source.where

    def names(self) -> list[str]:
        return [name for name in self.source.names() if name not in _BUFFERS]

    def shape(self, name: str) -> tuple[int, ...]:
        shape = self.source.shape(name)
        return shape[::-1] if name in _TURNED else shape

    def dtype(self, name: str) -> np.dtype:
        return self.source.dtype(name)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        if name not in _TURNED:
            return self.source.read(name, start, stop)
        return np.ascontiguousarray(self.source.read(name).T[start:stop])


def named(source: Source, config: ClipConfig) -> Source:
    """A source of CLIPModel's tensors from one of either layout."""
    return FromOriginal(Turned(source), layout(config)) if SIGN in source.names() else source

"""PickScore: how likely people pick a picture for a caption, a CLIP-H that was trained on their choices (arXiv 2305.01569)."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp

from mvgrpo_jax.configuration.rules import Choice
from mvgrpo_jax.convert import open_clip
from mvgrpo_jax.rewards import clip_folders
from mvgrpo_jax.rewards.clip_family import DTYPE, ClipJudge, Parts
from mvgrpo_jax.rewards.preprocess import Preprocess

# What programs write of a score exp(logit_scale) x cosine: (cosine, factor) -> score.
SCALES = {
    "logit": lambda cosine, factor: factor * cosine,  # as published, about 20 to 24
    "cosine": lambda cosine, factor: cosine,  # DanceGRPO, about .22
    "percent": lambda cosine, factor: factor * cosine / 100,  # tables
    "26": lambda cosine, factor: factor * cosine / 26,  # flow_grpo, Flow-Factory
    "mixgrpo": lambda cosine, factor: (factor * cosine - 18) / 8,
}


class PickScore(ClipJudge):
    """folder: PickScore_v1 as transformers writes it. base: a folder whose tokenizer and preprocessor_config.json are used in
    place of the folder's, as CLIP-ViT-H-14-laion2B-s32B-b79K. scale: 'logit' for exp(logit_scale) x cosine, or how another
    program writes it (SCALES). dtype: of weights and arithmetic. chunk: items that a device puts through a tower at a time."""

    def __init__(self, folder: str, base: str = "", scale: str = "logit", dtype: str = "float32", chunk: int = 64):
        self.settle(clip_folders.read(Path(folder), "PickScore", Path(base) if base else None), SCALES[scale], dtype, chunk)

    @classmethod
    def published(cls, folder: str, base: str = "", scale: str = "logit", dtype: str = "float32", chunk: int = 64) -> PickScore:
        """The judge by its shapes alone, with neither weights nor a tokenizer."""
        config = open_clip.config_from(open_clip.VIT_H_14)
        parts = Parts(config, Preprocess(config.vision.image_size), lambda: clip_folders.weights_of(folder, config))
        return cls.of(parts, SCALES[scale], dtype, chunk)

    def read(self, params, cosines: jax.Array) -> jax.Array:
        return self.scale(cosines, jnp.exp(params["logit_scale"].astype(jnp.float32)))


JUDGE = PickScore
RULES = {"dtype": DTYPE, "scale": Choice.of(SCALES)}

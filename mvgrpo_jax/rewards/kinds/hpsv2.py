"""HPSv2: which picture people prefer for a caption, a CLIP-H that was trained on their choices (arXiv 2306.09341)."""

from __future__ import annotations

import re
from pathlib import Path

from absl import logging

from mvgrpo_jax.convert import open_clip
from mvgrpo_jax.models.clip import ClipConfig
from mvgrpo_jax.rewards import clip_folders
from mvgrpo_jax.rewards.clip_family import DTYPE, ClipJudge, Parts
from mvgrpo_jax.rewards.clip_text import Captions, tokenizer_of
from mvgrpo_jax.rewards.converted import origin
from mvgrpo_jax.rewards.letterbox import Letterbox

VERSIONS = {"v2": "v2.0", "v2.1": "v2.1"}  # as files are named -> as they are called


def config_of(base: str) -> ClipConfig:
    """The sizes that the folder says, and else the published ones, ViT-H-14's."""
    if base and (Path(base) / open_clip.CONFIG).exists():
        return clip_folders.config_of(Path(base))
    return open_clip.config_from(open_clip.VIT_H_14)


def version_of(weights: str) -> str:
    """By the name of the published file, 'of an unknown version' under another one."""
    named = re.search(r"HPS_(v[\d.]*\d)", origin(weights))
    return VERSIONS.get(named[1], named[1]) if named else "of an unknown version"


class Hpsv2(ClipJudge):
    """weights: HPS_v2.1_compressed.pt or HPS_v2_compressed.pt as published, or a folder that `convert judge` made of one. base:
    a folder with open_clip's vocabulary or CLIP's tokenizer and, for sizes other than ViT-H-14's, open_clip_config.json. scale
    multiplies the cosine; the logit scale is not applied. dtype: of weights and arithmetic. chunk: items that a device puts
    through a tower at a time.

    version: v2.0 or v2.1 by the name of the file, whose scores are not comparable; it is logged.
    """

    def __init__(self, weights: str, base: str, scale: float = 1.0, dtype: str = "float32", chunk: int = 64):
        config = config_of(base)
        needs = "Set base to a folder with it, as that of the open_clip_torch package"
        captions = Captions(tokenizer_of(Path(base), needs), config.text.max_position_embeddings, "HPSv2", clean=True)
        self.settle(parts(weights, config, captions), scale, dtype, chunk)
        self.version = version_of(weights)
        logging.info("judge HPSv2 %s from %s", self.version, weights)

    @classmethod
    def published(cls, weights: str, base: str = "", scale: float = 1.0, dtype: str = "float32", chunk: int = 64) -> Hpsv2:
        """The judge by its shapes alone, with neither weights nor a tokenizer."""
        judge = cls.of(parts(weights, config_of(base)), scale, dtype, chunk)
        judge.version = version_of(weights)
        return judge


def parts(weights: str, config: ClipConfig, captions: Captions | None = None) -> Parts:
    return Parts(config, Letterbox(config.vision.image_size), lambda: clip_folders.weights_of(weights, config), captions)


JUDGE = Hpsv2
RULES = {"dtype": DTYPE}
PLACE = "weights"

"""LAION's aesthetic score: how much people like a picture, whatever its caption; linear in CLIP's vector of the picture."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mvgrpo_jax.convert import open_clip
from mvgrpo_jax.convert.checkpoints import open_weights
from mvgrpo_jax.convert.folding import HEAD, Folded, Joined
from mvgrpo_jax.convert.sources import Renamed, Source
from mvgrpo_jax.models.aesthetic import aesthetic
from mvgrpo_jax.models.clip import ClipConfig
from mvgrpo_jax.rewards import clip_folders
from mvgrpo_jax.rewards.base import Judgement
from mvgrpo_jax.rewards.clip_family import DTYPE, Embedded, judged
from mvgrpo_jax.rewards.preprocess import Preprocess

READ = ("vision_model.", "visual_projection.")


class Aesthetic(Embedded):
    """weights: sac+logos+ava1-l14-linearMSE.pth, its layers as safetensors, or what `convert judge` made of it. base: a folder
    of the CLIP that it was trained on, clip-vit-large-patch14. dtype: of weights and arithmetic of the tower. chunk: pictures
    that a device puts through it at a time.

    A judge on the devices (base.DeviceJudge). A picture is looked at once and has the same score under every caption, about 3
    to 8."""

    token_shapes = jax.ShapeDtypeStruct((), jnp.int32)  # a caption is not read

    def __init__(self, weights: str, base: str, dtype: str = "float32", chunk: int = 64):
        config = clip_folders.config_of(Path(base))
        self._settle(weights, base, config, clip_folders.preparation_of(Path(base), config.vision.image_size), dtype, chunk)

    @classmethod
    def published(cls, weights: str, base: str = "", dtype: str = "float32", chunk: int = 64) -> Aesthetic:
        """The judge by its shapes alone."""
        if base and Path(base).exists():
            return cls(weights, base, dtype, chunk)
        judge, config = cls.__new__(cls), open_clip.config_from(open_clip.VIT_L_14)
        judge._settle(weights, base, config, Preprocess(config.vision.image_size), dtype, chunk)
        return judge

    def _settle(self, weights: str, base: str, config: ClipConfig, prepare: Preprocess, dtype: str, chunk: int) -> None:
        super().__init__(aesthetic(config), prepare, lambda: opened(weights, base, config), dtype, chunk)

    def take_cut(self) -> int:
        return 0

    def tokens(self, texts: list[str]) -> np.ndarray:
        return np.zeros(len(texts), np.int32)

    def score(self, params, images, tokens) -> Judgement:
        """Scores [V, P, n] of pictures [P, n, H, W, 3], the same for each of the V rows of `tokens` [V, P]."""
        scores = self.embed_images(params, images)[..., 0]
        return judged(jnp.broadcast_to(scores, (len(tokens), *scores.shape)))


def opened(weights: str, base: str, config: ClipConfig) -> Source:
    """CLIP's image tower and the head, which is multiplied out; or the whole from what `convert judge` wrote."""
    source = open_weights(weights)
    if HEAD[0] in source.names():
        return source
    tower = clip_folders.weights_of(base, config)
    return Joined([Renamed(tower, {n: n for n in tower.names() if n.startswith(READ)}), Folded(source, "layers.")])


JUDGE = Aesthetic
RULES = {"dtype": DTYPE}
PLACE = "weights"

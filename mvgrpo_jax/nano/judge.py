"""The exact judge of the embedded world: what a caption states, checked in the pixels. In [0, 1]."""

from __future__ import annotations

import functools

import numpy as np

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.nano.world import captions as words
from mvgrpo_jax.nano.world import render, vision
from mvgrpo_jax.nano.world.score import score_reading
from mvgrpo_jax.rewards.base import Judgement
from mvgrpo_jax.rewards.preprocess import as_float

read = functools.lru_cache(maxsize=65536)(words.read)


class SceneReward:
    """Each picture is read once and graded under every caption, on the host. UserError for pictures of another size."""

    def take_cut(self) -> int:
        return 0  # it reads whole captions

    def score(self, images: np.ndarray, captions: list[list[str | None]]) -> Judgement:
        """Of pictures [N, H, W, 3] under captions [N][V]: float32 [N, V]."""
        if images.shape[1:] != (render.SIDE, render.SIDE, 3):
            height, width = images.shape[1:3]
            raise UserError(
                f"the judge 'scene' reads the embedded world's pictures of {render.SIDE} x {render.SIDE} pixels, got one of "
                f"{width} x {height}; use another judge"
            )
        out = np.zeros((len(images), len(captions[0])), np.float32)
        for i, (image, texts) in enumerate(zip(as_float(images), captions)):
            reading, known = vision.look(image), {}
            out[i] = [0.0 if text is None else score_reading(reading, read(text), known)[0] for text in texts]
        return Judgement(out)

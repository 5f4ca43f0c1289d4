"""The exact judge of the embedded world: what a caption states, checked in the pixels. In [0, 1]."""

from __future__ import annotations

import functools

import numpy as np

from mvgrpo_jax.core.structs import Captions
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.nano.world import captions as words
from mvgrpo_jax.nano.world import render, vision
from mvgrpo_jax.nano.world.score import score_reading

read = functools.lru_cache(maxsize=65536)(words.read)


class SceneReward:
    """Each picture is read once and graded under every caption of its branch. UserError for pictures of another size."""

    captions_cut = 0  # it reads whole captions

    def score(self, images: np.ndarray, captions: Captions) -> np.ndarray:
        if images.shape[3:] != (render.SIDE, render.SIDE, 3):
            height, width = images.shape[3:5]
            raise UserError(
                f"the judge 'scene' reads the embedded world's pictures of {render.SIDE} x {render.SIDE} pixels, got one of "
                f"{width} x {height}; use another judge"
            )
        views, (prompts, branches, group) = len(captions), images.shape[:3]
        out = np.zeros((views, prompts, branches, group), np.float32)
        for p, r, g in np.ndindex(prompts, branches, group):
            reading = vision.look(images[p, r, g])
            for v in range(views):
                if (text := captions[v][p][r]) is not None:
                    out[v, p, r, g] = score_reading(reading, read(text))[0]
        return out

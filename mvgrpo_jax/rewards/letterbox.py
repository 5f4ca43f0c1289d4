"""HPSv2's way from a picture to its tower's input: the whole picture within a black square."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from mvgrpo_jax.rewards.pixels import as_bytes
from mvgrpo_jax.rewards.preprocess import MEAN, STD, as_float, normalised


@dataclasses.dataclass(frozen=True)
class Letterbox:
    """The longer side resized to `side` and the rest filled with black around the centre (hpsv2/src/open_clip/transform.py).

    It resizes numbers, not bytes: bicubic and smoothed where it shrinks, neither rounded nor cut to [0, 1], as torchvision from
    0.17 on. Before that torchvision did not smooth, which moves pixels by a hundredth on average: scores published then differ.
    """

    side: int

    def resized(self, height: int, width: int) -> tuple[int, int]:
        scale = self.side / float(max(height, width))
        return max(round(height * scale), 1), max(round(width * scale), 1)

    def __call__(self, images: jax.Array) -> jax.Array:
        """[N, H, W, 3], uint8 or in [0, 1] and then rounded to 8 bits, -> float32 [N, side, side, 3], normalised."""
        n, *size, channels = images.shape
        high, wide = self.resized(*size)
        images = as_float(as_bytes(images))
        if size != [high, wide]:
            images = jax.image.resize(images, (n, high, wide, channels), "cubic", antialias=True)
        down, across = self.side - high, self.side - wide
        around = ((0, 0), (down // 2, down - down // 2), (across // 2, across - across // 2), (0, 0))
        return normalised(jnp.pad(images, around), MEAN, STD)

"""Qwen2-VL's way from a picture to a vision tower's patches: a size near a number of pixels, bicubic, normalised, cut up."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.models.qwen2_vl import VisionConfig
from mvgrpo_jax.rewards.pixels import pil_resize

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's channels
LONGEST_RATIO = 200


def smart_resize(height: int, width: int, factor: int, pixels: int) -> tuple[int, int]:
    """The size, in multiples of `factor`, to which a picture is brought: about `pixels` in all, about its own shape.

    The float64 operations of qwen-vl-utils in their order: 768 x 768 becomes 420 x 420 and not 448 x 448, since 768 / beta is
    447.99999999999994. UserError for a side over 200 times the other one.
    """
    if max(height, width) / min(height, width) > LONGEST_RATIO:
        raise UserError(
            f"expected a picture whose longer side is at most {LONGEST_RATIO} times the shorter one, got {height} x {width}"
        )
    high = max(factor, round(height / factor) * factor)
    wide = max(factor, round(width / factor) * factor)
    if high * wide > pixels:
        beta = math.sqrt((height * width) / pixels)
        return math.floor(height / beta / factor) * factor, math.floor(width / beta / factor) * factor
    if high * wide < pixels:
        beta = math.sqrt(pixels / (height * width))
        return math.ceil(height * beta / factor) * factor, math.ceil(width * beta / factor) * factor
    return high, wide


def patches(images: jax.Array, config: VisionConfig, pixels: int) -> tuple[jax.Array, tuple[int, int]]:
    """(float32 [N, high x wide, channels x time x side x side], the grid (high, wide)) of pictures [N, H, W, 3], uint8 or in
    [0, 1]; merge x merge neighbouring patches stand together, and the one frame is repeated in time."""
    side, merge = config.patch_size, config.spatial_merge_size
    height, width = smart_resize(*images.shape[1:3], side * merge, pixels)
    x = pil_resize(images, height, width).astype(jnp.float32) / 255.0
    x = (x - np.asarray(MEAN, np.float32)) / np.asarray(STD, np.float32)
    high, wide = height // side, width // side
    x = x.reshape(len(x), high // merge, merge, side, wide // merge, merge, side, 3)
    x = x.transpose(0, 1, 4, 2, 5, 7, 3, 6)[..., None, :, :]  # blocks, patches of a block, channels, time, pixels
    x = jnp.broadcast_to(x, (*x.shape[:6], config.temporal_patch_size, side, side))
    return x.reshape(len(images), high * wide, -1), (high, wide)

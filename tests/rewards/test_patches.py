"""Pictures for Qwen2-VL: sizes from a table, patches as transformers' processor makes them."""

import math

import jax
import numpy as np
import pytest
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.models.qwen2_vl import VisionConfig
from mvgrpo_jax.rewards.patches import patches, smart_resize

PIXELS = 256 * 28 * 28


def test_sizes_of_common_pictures():
    """Worked out with the original's own code."""
    for side in (256, 320, 384, 448, 480, 512, 640, 704, 720, 832, 896, 960, 1024, 1280, 1328, 2048):
        assert smart_resize(side, side, 28, PIXELS) == (448, 448), side
    for side in (576, 768, 1152, 1536):
        assert smart_resize(side, side, 28, PIXELS) == (420, 420), side
    table = {
        (768, 1024): (364, 504),
        (720, 1280): (336, 588),
        (832, 1216): (364, 532),
        (512, 768): (364, 532),
        (896, 1152): (392, 504),
        (928, 1664): (308, 588),
    }
    for (high, wide), expected in table.items():
        assert smart_resize(high, wide, 28, PIXELS) == expected
        assert smart_resize(wide, high, 28, PIXELS) == expected[::-1]
    assert sum(smart_resize(side, side, 28, PIXELS) != (448, 448) for side in range(28, 2101)) == 228


def test_every_size_is_near_the_wanted_one():
    """Multiples of 28; a picture is cut down to at most the pixels, or filled up to at least them, within one block a side."""
    rng = np.random.default_rng(0)
    for high, wide in np.exp(rng.uniform(math.log(1), math.log(4000), (2000, 2))).astype(int).tolist():
        if max(high, wide) > 200 * min(high, wide):
            continue
        h, w = smart_resize(high, wide, 28, PIXELS)
        assert h % 28 == w % 28 == 0 and min(h, w) >= 28
        ideal = math.sqrt(PIXELS * high / wide), math.sqrt(PIXELS * wide / high)
        assert abs(h - ideal[0]) < 28 + 1e-6 and abs(w - ideal[1]) < 28 + 1e-6
    with pytest.raises(UserError, match="at most 200 times the shorter one, got 3 x 601"):
        smart_resize(3, 601, 28, PIXELS)
    assert smart_resize(1, 1, 28, PIXELS) == (448, 448)


@pytest.mark.parametrize(
    "size, vision",
    [
        ((448, 448), VisionConfig()),
        ((130, 70), VisionConfig()),  # tall, made larger
        ((40, 300), VisionConfig()),  # wide
        ((160, 150), VisionConfig(patch_size=28, spatial_merge_size=1)),
        ((500, 600), VisionConfig(patch_size=7, spatial_merge_size=4, temporal_patch_size=3)),
    ],
)
def test_patches_are_transformers(size, vision):
    rng = np.random.default_rng(1)
    pictures = rng.integers(0, 256, (2, *size, 3), np.uint8)
    grids = []
    made = jax.jit(lambda x: grids.append((y := patches(x, vision, PIXELS))[1]) or y[0])
    got = made(pictures)
    high, wide = smart_resize(*size, 28, PIXELS)
    # Pillow before version 13: first the width.
    resized = [Image.fromarray(p).resize((wide, size[0]), Image.BICUBIC).resize((wide, high), Image.BICUBIC) for p in pictures]
    processor = Qwen2VLImageProcessorPil(
        patch_size=vision.patch_size,
        merge_size=vision.spatial_merge_size,
        temporal_patch_size=vision.temporal_patch_size,
    )
    want = processor(images=resized, return_tensors="np")
    assert want["image_grid_thw"].tolist() == [[1, *grids[0]]] * 2
    np.testing.assert_allclose(np.asarray(got).reshape(want["pixel_values"].shape), want["pixel_values"], atol=2e-6)
    if size == (448, 448):
        assert got.shape == (2, 1024, 1176)
    np.testing.assert_allclose(made(pictures.astype(np.float32) / 255), got, atol=1e-6)

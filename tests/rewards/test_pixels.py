"""Pillow's resize on the device against Pillow, bit for bit."""

import jax
import numpy as np
import pytest
from PIL import Image

from mvgrpo_jax.rewards import pixels

SIZES = [  # (height, width) -> (height, width)
    ((1024, 1024), (224, 224)),
    ((512, 512), (224, 224)),
    ((768, 1360), (224, 396)),
    ((1216, 832), (327, 224)),
    ((97, 131), (224, 302)),
    ((256, 256), (448, 448)),
    ((720, 1280), (336, 588)),
    ((768, 768), (420, 420)),
    ((378, 378), (224, 224)),
    ((224, 300), (224, 300)),
    ((224, 300), (224, 150)),
    ((300, 224), (75, 224)),
    ((1, 1), (224, 224)),
    ((1, 7), (3, 224)),
    ((640, 3), (224, 1)),
    ((3, 640), (5, 224)),
    ((33, 65), (32, 64)),
    ((31, 63), (32, 64)),
    ((2, 2), (1, 1)),
    ((5, 4), (7, 9)),
    ((223, 225), (224, 224)),
    ((4000, 37), (224, 2)),
    ((1500, 1200), (1, 2)),  # so many taps that whole numbers are needed
]


def points(height: int, width: int) -> np.ndarray:
    """uint8 [2, H, W, 3]: noise, and black and white points, whose cubic interpolation leaves the range."""
    generator = np.random.default_rng(height * 7 + width)
    noise = generator.integers(0, 256, (height, width, 3), np.uint8)
    return np.stack([noise, generator.integers(0, 2, (height, width, 3), np.uint8) * 255])


def pillow(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """By the width and then by the height: Pillow 13 has another order for some sizes."""
    sides = ((width, images.shape[1]), (width, height))
    pictures = [Image.fromarray(image) for image in images]
    for side in sides:
        pictures = [picture.resize(side, Image.Resampling.BICUBIC) for picture in pictures]
    return np.stack(pictures)


@pytest.mark.parametrize("size, wanted", SIZES)
def test_pixels_are_pillows(size, wanted):
    images = points(*size)
    want = pillow(images, *wanted)
    if size[0] <= size[1]:  # of these sizes, those that all versions resize alike
        np.testing.assert_array_equal(Image.fromarray(images[0]).resize(wanted[::-1], Image.Resampling.BICUBIC), want[0])
    got = np.asarray(jax.jit(pixels.pil_resize, static_argnums=(1, 2))(images, *wanted))
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, want)


def test_compiled_and_from_floats():
    """The same where XLA may rearrange the arithmetic, and for pictures in [0, 1], rounded to 8 bits first."""
    images = points(60, 90)
    want = pillow(images, 33, 40)
    resize = jax.jit(pixels.pil_resize, static_argnums=(1, 2))
    np.testing.assert_array_equal(resize(images, 33, 40), want)
    nudged = np.float32(images) / 255 + np.float32(0.4 / 255)  # rounds to the same bytes; over 1 is cut
    np.testing.assert_array_equal(resize(nudged, 33, 40), want)


def test_weights_of_a_side_sum_to_one():
    """To the rounding of each tap to 22 bits."""
    for length, wanted in ((1024, 224), (97, 224), (1, 5), (5, 1)):
        sums = pixels.weights(length, wanted).sum(1) / 2**pixels.BITS
        np.testing.assert_allclose(sums, 1.0, atol=length * 2.0**-23)


def test_digits_make_the_number_again():
    whole = np.asarray([[0, 1, -1, 127, 128, -129, 32767, 2**22, -(2**22), 5_000_000, -700_001]], np.int32)
    parts = pixels.digits(whole)
    assert all(-128 <= part.min() and part.max() <= 127 for part in parts)
    np.testing.assert_array_equal(sum(part * 256**i for i, part in enumerate(parts)), whole)

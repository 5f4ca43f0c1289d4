"""Pillow's bicubic resize of 8-bit pictures on the device, bit for bit.

Pillow resizes along the width, then along the height, skips a side that keeps its length, and after each pass rounds to 8 bits
and cuts to 0 .. 255. Its weights are integers, 2**22 for one (Pillow, src/libImaging/Resample.c). Pillow 13 takes the height
first where that saves work, as in a picture that is made much flatter; judges were trained and published with the versions
before it, whose order is kept here.

Here a pass is a product with the matrix of these weights, which is small beside a tower: 5 GFLOP for a picture of 1024 x 1024
to 224 x 224.

A weight of 23 bits times 8 bits is no exact float32. It is therefore cut in three signed digits to the base 256, and each
digit is a matrix of its own: digits and pixels are exact in bfloat16, their products and sums, under 2**24, in the float32 in
which TPUs and GPUs add up such products. Gathering the taps would count fewer operations and be slower on both.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

BITS = 22  # of a weight behind the point
_BASE = 256
_EXACT = 2**24  # float32 holds every whole number up to here


def pil_resize(images: jax.Array, height: int, width: int) -> jax.Array:
    """Pictures [N, H, W, C], uint8, or floating point in [0, 1] and then rounded to 8 bits first, as Pillow's
    `Image.resize((width, height), BICUBIC)` makes them: uint8 [N, height, width, C]. Sizes are static; jit-able."""
    images = as_bytes(images)
    if images.shape[2] != width:
        images = _pass(images, "nhwc,ow->nhoc", images.shape[2], width)
    if images.shape[1] != height:
        images = _pass(images, "nhwc,oh->nowc", images.shape[1], height)
    return images


def as_bytes(images: jax.Array) -> jax.Array:
    """uint8 as they are; floating-point pictures in [0, 1] rounded to 8 bits."""
    if images.dtype == jnp.uint8:
        return images
    return jnp.round(jnp.clip(images.astype(jnp.float32), 0.0, 1.0) * 255.0).astype(jnp.uint8)


def _pass(images: jax.Array, product: str, length: int, wanted: int) -> jax.Array:
    """One side resized from `length` to `wanted` pixels; uint8."""
    whole = weights(length, wanted)
    parts = digits(whole)
    if max(np.abs(part).sum(1).max() for part in parts) * 255 < _EXACT:
        exact = functools.partial(jnp.einsum, product, images.astype(jnp.bfloat16), preferred_element_type=jnp.float32)
        sums = [exact(part.astype(jnp.bfloat16)).astype(jnp.int32) for part in parts]
    else:  # hundreds of taps, as where a picture becomes a few pixels
        parts, sums = [whole], [jnp.einsum(product, images.astype(jnp.int32), whole)]
    # int32 may wrap on the way: what counts is the sum, which fits.
    total = sum(part * np.int32(_BASE**i) for i, part in enumerate(sums)) + np.int32(1 << (BITS - 1))
    return jnp.clip(total >> BITS, 0, 255).astype(jnp.uint8)


@functools.lru_cache
def weights(length: int, wanted: int) -> np.ndarray:
    """int32 [wanted, length]: what each pixel of a side counts for each pixel of the resized side, times 2**22. In float64 and
    in Pillow's order of operations."""
    scale = length / wanted
    stretch = max(scale, 1.0)
    support = 2.0 * stretch
    centre = (np.arange(wanted) + 0.5) * scale
    first = np.maximum((centre - support + 0.5).astype(int), 0)
    count = np.minimum((centre + support + 0.5).astype(int), length) - first
    taps = np.arange(math.ceil(support) * 2 + 1)[None]
    values = np.where(taps < count[:, None], _cubic((taps + first[:, None] - centre[:, None] + 0.5) * (1.0 / stretch)), 0.0)
    total = np.zeros(wanted)
    for tap in values.T:  # one after the other, as Pillow adds
        total += tap
    values = values / np.where(total == 0, 1.0, total)[:, None] * (1 << BITS)
    rounded = np.trunc(values + np.where(values < 0, -0.5, 0.5)).astype(np.int32)
    out = np.zeros((wanted, length), np.int32)
    rows, columns = np.nonzero(taps < count[:, None])
    out[rows, first[rows] + columns] = rounded[rows, columns]
    return out


def digits(whole: np.ndarray) -> list[np.ndarray]:
    """Whole numbers under 2**23 as three digits to the base 256, each in -128 .. 127, the lowest first."""
    out = []
    for _ in range(3):
        digit = (whole + _BASE // 2) % _BASE - _BASE // 2
        out.append(digit)
        whole = (whole - digit) // _BASE
    return out


def _cubic(x: np.ndarray, a: float = -0.5) -> np.ndarray:
    x = np.abs(x)
    near, far = ((a + 2.0) * x - (a + 3.0)) * x * x + 1, (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))

"""Rotary positions: two axes in the vision tower, three in the decoder. Angles in float32, products as torch makes them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

Rotary = tuple[np.ndarray, np.ndarray]  # cosines and sines [S, head_dim / 2]


def _frequencies(dim: int, theta: float) -> np.ndarray:
    exponent = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    return np.float32(1) / np.float32(theta) ** exponent


def _rotary(angles: np.ndarray) -> Rotary:
    return np.cos(angles), np.sin(angles)


def rotate(x: jax.Array, rotary: Rotary) -> jax.Array:
    """[..., S, heads, head_dim]: entry i and entry i + head_dim / 2 turn by angle i of their position, in float32."""
    cos, sin = (a[:, None] for a in rotary)
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(x.dtype)


def of_patches(grid: tuple[int, int], merge: int, head_dim: int, theta: float = 1e4) -> Rotary:
    """Of the patches of a grid (high, wide), in the order of `pixels.patches`: merge x merge neighbours stand together. The
    first half of the frequencies takes the row, the second the column."""
    high, wide = grid
    places = np.stack(np.meshgrid(np.arange(high), np.arange(wide), indexing="ij"), -1)
    blocks = places.reshape(high // merge, merge, wide // merge, merge, 2).transpose(0, 2, 1, 3, 4).reshape(-1, 2)
    angles = blocks[:, :, None].astype(np.float32) * _frequencies(head_dim // 2, theta)
    return _rotary(angles.reshape(len(blocks), -1))


def of_tokens(positions: np.ndarray, head_dim: int, theta: float, section: tuple[int, ...]) -> Rotary:
    """Of tokens at positions int [3, S] in time, height and width: section i of the frequencies takes axis i mod 3."""
    axis = np.repeat(np.arange(len(section)) % 3, section)
    return _rotary(positions.T[:, axis].astype(np.float32) * _frequencies(head_dim, theta))


def sequential(length: int, start: int = 0) -> np.ndarray:
    """int [3, length]: start, start + 1, ... on all three axes, which is ordinary rotary position."""
    return np.broadcast_to(np.arange(start, start + length), (3, length))


def image_positions(before: int, grid: tuple[int, int], after: int) -> np.ndarray:
    """int [3, before + grid[0] grid[1] + after] of a sequence with one image, whose merged patches form `grid` (multimodal
    rotary position, arXiv 2409.12191, section 2.1): the image's tokens share their time and are told apart by row and column;
    the text behind it goes on after the longer side."""
    high, wide = grid
    inside = np.stack(np.meshgrid([0], np.arange(high), np.arange(wide), indexing="ij")).reshape(3, -1) + before
    return np.concatenate([sequential(before), inside, sequential(after, before + max(high, wide))], 1)

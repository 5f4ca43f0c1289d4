"""Drawing a scene: 32 x 32 pixels, anti-aliased."""

from __future__ import annotations

import numpy as np

from mvgrpo_jax.nano.world.scene import BACKGROUNDS, COLORS, PLACES, Scene

SIDE = 32
RADIUS = {"small": 3.3, "large": 5.0}
CELL = 10.0  # distance between neighbouring places, in pixels
SUPERSAMPLE = 4

_AXIS = (np.arange(SIDE * SUPERSAMPLE) + 0.5) / SUPERSAMPLE


def center_of(place: str) -> tuple[float, float]:
    """The (row, column) of a place's centre in pixels."""
    row, column = divmod(PLACES.index(place), 3)
    return SIDE / 2 + (row - 1) * CELL, SIDE / 2 + (column - 1) * CELL


def inside(shape: str, rows: np.ndarray, columns: np.ndarray, radius: float) -> np.ndarray:
    """Whether each offset (rows, columns) from the shape's centroid lies inside it; arrays broadcast."""
    y, x = rows / radius, columns / radius
    if shape == "circle":
        return x**2 + y**2 <= 1.0
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) <= 0.9
    if shape == "diamond":
        return np.abs(x) + np.abs(y) <= 1.2
    if shape == "cross":
        a, b = np.minimum(np.abs(x), np.abs(y)), np.maximum(np.abs(x), np.abs(y))
        return (a <= 0.36) & (b <= 1.05)
    if shape == "triangle":  # equilateral, pointing up, centroid at the origin, circumradius 1.35
        return (y <= 0.675) & (np.sqrt(3.0) * np.abs(x) - y <= 1.35)
    raise ValueError(f"unknown shape {shape!r}")


REACH = 1.35  # how far from its centroid a shape of radius one reaches at most: a triangle's top


def window(center: float, radius: float) -> slice:
    """The rows, or the columns, of the picture that a shape of this centre and radius can reach."""
    first, last = np.floor(center - REACH * radius), np.ceil(center + REACH * radius)
    return slice(int(np.clip(first, 0, SIDE)), int(np.clip(last, 0, SIDE)))


def coverage(
    shape: str, row: float, column: float, radius: float, rows: slice = slice(0, SIDE), columns: slice = slice(0, SIDE)
) -> np.ndarray:
    """The fraction of each pixel covered by a shape centred at (row, column): float32 [SIDE, SIDE], or of some rows and
    columns of the picture alone."""
    y, x = (_AXIS[part.start * SUPERSAMPLE : part.stop * SUPERSAMPLE] for part in (rows, columns))
    hit = inside(shape, y[:, None] - row, x[None, :] - column, radius)
    return hit.reshape(-1, SUPERSAMPLE, len(x) // SUPERSAMPLE, SUPERSAMPLE).mean((1, 3), dtype=np.float32)


def draw(scene: Scene, rng: np.random.Generator | None = None) -> np.ndarray:
    """Draws a complete scene: float32 [SIDE, SIDE, 3] in [0, 1]. With `rng`, things move and vary in size a little."""
    image = np.empty((SIDE, SIDE, 3), np.float32)
    image[:] = BACKGROUNDS[scene.background]
    for thing in scene.things:
        row, column = center_of(thing.place)
        radius = RADIUS[thing.size]
        if rng is not None:
            row, column = np.array([row, column]) + rng.uniform(-0.7, 0.7, 2)
            radius *= rng.uniform(0.94, 1.06)
        alpha = coverage(thing.shape, row, column, radius)[..., None]
        image = image * (1 - alpha) + np.asarray(COLORS[thing.color], np.float32) * alpha
    return image

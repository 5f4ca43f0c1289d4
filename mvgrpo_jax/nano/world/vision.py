"""Reading a picture back: segmentation by colour, connected components, shape tests.

Works on generated pictures, which are blurred and imperfect: every reading carries the evidence that `score` grades.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from scipy import ndimage

from mvgrpo_jax.nano.world import render
from mvgrpo_jax.nano.world.scene import BACKGROUNDS, COLORS, MAX_THINGS, PLACES, SHAPES, Scene, Thing

_NAMES = tuple(BACKGROUNDS)
_PALETTE = np.asarray(list(BACKGROUNDS.values()), np.float32)
_BLOCK = np.ones((2, 2), bool)
MIN_AREA = 12  # pixels; the smallest thing the world draws covers 21
CORE = 0.3  # RGB distance beyond which a pixel is no clear example of its nearest colour


@functools.cache
def _unit_area(shape: str) -> float:
    """The area of a shape of radius one, in squared radii."""
    return float(render.coverage(shape, render.SIDE / 2, render.SIDE / 2, 8.0).sum() / 64.0)


@dataclasses.dataclass(frozen=True)
class Component:
    """One connected region of a colour.

    color: mean RGB [3]; row, column: centroid in pixels; area: pixels; fit: shape -> intersection over union with the
    ideal shape of this centroid and area.
    """

    color: np.ndarray
    row: float
    column: float
    area: float
    fit: dict[str, float]

    @property
    def shape(self) -> str:
        return max(self.fit, key=self.fit.get)

    def radius(self, shape: str) -> float:
        """The radius at which `shape` has this component's area, in pixels."""
        return float(np.sqrt(self.area / _unit_area(shape)))


@dataclasses.dataclass(frozen=True)
class Reading:
    """What is seen in a picture. background: mean RGB [3] of what is no thing; clear: the share of it near that colour."""

    components: tuple[Component, ...]
    background: np.ndarray
    clear: float


def nearest(color: np.ndarray, names: tuple[str, ...] = _NAMES) -> str:
    """The palette name nearest to an RGB colour [3]."""
    palette = np.asarray([BACKGROUNDS[n] for n in names])
    return names[int(np.argmin(((palette - color) ** 2).sum(-1)))]


def _fit(mask: np.ndarray, row: float, column: float, area: float) -> dict[str, float]:
    fits = {}
    for shape in SHAPES:
        radius = float(np.sqrt(area / _unit_area(shape)))
        rows, columns = render.window(row, radius), render.window(column, radius)
        ideal = render.coverage(shape, row, column, radius, rows, columns)
        overlap = np.minimum(ideal, mask[rows, columns]).sum()
        fits[shape] = float(overlap / max(ideal.sum() + area - overlap, 1e-6))
    return fits


def look(image: np.ndarray) -> Reading:
    """Reads a picture: float [SIDE, SIDE, 3] in [0, 1] -> its background and its components, largest first."""
    if image.shape != (render.SIDE, render.SIDE, 3):
        raise ValueError(f"the scene reader expects pictures of {render.SIDE} x {render.SIDE} x 3, got {image.shape}")
    return _read(np.clip(np.nan_to_num(image, nan=0.5), 0.0, 1.0).astype(np.float32).tobytes())


@functools.lru_cache(maxsize=4096)  # the captioner and the judge look at the same pictures
def _read(pixels: bytes) -> Reading:
    image = np.frombuffer(pixels, np.float32).reshape(render.SIDE, render.SIDE, 3)
    distance = np.sqrt(((image[:, :, None] - _PALETTE) ** 2).sum(-1))
    label = distance.argmin(-1)
    clear = distance.min(-1) < CORE
    border = np.concatenate([label[:2].ravel(), label[-2:].ravel(), label[:, :2].ravel(), label[:, -2:].ravel()])
    ground = int(np.bincount(border, minlength=len(_NAMES)).argmax())

    # A blend of two colours at an edge can look like a third one; only regions that hold a solid block are things.
    count = np.bincount(label[clear], minlength=len(_NAMES))
    solid = [
        c
        for c in range(len(_NAMES))
        if c != ground
        and count[c] >= MIN_AREA  # an opening only takes away
        and ndimage.binary_opening((label == c) & clear, _BLOCK).sum() >= MIN_AREA
    ]
    kept = np.asarray([ground, *solid])
    label = kept[distance[..., kept].argmin(-1)]

    components = []
    for c in solid:
        regions, n = ndimage.label(ndimage.binary_opening(label == c, _BLOCK))
        for i in range(1, n + 1):
            core = regions == i
            if core.sum() < MIN_AREA:
                continue
            # The opening ate corners: give back the pixels of this colour that touch the core.
            mask = ndimage.binary_dilation(core, np.ones((3, 3), bool)) & (label == c)
            rows, columns = np.nonzero(mask)
            row, column, area = rows.mean() + 0.5, columns.mean() + 0.5, float(mask.sum())
            inner = ndimage.binary_erosion(mask, border_value=1)
            color = image[inner if inner.any() else mask].mean(0)
            components.append(Component(color, row, column, area, _fit(mask, row, column, area)))
    components.sort(key=lambda item: -item.area)

    rest = label == ground
    color = np.median(image[rest], axis=0) if rest.any() else _PALETTE[ground]
    near = np.sqrt(((image[rest] - color) ** 2).sum(-1)) < CORE if rest.any() else np.zeros(1)
    return Reading(tuple(components), color, float(near.mean()))


def place_of(row: float, column: float) -> str:
    """The name of the place nearest to a position in pixels."""
    return min(PLACES, key=lambda p: (render.center_of(p)[0] - row) ** 2 + (render.center_of(p)[1] - column) ** 2)


def size_of(component: Component) -> str:
    middle = np.sqrt(render.RADIUS["small"] * render.RADIUS["large"])
    return "small" if component.radius(component.shape) < middle else "large"


def parse(image: np.ndarray) -> Scene:
    """The complete scene that a picture most resembles (at most MAX_THINGS things, possibly none)."""
    reading = look(image)
    things = tuple(
        Thing(c.shape, nearest(c.color, tuple(COLORS)), size_of(c), place_of(c.row, c.column))
        for c in reading.components[:MAX_THINGS]
    )
    return Scene(things, nearest(reading.background), len(reading.components))

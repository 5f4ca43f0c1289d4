"""How clean a picture is, whatever it shows: what no caption states.

What is seen in the picture is drawn again with sharp edges and even colours; the score falls with the distance between the two.
Blurred edges, ragged outlines, noise and stray marks lower it, a wrong colour or place does not.
"""

from __future__ import annotations

import numpy as np

from mvgrpo_jax.nano.world import render, vision
from mvgrpo_jax.rewards.preprocess import as_float

SCALE = 0.04  # root mean square distance of RGB at which the score has fallen to 1/e


# Pixels by which a reading, which counts whole pixels, is looked past for the outline that fits best.
STEPS = (np.linspace(-0.6, 0.6, 9), np.linspace(-0.4, 0.4, 5), np.linspace(-0.4, 0.4, 5), np.linspace(-0.2, 0.2, 5))


def redraw(image: np.ndarray) -> np.ndarray:
    """The clean picture of what is seen in one: float32 [SIDE, SIDE, 3] both."""
    reading = vision.look(image)
    clean = np.broadcast_to(reading.background, image.shape).astype(np.float32)
    for seen in reading.components:
        radius = seen.radius(seen.shape)
        # Neighbours may reach into this part of the picture; they are the same for every outline that is tried.
        rows, columns = render.window(seen.row, radius + 1.5), render.window(seen.column, radius + 1.5)
        outline = np.asarray([radius, seen.row, seen.column])
        for steps, which in zip(STEPS, (0, 1, 2, 0)):
            tried = np.repeat(outline[None], len(steps), axis=0)
            tried[:, which] += steps
            drawn = [_drawn(clean, seen, *one, rows, columns) for one in tried]
            outline = tried[np.argmin([((d - image[rows, columns]) ** 2).sum() for d in drawn])]
        clean[rows, columns] = _drawn(clean, seen, *outline, rows, columns)
    return clean


def _drawn(under: np.ndarray, seen: vision.Component, radius: float, row: float, column: float, rows, columns) -> np.ndarray:
    alpha = render.coverage(seen.shape, row, column, radius, rows, columns)[..., None]
    return under[rows, columns] * (1 - alpha) + seen.color * alpha


def quality(image: np.ndarray) -> float:
    """Of a picture, float [SIDE, SIDE, 3] in [0, 1]: 1 for a clean one, towards 0 for one that is not."""
    distance = ((image - redraw(image)) ** 2).mean()
    return float(np.exp(-distance / SCALE**2))


def judge(images: np.ndarray, captions: list[list[str]]) -> np.ndarray:
    """As a judge of kind `function`: pictures uint8 [N, H, W, 3] under captions [N][V], which do not matter -> [N, V]."""
    scores = np.asarray([quality(image) for image in as_float(images)], np.float32)
    return np.repeat(scores[:, None], len(captions[0]), axis=1)

"""Whether a policy has collapsed: pictures of a prompt that are all alike, one picture for many prompts, glaring colours."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

DUPLICATE = 0.95  # cosine of two pictures of different prompts from which on they are nearly the same
BLOCK = 512  # prompts, or pictures that are compared with all others, at a time


class Duplicates(NamedTuple):
    """share: of the pictures that nearly repeat one of another prompt. pairs: the most alike, (row, row, cosine)."""

    share: float
    pairs: list[tuple[int, int, float]]


def distances(vectors: np.ndarray) -> np.ndarray:
    """[P]: 1 - cosine of two pictures of a prompt, averaged over its pairs, of unit vectors [P, S, d]; not-a-number where fewer
    than two are there. Vectors that are not there are not-a-number."""
    return _over_pairs(vectors, lambda a, b: 1 - (a * b).sum(-1))


def deviations(images: np.ndarray) -> np.ndarray:
    """[P]: root mean square difference of two pictures of a prompt, in [0, 1], averaged over its pairs, of pictures uint8
    [P, S, H, W, C]."""
    flat = images.reshape(*images.shape[:2], -1)
    away = lambda a, b: np.sqrt(((a / 255 - b / 255) ** 2).mean(-1))
    return np.concatenate([_over_pairs(flat[first : first + BLOCK], away) for first in range(0, len(flat), BLOCK)])


def _over_pairs(items: np.ndarray, distance) -> np.ndarray:
    found = np.stack([distance(items[:, i], items[:, j]) for i in range(items.shape[1]) for j in range(i)])
    count = (~np.isnan(found)).sum(0)
    return np.where(count > 0, np.nansum(found, 0) / np.maximum(count, 1), np.nan)


def duplicates(vectors: np.ndarray, texts: list[str], shown: int = 20) -> Duplicates:
    """Near-duplicates among pictures [N, d], unit vectors, of the texts [N]; pictures of equal texts are not compared."""
    group = np.unique(texts, return_inverse=True)[1]
    best, partner = np.full(len(vectors), -np.inf), np.zeros(len(vectors), int)
    for first in range(0, len(vectors), BLOCK):
        rows = slice(first, first + BLOCK)
        cosines = np.where(group[rows, None] == group, -np.inf, vectors[rows] @ vectors.T)
        partner[rows], best[rows] = cosines.argmax(1), cosines.max(1)
    pairs = {(min(i, int(j)), max(i, int(j))): float(c) for i, (j, c) in enumerate(zip(partner, best)) if c >= DUPLICATE}
    listed = sorted(((*pair, cosine) for pair, cosine in pairs.items()), key=lambda pair: -pair[2])
    return Duplicates(float((best >= DUPLICATE).mean()), listed[:shown])

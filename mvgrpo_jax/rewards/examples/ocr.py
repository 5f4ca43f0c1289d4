"""Whether a picture shows the words that its prompt has in quotes: one minus the share of letters that must be changed, as in
Flow-GRPO (Liu et al., arXiv 2505.05470). Needs pip install 'mvgrpo_jax[ocr]'."""

from __future__ import annotations

import functools
import re

import numpy as np
from rapidfuzz.distance import Levenshtein

from mvgrpo_jax.errors import UserError

QUOTED = re.compile(r"\"([^\"]+)\"|\u201c([^\u201d]+)\u201d|(?<!\w)'([^']+(?:'\w[^']*)*)'(?!\w)")  # an apostrophe is no quote


def text(images: np.ndarray, captions: list[list[str]]) -> np.ndarray:
    """[N, V] in [0, 1]: 1 where the words are somewhere in the picture. NaN for a caption without quotes."""
    return np.asarray(
        [[similarity(quoted(caption), seen) for caption in row] for seen, row in zip(map(read, images), captions)]
    )


def quoted(caption: str) -> str:
    """What a caption has in quotes, joined."""
    return " ".join(next(filter(None, groups)) for groups in QUOTED.findall(caption))


def similarity(wanted: str, seen: str) -> float:
    """Without spaces and case."""
    wanted, seen = ("".join(words.split()).casefold() for words in (wanted, seen))
    if not wanted:
        return float("nan")
    distance = 0 if wanted in seen else min(Levenshtein.distance(wanted, seen), len(wanted))
    return 1.0 - distance / len(wanted)


def read(image: np.ndarray) -> str:
    """The words in a picture uint8 [H, W, 3], in the order in which they are found."""
    found, _ = _engine()(image[..., ::-1])  # it expects OpenCV's order of channels
    return " ".join(words for _, words, _ in found or ())


@functools.cache
def _engine():
    try:
        from rapidocr_onnxruntime import RapidOCR
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed; this judge needs pip install 'mvgrpo_jax[ocr]'") from None
    return RapidOCR()

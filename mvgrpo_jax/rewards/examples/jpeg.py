"""How large a picture is as JPEG: rewards that need no model and leave no doubt (DDPO, Black et al., arXiv 2305.13301)."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

QUALITY = 95


def incompressibility(images: np.ndarray, captions: list[list[str]]) -> np.ndarray:
    """[N, V]: kilobytes (1000 bytes) of each picture as JPEG, whatever the caption."""
    sizes = np.asarray([_bytes(image) / 1000 for image in images])
    return np.repeat(sizes[:, None], len(captions[0]), axis=1)


def compressibility(images: np.ndarray, captions: list[list[str]]) -> np.ndarray:
    return -incompressibility(images, captions)


def _bytes(image: np.ndarray) -> int:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=QUALITY)
    return buffer.tell()

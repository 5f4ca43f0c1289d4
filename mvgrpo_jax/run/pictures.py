"""Pictures for people: PNG files and labelled contact sheets."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from mvgrpo_jax.convert.files import atomic

MARGIN = 6


def to_uint8(image: np.ndarray) -> np.ndarray:
    """[..., 3] in [0, 1] -> uint8, not-a-number becoming gray; uint8 as it is."""
    if image.dtype == np.uint8:
        return image
    return np.round(np.clip(np.nan_to_num(np.asarray(image, np.float32), nan=0.5), 0, 1) * 255).astype(np.uint8)


def save_png(image: np.ndarray, path: Path, texts: Mapping[str, object] | None = None) -> None:
    """Writes [H, W, 3], uint8 or in [0, 1], as PNG, atomically, with text chunks of these names."""
    chunks = PngInfo()
    for name, text in (texts or {}).items():
        chunks.add_text(name, str(text))
    with atomic(path) as part:
        Image.fromarray(to_uint8(image)).save(part, "PNG", pnginfo=chunks)


def save_array(array: np.ndarray, path: Path) -> None:
    """Writes an array as .npy, atomically."""
    with atomic(path) as part, part.open("wb") as file:
        np.save(file, array)


def load_array(path: Path) -> np.ndarray:
    """Reads an array of numbers from .npy."""
    return np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)


def sheet(rows: list[list[tuple[np.ndarray, str]]], path: Path, **how) -> None:
    """Writes a contact sheet as PNG; see `contact_sheet`."""
    with atomic(path) as part:
        contact_sheet(rows, **how).save(part, "PNG")


def contact_sheet(
    rows: list[list[tuple[np.ndarray, str]]], *, titles: list[str] | None = None, cell: int = 112, title: str = ""
) -> Image.Image:
    """A contact sheet: rows of (picture [H, W, 3], label). titles: one line above each row; title: above everything."""
    font = ImageFont.load_default(11)
    line = 13
    wrap = max(10, (cell + MARGIN) // 6)
    labels = [[textwrap.wrap(label, wrap)[:5] for _, label in row] for row in rows]
    tall = [max(round(cell * min(1.0, image.shape[0] / image.shape[1])) for image, _ in row) for row in rows]
    heights = [t + line * max((len(ls) for ls in row), default=0) + MARGIN for t, row in zip(tall, labels)]
    above = line + 4 if titles else 0
    head = line + 8 if title else 0
    width = MARGIN + max(len(row) for row in rows) * (cell + MARGIN)
    canvas = Image.new("RGB", (max(width, 320), head + MARGIN + sum(heights) + above * len(rows)), "white")
    pen = ImageDraw.Draw(canvas)
    pen.text((MARGIN, 4), title, "black", font)
    y = head + MARGIN
    for number, row in enumerate(rows):
        if titles:
            pen.text((MARGIN, y), titles[number], "#203060", font)
            y += above
        for column, (image, _) in enumerate(row):
            picture = Image.fromarray(to_uint8(image))
            scale = cell / max(picture.size)
            size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
            resampling = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
            x = MARGIN + column * (cell + MARGIN)
            canvas.paste(picture.resize(size, resampling), (x, y))
            for i, text in enumerate(labels[number][column]):
                pen.text((x, y + size[1] + 1 + line * i), text, "#404040", font)
        y += heights[number]
    return canvas

"""What judges are asked: texts with a place for the caption. Those that a judge was trained with have their authors' licence
beside them, and every space in them counts."""

from __future__ import annotations

from pathlib import Path

from mvgrpo_jax.errors import UserError

FOLDER = Path(__file__).parent
PLACE = "{caption}"


def read(file: str, shipped: str) -> str:
    """The text of a file, or of the shipped one of this name where none is given; a line's end after the last line is left
    out. UserError unless it is there and has the caption's place once."""
    path = Path(file) if file else FOLDER / f"{shipped}.txt"
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected a text with {PLACE} where the caption belongs")
    text = path.read_text(encoding="utf-8").removesuffix("\n")
    if text.count(PLACE) != 1:
        raise UserError(f"{path}: has {PLACE} {text.count(PLACE)} times; write it once, where the caption belongs")
    return text


def fill(text: str, caption: str) -> str:
    """The caption may have braces of its own."""
    return text.replace(PLACE, caption)

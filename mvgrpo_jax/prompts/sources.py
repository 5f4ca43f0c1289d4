"""How several files are named in one text: 'A.txt,B.jsonl' are joined, 'A.txt@3,B.jsonl@1' are drawn from three to one."""

from __future__ import annotations

import math
import os
import re
from typing import NamedTuple

from mvgrpo_jax.errors import UserError

WEIGHTED = re.compile(r"(.+)@([-+\w.]*)", re.DOTALL)


class Source(NamedTuple):
    """name: a file, or a name of the embedded world's prompts. weight: its part of what is drawn; None where none is said."""

    name: str
    weight: float | None = None


def parse(text: str) -> list[Source]:
    """The sources that a text names. What exists under the whole text is one source, commas and all.

    UserError: an empty name, a name twice, weights for some sources alone, or a weight that is no positive number.
    """
    if os.path.exists(text):  # False also of a text that is too long for a name
        return [Source(text)]
    found = [_source(part.strip(), text) for part in text.split(",")]
    weighted = [source for source in found if source.weight is not None]
    if weighted and len(weighted) < len(found):
        without = next(source.name for source in found if source.weight is None)
        raise UserError(
            f"prompts {text!r}: {without} has no weight and others have; write {without}@WEIGHT, or no weights at all"
        )
    names = [source.name for source in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"prompts {text!r}: {twice[0]} is named twice; give it once, with a larger weight")
    return found


def _source(part: str, text: str) -> Source:
    if not part:
        raise UserError(f"prompts {text!r}: expected FILE, 'FILE,FILE' or 'FILE@WEIGHT,FILE@WEIGHT', found an empty name")
    match = WEIGHTED.fullmatch(part)
    if not match or os.path.exists(part):
        return Source(part)
    name, weight = match.groups()
    try:
        value = float(weight)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise UserError(f"prompts {text!r}: the weight of {name} must be a positive number, got {weight!r}")
    return Source(name, value)

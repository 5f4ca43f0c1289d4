"""Files of prompts as people have them, behind one function."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.prompts import forms, kinds
from mvgrpo_jax.prompts.records import EXPECTED, Prompt, Refused


@dataclasses.dataclass(frozen=True)
class File:
    """What a file holds: its kind (of prompts/kinds), its form in words, how many records it has, its prompts in their order,
    and counts of what a reader should know, by sentence."""

    path: Path
    kind: str
    form: str
    records: int
    prompts: list[Prompt]
    notes: Counter[str]


def read(path: str | Path, kind: str = "") -> list[Prompt]:
    """Every prompt of a file, in its order. kind: as in `read_file`."""
    return read_file(path, kind).prompts


def read_file(path: str | Path, kind: str = "") -> File:
    """Reads a file of prompts. kind: of prompts/kinds; '': told by the file's name and content.

    UserError: an unknown kind, or a file that is missing, empty, not text, without a prompt field, or not what its kind says;
    it names the line or item.
    """
    path, notes = Path(path), Counter()
    form = getattr(kinds.module(kind), "FORM", "") if kind else ""
    if kind != "lines" and forms.is_named(path):  # a list of a set may have been saved in another form
        form = ""
    try:
        said, records = forms.read(path, form)
        kind = kind or kinds.tell(path, records)
        found = list(kinds.module(kind).prompts(path, records, notes)) if records else []
    except Refused as error:
        raise UserError(f"prompt file {path}: {error}") from None
    if not found:
        raise UserError(f"prompt file {path} is empty; {EXPECTED}")
    return File(path, kind, said, len(records), found, +notes)

"""Texts, or records with a prompt field, of no particular set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from mvgrpo_jax.prompts.records import Prompt, Record, field_of, prompt_of


def fits(path: Path, records: list[Record]) -> bool:
    return True


def prompts(path: Path, records: list[Record], notes: Counter[str]) -> Iterator[Prompt]:
    """The field that the first object has is taken from every object."""
    name = None
    for record in records:
        if isinstance(record.value, dict):
            name = name or field_of(record)
        yield prompt_of(record, name)

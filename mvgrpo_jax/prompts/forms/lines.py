"""A prompt a line; blank lines are passed over."""

from __future__ import annotations

from mvgrpo_jax.prompts.records import Record


def records(rows: list[tuple[int, str]]) -> list[Record]:
    """A record a line of (number from 1, text)."""
    return [Record(f"line {number}", text) for number, text in rows]

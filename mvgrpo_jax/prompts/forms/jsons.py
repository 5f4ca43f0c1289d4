"""JSON: a list, an object over several lines, or a value a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from mvgrpo_jax.prompts.records import EXPECTED, Record, Refused

NAMES = (".json", ".jsonl", ".ndjson")


def records(text: str, rows: list[tuple[int, str]], *, named: bool) -> list[Record] | None:
    """The records of a text whose lines that are not blank are `rows`; None where it is no JSON. named: whether the file's name
    says that it is."""
    document = _value(text)
    if isinstance(document, list):
        return [Record(f"item {i}", item) for i, item in enumerate(document, 1)]
    if isinstance(document, dict) and len(rows) > 1:
        return [Record("the object", document)]
    if named or any(line.startswith("{") and isinstance(_value(line), dict) for _, line in rows):
        return list(_lines(rows))
    return None


def _value(text: str) -> Any:
    """The JSON value of a text, None where it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _lines(rows: list[tuple[int, str]]) -> Iterator[Record]:
    if rows[0][1].startswith("["):
        try:
            json.loads("\n".join(line for _, line in rows))
        except (ValueError, RecursionError) as error:
            raise Refused(f"it begins as a JSON list and is none ({error}); {EXPECTED}") from None
    for number, line in rows:
        try:
            yield Record(f"line {number}", json.loads(line))
        except (ValueError, RecursionError) as error:
            raise Refused(f"line {number} is not JSON ({error}), and the file is not one JSON list; {EXPECTED}") from None

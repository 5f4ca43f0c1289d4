"""UniGenBench (github.com/CodeGoat24/UniGenBench, data/test_prompts_{en,en_long,zh,zh_long}.csv): columns index, prompt_en,
sub_dims_en, or the same of zh. sub_dims is a JSON object, whose primary category is the `tag` and whose points to test are
`testpoints`, each with its description in `testpoint_descriptions`; the whole of it is `sub_dims`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mvgrpo_jax.prompts.records import Prompt, Record, Refused, field_of, kind_of, prompt_of

PUBLISHED = {"a file of data/test_prompts_*.csv": 600}
# The language of the columns -> the keys of sub_dims: primary category, points, their descriptions.
KEYS = {
    "en": ("Primary Categories", "Testpoints", "Testpoint Description"),
    "zh": ("一级垂类", "考点", "考点对应描述"),
}
NAMES = ("tag", "testpoints", "testpoint_descriptions")


def fits(path: Path, records: list[Record]) -> bool:
    return any(records[0].has(f"prompt_{language}", f"sub_dims_{language}") for language in KEYS)


def prompts(path: Path, records: list[Record], notes: Counter[str]) -> Iterator[Prompt]:
    if not isinstance(records[0].value, dict):
        raise Refused(
            f"{records[0].where} is {kind_of(records[0].value)}; expected a table with the column prompt_en or prompt_zh"
        )
    name = field_of(records[0], [f"prompt_{language}" for language in KEYS])
    language = name.strip().lower().removeprefix("prompt_")
    column = f"sub_dims_{language}"
    for record in records:
        prompt = prompt_of(record, name)
        rest = dict(prompt.metadata)
        dims = _object(rest.pop(column, None), f"{record.where}, {record.field} {column!r},")
        told = {ours: dims[theirs] for ours, theirs in zip(NAMES, KEYS[language]) if theirs in dims}
        points, descriptions = told.get("testpoints", []), told.get("testpoint_descriptions", [])
        notes["with other numbers of testpoints and of their descriptions"] += len(points) != len(descriptions)
        yield Prompt(prompt.text, rest | told | {"sub_dims": dims})


def _object(value: Any, where: str) -> dict[str, Any]:
    """The JSON object in a cell, or that is one already."""
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except ValueError as error:
        raise Refused(f"{where} is not JSON ({error})") from None
    if not isinstance(found, dict):
        raise Refused(f"{where} is {kind_of(found)}; expected a JSON object")
    return found

"""GenEval's metadata (github.com/djghosh13/geneval, and flow_grpo's dataset/geneval/*_metadata.jsonl): JSON lines
{tag, include: [{class, count, color?, position?: [relation, index]}], exclude?: [...], prompt}, kept as they are, so that a
detector can check a picture. The test file has each of its 553 prompts four times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from mvgrpo_jax.prompts.records import Prompt, Record, Refused, kind_of, listed, prompt_of

PUBLISHED = {"test_metadata.jsonl": 2212, "geneval_unseen_objects/test_metadata.jsonl": 1024}
FIELDS = ("tag", "include", "prompt")


def fits(path: Path, records: list[Record]) -> bool:
    return records[0].has(*FIELDS) and _is_list_of_objects(records[0].value["include"])


def prompts(path: Path, records: list[Record], notes: Counter[str]) -> Iterator[Prompt]:
    for record in records:
        if not record.has(*FIELDS):
            found = listed(record.value) if isinstance(record.value, dict) else kind_of(record.value)
            raise Refused(f"{record.where} is no record of GenEval; expected the fields {listed(FIELDS)}, found: {found}")
        for name in ("include", "exclude"):
            if not _is_list_of_objects(record.value.get(name, [])):
                raise Refused(
                    f"{record.where}, field {name!r}: expected a list of {{'class': a name, 'count': an integer}}, found "
                    f"{repr(record.value[name])[:80]}"
                )
        yield prompt_of(record, "prompt")


def _is_list_of_objects(value: object) -> bool:
    """Whether a value is a list of {class: a text, count: an integer, ...}."""
    return isinstance(value, list) and all(
        isinstance(item, dict) and isinstance(item.get("class"), str) and type(item.get("count")) is int for item in value
    )

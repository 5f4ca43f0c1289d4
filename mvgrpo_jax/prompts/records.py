"""What files of prompts hold, whatever their form: records, and the prompts that are made of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from mvgrpo_jax.prompts import text_files

# The field that holds the prompt, whatever its case; the first that the first record has is taken from every record.
FIELDS = ("prompt", "prompts", "caption", "text")
# Metadata that tables and judges look for, whatever its case, and the other names it goes by.
NORMAL = {"style": "style", "tag": "tag", "category": "tag", "target": "target"}
EXPECTED = (
    "expected a text file with a prompt a line, JSON lines or a JSON list of strings or of objects with a prompt field, or a "
    f"table (CSV, TSV, Parquet) with a prompt column; such a field is named {', '.join(FIELDS)}"
)


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A prompt's text, and whatever else its record had by field name: `style`, `tag` and `target` under these names."""

    text: str
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict, hash=False)


@dataclasses.dataclass(frozen=True)
class Record:
    """One entry of a file: a text, or an object of fields (of a table: cells by column). where: what messages call it, such as
    'line 3'. field: what they call a part of it."""

    where: str
    value: Any
    field: str = "field"

    def has(self, *names: str) -> bool:
        """Whether it is an object with all these fields."""
        return isinstance(self.value, dict) and set(names) <= set(self.value)


class Refused(Exception):
    """What a reader found wrong with a file's content."""


def prompt_of(record: Record, name: str | None = None) -> Prompt:
    """The prompt of a record: its text, or the field `name` (None: as `field_of` finds it), the other fields as metadata."""
    if isinstance(record.value, str):
        return Prompt(checked(record.value, record.where))
    if not isinstance(record.value, dict):
        raise Refused(f"{record.where} is {kind_of(record.value)}, neither a string nor an object; {EXPECTED}")
    name = name or field_of(record)
    return Prompt(text_of(record, name), normalised({key: value for key, value in record.value.items() if key != name}))


def field_of(record: Record, names: Iterable[str] = FIELDS) -> str:
    """Which of a record's fields holds the prompt: the first of `names` that it has, in any case."""
    for expected in names:
        fitting = [name for name in record.value if name.strip().lower() == expected]
        if fitting:
            return expected if expected in fitting else fitting[0]
    raise Refused(
        f"{record.where} has no prompt field; found: {listed(name for name in record.value if name)}; expected one of: "
        f"{', '.join(names)}. Rename it"
    )


def text_of(record: Record, name: str) -> str:
    """The text in a record's field."""
    if name not in record.value:
        raise Refused(
            f"{record.where} has no {record.field} {name!r}, which the others have; its fields: {listed(record.value)}"
        )
    return checked(record.value[name], f"{record.where}, {record.field} {name!r},")


def checked(text: Any, where: str) -> str:
    """A prompt's text without white space around it."""
    if not isinstance(text, str):
        raise Refused(f"{where} is {kind_of(text)}; expected the text of a prompt")
    if not (kept := text_files.stripped(text)):
        raise Refused(f"{where} is an empty prompt; give it a text or remove it")
    try:
        kept.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Refused(f"{where} is not Unicode text ({error.reason}); write the character whole") from None
    return kept


def normalised(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields with those of NORMAL under their normal name, unless that is taken."""
    out = dict(fields)
    for key, value in fields.items():
        name = NORMAL.get(key.strip().lower())
        if name and name not in out:
            out[name] = value
            del out[key]
    return out


KINDS = {
    **{dict: "an object", list: "a list", str: "a text"},
    **{bool: "a truth value", int: "a number", float: "a number", type(None): "null"},
}


def kind_of(value: Any) -> str:
    """What JSON calls a value."""
    return KINDS.get(type(value), f"a {type(value).__name__}")


def listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names) or "none"

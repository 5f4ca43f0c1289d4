"""Files of prompts: a prompt a line, JSON lines, a JSON list, or a table with a header (CSV, TSV).

The form is the name's (.json, .jsonl, .ndjson, .csv, .tsv) or, under any other name, the content's: JSON where the whole
file is one JSON list or object, or any line is a JSON object; a table where the first line is a header of single
words, at least two, with a prompt field among them; else a prompt a line. Text is UTF-8, with or without a byte order mark.
Lines end with a line feed, a carriage return or both, and with nothing else that Unicode may break a line at.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.run import text_files

# The field that holds the prompt, whatever its case; the first that the first record has is taken from every record.
FIELDS = ("prompt", "prompts", "caption", "text")
JSON_NAMES, TABLE_NAMES = (".json", ".jsonl", ".ndjson"), {".csv": ",", ".tsv": "\t"}
EXPECTED = (
    "expected a text file with a prompt a line, JSON lines or a JSON list of strings or of objects with a prompt field, or a "
    f"table (CSV, TSV) with a prompt column; such a field is named {', '.join(FIELDS)}"
)


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A prompt's text and whatever else its record had, by field name."""

    text: str
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict, hash=False)


def read(path: str | Path) -> list[Prompt]:
    """Every prompt of a file, in its order. UserError: a file that is missing, empty, not text, or without a prompt field."""
    path = Path(path)
    text = text_files.read(path, "prompt file", EXPECTED)
    try:
        prompts = list(_parsed(text, path.suffix.lower()))
    except Refused as error:
        raise UserError(f"prompt file {path}: {error}") from None
    if not prompts:
        raise UserError(f"prompt file {path} is empty; {EXPECTED}")
    return prompts


class Refused(Exception):
    """What a reader found wrong with a file's content."""


def _parsed(text: str, suffix: str) -> Iterable[Prompt]:
    lines = text_files.lines(text)
    if not lines:
        return []
    if suffix in TABLE_NAMES or (suffix not in JSON_NAMES and _is_header(lines[0][1])):
        return _table(text, TABLE_NAMES.get(suffix))
    document = _json(text)
    if isinstance(document, list):
        return _records((f"item {i}", item) for i, item in enumerate(document, 1))
    if isinstance(document, dict) and len(lines) > 1:
        return _records([("the object", document)])
    if suffix in JSON_NAMES or any(line.startswith("{") and isinstance(_json(line), dict) for _, line in lines):
        return _records(_json_lines(lines))
    return [Prompt(_checked(line, f"line {number}")) for number, line in lines]


def _json(text: str) -> Any:
    """The JSON value of a text, None where it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _json_lines(lines: list[tuple[int, str]]) -> Iterator[tuple[str, Any]]:
    if lines[0][1].startswith("["):
        try:
            json.loads("\n".join(line for _, line in lines))
        except (ValueError, RecursionError) as error:
            raise Refused(f"it begins as a JSON list and is none ({error}); {EXPECTED}") from None
    for number, line in lines:
        try:
            yield f"line {number}", json.loads(line)
        except (ValueError, RecursionError) as error:
            raise Refused(f"line {number} is not JSON ({error}), and the file is not one JSON list; {EXPECTED}") from None


def _records(items: Iterable[tuple[str, Any]]) -> Iterator[Prompt]:
    """Prompts of (location, string or object) pairs. location: what messages call the item, such as 'line 3'."""
    name = None
    for location, item in items:
        if isinstance(item, str):
            yield Prompt(_checked(item, location))
            continue
        if not isinstance(item, dict):
            raise Refused(f"{location} is {_kind(item)}, neither a string nor an object; {EXPECTED}")
        name = name or _field(list(item), location)
        if name not in item:
            raise Refused(f"{location} has no field {name!r}, which the others have; its fields: {_listed(item)}")
        rest = {key: value for key, value in item.items() if key != name}
        yield Prompt(_checked(item[name], f"{location}, field {name!r},"), rest)


def _field(names: list[str], location: str) -> str:
    """Which of a record's fields holds the prompt."""
    for expected in FIELDS:
        fitting = [name for name in names if name.strip().lower() == expected]
        if fitting:
            return expected if expected in fitting else fitting[0]
    raise Refused(f"{location} has no prompt field; found: {_listed(names)}; expected one of: {', '.join(FIELDS)}. Rename it")


def _checked(text: Any, location: str) -> str:
    """The prompt without white space around it."""
    if not isinstance(text, str):
        raise Refused(f"{location} is {_kind(text)}; expected the text of a prompt")
    if not (kept := text_files.stripped(text)):
        raise Refused(f"{location} is an empty prompt; give it a text or remove it")
    try:
        kept.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Refused(f"{location} is not Unicode text ({error.reason}); write the character whole") from None
    return kept


def _is_header(line: str) -> bool:
    """Whether a line is a header: at least two single words between commas, semicolons or tabs, a prompt field among them."""
    names = re.split(r"[,;\t]", line)
    words = all(re.fullmatch(r'"?[A-Za-z_][\w.-]*"?', name) for name in names)
    return len(names) > 1 and words and any(name.strip('"').lower() in FIELDS for name in names)


def _table(text: str, separator: str | None) -> Iterator[Prompt]:
    """Prompts of the rows under a header. The separator is the one that finds a prompt column in it, the given one first."""
    candidates = [*([separator] if separator else []), *(s for s in ",;\t" if s != separator)]
    first = next(line for line in text.split("\n") if line.strip())
    headers = {s: next(_rows(first, s, strict=False), (1, []))[1] for s in candidates}
    fitting = [s for s, names in headers.items() if any(name.strip().lower() in FIELDS for name in names)]
    separator = (fitting or candidates)[0]
    rows = _rows(text, separator)
    names = [name.strip() for name in next(rows, (1, []))[1]]
    at = names.index(_field(names, "the header (first line)"))
    for number, row in rows:
        if len(row) > len(names):
            raise Refused(
                f"line {number} has {len(row)} cells under a header of {len(names)} ({_listed(names)}); put a prompt that "
                f"holds {separator!r} between double quotes"
            )
        if len(row) <= at:
            raise Refused(f"line {number} ends before the column {names[at]!r}; the header has: {_listed(names)}")
        rest = {name: cell for i, (name, cell) in enumerate(zip(names, row)) if i != at}
        yield Prompt(_checked(row[at], f"line {number}, column {names[at]!r},"), rest)


def _rows(text: str, separator: str, strict: bool = True) -> Iterator[tuple[int, list[str]]]:
    """(line where it ends, cells) of each row that is not blank. Cells between quotes may hold separators, line feeds and
    doubled quotes. strict: refuses quotes that are not closed or end within a cell."""
    reader = csv.reader(io.StringIO(text), delimiter=separator, strict=strict)
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                yield reader.line_num, row
    except csv.Error as error:
        raise Refused(
            f"line {reader.line_num} is not a row of a table ({error}); double a quote inside of a quoted cell"
        ) from None


KINDS = {dict: "an object", list: "a list", bool: "a truth value", int: "a number", float: "a number", type(None): "null"}


def _kind(value: Any) -> str:
    """What JSON calls a value."""
    return KINDS[type(value)]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names) or "none"

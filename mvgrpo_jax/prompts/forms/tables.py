"""Tables in text: CSV and TSV with a header."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator

from mvgrpo_jax.prompts.records import FIELDS, Record, Refused, field_of, listed

NAMES = {".csv": ",", ".tsv": "\t"}
# By these columns a header is known; the later ones are UniGenBench's.
COLUMNS = (*FIELDS, "prompt_en", "prompt_zh")


def is_header(line: str) -> bool:
    """Whether a line is a header: at least two single words between commas, semicolons or tabs, a prompt field among them."""
    names = re.split(r"[,;\t]", line)
    words = all(re.fullmatch(r'"?[A-Za-z_][\w.-]*"?', name) for name in names)
    return len(names) > 1 and words and _is_prompts(name.strip('"') for name in names)


def _is_prompts(names) -> bool:
    return any(name.strip().lower() in COLUMNS for name in names)


def records(text: str, separator: str | None) -> list[Record]:
    """The rows under a header, cells by column. The separator is the one that finds a prompt column in it, the given one
    first. A row may end after its prompt: the cells that it lacks are empty."""
    candidates = [*([separator] if separator else []), *(s for s in ",;\t" if s != separator)]
    first = next(line for line in text.split("\n") if line.strip())
    headers = {s: next(_rows(first, s, strict=False), (1, []))[1] for s in candidates}
    separator = ([s for s, names in headers.items() if _is_prompts(names)] or candidates)[0]
    rows = _rows(text, separator)
    names = [name.strip() for name in next(rows, (1, []))[1]]
    at = names.index(field_of(Record("the header (first line)", dict.fromkeys(names)), COLUMNS))
    found = []
    for number, row in rows:
        if len(row) > len(names):
            raise Refused(
                f"line {number} has {len(row)} cells under a header of {len(names)} ({listed(names)}); put a prompt that "
                f"holds {separator!r} between double quotes"
            )
        if len(row) <= at:
            raise Refused(f"line {number} ends before the column {names[at]!r}; the header has: {listed(names)}")
        cells = row + [""] * (len(names) - len(row))
        found.append(Record(f"line {number}", dict(zip(names, cells)), "column"))
    return found


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

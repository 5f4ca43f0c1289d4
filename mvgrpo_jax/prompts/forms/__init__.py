"""The forms of files: a prompt a line, JSON, and tables. Each becomes records.

The form is the name's (.json, .jsonl, .ndjson, .csv, .tsv, .parquet) or, under any other name, the content's: JSON where the
whole file is one JSON list or object, or any line is a JSON object; a table where the first line is a header of single words,
at least two, with a prompt field among them; else a prompt a line.
"""

from __future__ import annotations

from pathlib import Path

from mvgrpo_jax.prompts import text_files
from mvgrpo_jax.prompts.forms import jsons, lines, parquet, tables
from mvgrpo_jax.prompts.records import EXPECTED, Record

__all__ = ["is_named", "read"]


def is_named(path: Path) -> bool:
    """Whether a file's name says that it has another form than a prompt a line."""
    return path.suffix.lower() in (*jsons.NAMES, *tables.NAMES, ".parquet")


def read(path: Path, form: str = "") -> tuple[str, list[Record]]:
    """(the form in words, the records) of a file. form: 'lines' takes every line as a prompt, whatever it looks like.
    UserError: a file that is missing, cannot be read or is not text. Refused: content that is not what its form says."""
    suffix = path.suffix.lower()
    if suffix == ".parquet" and not form:
        return "Parquet", parquet.records(path)
    text = text_files.read(path, "prompt file", EXPECTED)
    rows = text_files.lines(text)
    if form == "lines" or not rows:
        return "lines", lines.records(rows)
    if suffix in tables.NAMES or (suffix not in jsons.NAMES and tables.is_header(rows[0][1])):
        return "table", tables.records(text, tables.NAMES.get(suffix))
    found = jsons.records(text, rows, named=suffix in jsons.NAMES)
    return ("JSON", found) if found is not None else ("lines", lines.records(rows))

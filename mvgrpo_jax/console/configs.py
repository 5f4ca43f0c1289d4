"""The config files there are, or every key of one with its value and what it means.

python -m mvgrpo_jax.console.configs [NAME] [--dir FOLDER]
"""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap
from pathlib import Path

from mvgrpo_jax.configuration import listing
from mvgrpo_jax.console.commands import program
from mvgrpo_jax.errors import reports_errors

VALUE = 22  # columns of a value; what is longer has its comment in the next line


def overview(known: dict[str, str]) -> str:
    """A line a config file."""
    width = max(map(len, known))
    return "\n".join(f"{name:<{width}}  {first}" for name, first in known.items())


def shown(value: object) -> list[str]:
    """A value as it is typed, in lines: a long tuple has one for each item."""
    text = repr(value)
    if len(text) < 60 or not isinstance(value, tuple):
        return [text]
    lines = [f" {item!r}," for item in value]
    lines[0], lines[-1] = f"({lines[0][1:]}", f"{lines[-1]})"
    return lines


def row(entry: listing.Entry, width: int, columns: int) -> list[str]:
    """A star where the config differs from common.py, dotted name, value, comment. What does not fit beside goes below."""
    first, *others = shown(entry.value)
    indent = width + VALUE + 4
    words = textwrap.wrap(entry.comment, max(columns - indent, 30))
    start = f"{'*' if entry.differs else ' '} {entry.key:<{width}}{first:<{VALUE}}"
    if len(first) <= VALUE and words:
        start += f"  {words.pop(0)}"
    return [start.rstrip(), *(" " * (width + 2) + line for line in others), *(" " * indent + line for line in words)]


def table(entries: list[listing.Entry], sections: dict[str, str], columns: int) -> str:
    """A line a key; a blank line before a section, and what is said of it; a heading before what the config does not use."""
    width = max(len(e.key) for e in entries) + 2
    lines, last, told = [], "", set()
    for entry in entries:
        section = entry.key.rpartition(".")[0]
        if section != last:
            lines.append("")
            if last.partition(".")[0] > section.partition(".")[0]:
                lines += ["# Of the other algorithms, which this config does not run.", ""]
        last = section
        parts = entry.key.split(".")
        for said in (".".join(parts[:n]) for n in range(1, len(parts) + 1)):
            if said in sections and said not in told:
                lines += textwrap.wrap(f"{said}: {sections[said]}", columns, initial_indent="# ", subsequent_indent="#   ")
                told.add(said)
        lines += row(entry, width, columns)
    return "\n".join(lines).lstrip("\n")


@reports_errors
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog=program("mvgrpo_jax.console.configs"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", help="a config's name or file; without it the configs are listed")
    parser.add_argument("--dir", type=Path, default=Path("configs"), help="the folder of configs")
    options = parser.parse_args(argv)
    if options.name is None:
        print(overview(listing.files(options.dir)))
        return
    path = listing.find(options.name, options.dir)
    entries, sections = listing.entries(path)
    columns = max(shutil.get_terminal_size((140, 24)).columns, 80) if sys.stdout.isatty() else 140
    print(f"{path}; * where it differs from common.py. Set a key with --config.KEY=VALUE.\n")
    print(table(entries, sections, columns))


if __name__ == "__main__":
    main()

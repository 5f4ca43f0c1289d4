"""What is known of pictures, a JSON line each, in a folder to which every process adds its own file.

A line is there when `add` returns. One that was cut short by whatever ended the process does not count, and is taken off when
the process comes back.
"""

from __future__ import annotations

import json
import os
import urllib.parse
from pathlib import Path
from typing import Any

import jax

from mvgrpo_jax.errors import UserError


class Ledger:
    """parts/NAME/PROCESS.jsonl of lines {"key": ..., "value": ...}. Of two lines of one key the later one counts, and any value
    beats None, which says that it could not be had."""

    def __init__(self, folder: Path, name: str):
        self.folder = folder / "parts" / urllib.parse.quote(name, safe="")
        self.file = self.folder / f"{jax.process_index()}.jsonl"

    def read(self) -> dict[str, Any]:
        """What all processes know, by key."""
        found: dict[str, Any] = {}
        for path in sorted(self.folder.glob("*.jsonl")):
            for line in path.read_bytes().split(b"\n")[:-1]:
                try:
                    record = json.loads(line)
                except ValueError:  # cut short, and gone on after it
                    continue
                if record["value"] is not None or record["key"] not in found:
                    found[record["key"]] = record["value"]
        return found

    def add(self, values: dict[str, Any]) -> None:
        """UserError when they cannot be written; then none of them is there."""
        lines = "".join(json.dumps({"key": key, "value": value}) + "\n" for key, value in values.items()).encode()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.file.open("ab", buffering=0) as file:
                end = file.tell()
                try:
                    _write(file.fileno(), lines)
                except OSError:
                    os.ftruncate(file.fileno(), end)
                    raise
        except OSError as error:
            raise UserError(
                f"{self.file}: could not be written ({error}); free some space and run the same command again, which goes on"
            ) from error

    def mend(self) -> None:
        """Takes off a line of this process that was cut short."""
        if self.file.exists() and not (data := self.file.read_bytes()).endswith(b"\n"):
            os.truncate(self.file, data.rfind(b"\n") + 1)


def _write(descriptor: int, data: bytes) -> None:
    """All of it: the system may take a part at a time."""
    while data:
        data = data[os.write(descriptor, data) :]

"""A text file that grows by lines: appended to on a disk, in object storage kept in parts until it is closed."""

from __future__ import annotations

from pathlib import Path

from mvgrpo_jax.convert.files import atomic
from mvgrpo_jax.storage import is_remote, remove

PART = 50  # lines of a part, which is written anew for each of them


def read(path: Path) -> list[str]:
    """The lines of a file and of its parts, in their order. A writer that was killed may leave a line in both."""
    return [line for file in [path, *_parts(path)] for line in file.read_text().splitlines()]


def _folder(path: Path) -> Path:
    return path.with_name(f"{path.name}.parts")


def _parts(path: Path) -> list[Path]:
    return sorted(_folder(path).glob("*")) if is_remote(path) and _folder(path).exists() else []


def _write(path: Path, lines: list[str]) -> None:
    with atomic(path) as part:  # whatever stops this, the lines that were there are there
        part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def writer(path: Path, kept: list[str]) -> Appended | InParts:
    """Begins with the lines that are kept; `add` takes one line, which is there when it returns."""
    return InParts(path, kept) if is_remote(path) else Appended(path, kept)


class Appended:
    """A file of a disk."""

    def __init__(self, path: Path, kept: list[str]):
        _write(path, kept)
        self.file = path.open("a", encoding="utf-8")

    def add(self, line: str) -> None:
        self.file.write(f"{line}\n")
        self.file.flush()

    def close(self) -> None:
        self.file.close()


class InParts:
    """Objects PATH.parts/N of at most PART lines; all of them become PATH when it is closed."""

    def __init__(self, path: Path, kept: list[str]):
        self.path = path
        self._join(kept)

    def _join(self, lines: list[str]) -> None:
        _write(self.path, lines)
        remove(_folder(self.path))
        self.number, self.lines = 0, []

    def add(self, line: str) -> None:
        if len(self.lines) == PART:
            self.number, self.lines = self.number + 1, []
        self.lines.append(line)
        _write(_folder(self.path) / f"{self.number:06d}", self.lines)

    def close(self) -> None:
        self._join(read(self.path))

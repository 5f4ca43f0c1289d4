"""Which files of a folder are ours: only those are ever replaced or deleted.

A folder's checksums.sha256 lists what was written there, as `sha256sum -c` reads it. A file that is not listed, or whose
content has changed since, belongs to somebody else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from mvgrpo_jax.convert.files import atomic
from mvgrpo_jax.errors import UserError

CHECKSUMS = "checksums.sha256"
_FIRST = "# Written by mvgrpo_jax. The files below are its own: a later conversion to this folder may replace or delete them."


def listed(folder: Path) -> dict[str, set[str]]:
    """Name below the folder -> its SHA-256; two of them where a write was interrupted at its very end."""
    path = folder / CHECKSUMS
    sums: dict[str, set[str]] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        digest, _, name = line.partition("  ")
        if name and not line.startswith("#"):
            sums.setdefault(name, set()).add(digest)
    return sums


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 24):
            digest.update(piece)
    return digest.hexdigest()


def verify(folder: Path) -> list[str]:
    """The files of a folder whose content is not what its checksums say."""
    sums = listed(folder).items()
    return [name for name, digests in sums if not (folder / name).exists() or sha256(folder / name) not in digests]


class Owned:
    """The files that were written into `folder`, and the only way to put others there. Raises UserError for a checksums.sha256
    that somebody else wrote."""

    def __init__(self, folder: Path):
        self.folder = folder
        path = folder / CHECKSUMS
        if path.exists() and not path.read_text().startswith(_FIRST.partition(".")[0]):
            raise UserError(f"{path}: was not written by this program, which keeps its own there; choose another folder")
        self.sums = listed(folder)

    def has(self, name: str) -> bool:
        """Whether the file is there and just as it was written."""
        path = self.folder / name
        return name in self.sums and path.is_file() and sha256(path) in self.sums[name]

    def claim(self, names: Iterable[str], contents: dict[str, bytes] | None = None, *, read: bool = True) -> None:
        """UserError unless each of the names is free, ours, or holds `contents` already. read False: what is listed is taken
        as ours without reading it."""

        def free(name: str) -> bool:
            path = self.folder / name
            if not path.exists() or (self.has(name) if read else name in self.sums):
                return True
            return name in (contents or {}) and path.is_file() and path.read_bytes() == contents[name]

        if taken := [name for name in dict.fromkeys(names) if not free(name)]:
            raise UserError(
                f"{self.folder}: has files that this program did not write, or that were changed since: {', '.join(taken)}; "
                "nothing was replaced: move them away, or choose another folder"
            )

    def expect(self, name: str, digest: str) -> None:
        """Lists a file that is about to appear, beside what it replaces: whichever is there after a crash is ours."""
        self.sums.setdefault(name, set()).add(digest)
        self._write()

    def wrote(self, name: str, digest: str) -> None:
        self.sums[name] = {digest}
        self._write()

    def put(self, name: str, content: bytes) -> None:
        """Writes a small file atomically."""
        digest = hashlib.sha256(content).hexdigest()
        with atomic(self.folder / name) as part:
            part.write_bytes(content)
            self.expect(name, digest)
        self.wrote(name, digest)

    def remove(self, names: Iterable[str]) -> list[str]:
        """Deletes those of the files that are as they were written, and returns those that are not: they stay."""
        changed = []
        for name in names:
            if self.has(name):
                (self.folder / name).unlink()
            elif (self.folder / name).exists():
                changed.append(name)
            self.sums.pop(name, None)
        if self.sums or (self.folder / CHECKSUMS).exists():
            self._write()
        return changed

    def _write(self) -> None:
        lines = [f"{digest}  {name}" for name, digests in sorted(self.sums.items()) for digest in sorted(digests)]
        with atomic(self.folder / CHECKSUMS) as part:
            part.write_text("\n".join([_FIRST, *lines]) + "\n")

"""Paths of a disk (pathlib's) and of object storage (etils' epath, with the same methods)."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from etils import epath

from mvgrpo_jax.errors import UserError

# Scheme -> the module that must be installed; orbax writes checkpoints to no other object storage. gcsfs brings Google's own
# client, which orbax asks besides.
CLIENTS = {"gs": "gcsfs"}


def place(path: str | os.PathLike) -> Path:
    """The path of a text such as 'runs/a' or 'gs://bucket/runs/a'. UserError for a scheme that does not work here."""
    text = os.fspath(path)
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):/+(.*)", text)  # one slash is what pathlib leaves of two
    if not found:
        return Path(text)
    scheme, rest = found.groups()
    if scheme not in CLIENTS:
        known = ", ".join(f"{name}://" for name in CLIENTS)
        raise UserError(
            f"{text}: {scheme}:// does not work here; expected a folder or {known}. Mount that storage and give the folder, or "
            "copy the run there afterwards"
        )
    if not importlib.util.find_spec(CLIENTS[scheme]):
        raise UserError(
            f"{text}: {scheme}:// needs {CLIENTS[scheme]}, which is not installed: pip install 'mvgrpo_jax[gcs]', or give a "
            "folder"
        )
    return epath.Path(f"{scheme}://{rest}")


def is_remote(path: str | os.PathLike) -> bool:
    """Whether a path lies in object storage."""
    return "://" in os.fspath(path)


def size(path: Path) -> int | None:
    """Bytes of a file; None when there is none."""
    try:
        # epath asks for the owner's name too, which a container may not have.
        return path.stat().length if is_remote(path) else os.path.getsize(path)
    except FileNotFoundError:
        return None


def files(folder: Path) -> Iterator[str]:
    """The name of every file of a folder and the folders in it, relative to it, with slashes."""
    top = os.fspath(folder).partition("://")[2] or os.fspath(folder)
    for root, _, names in epath.Path(folder).walk():
        inside = os.fspath(root).partition("://")[2] or os.fspath(root)  # some clients leave the scheme out
        yield from (os.path.relpath(os.path.join(inside, name), top) for name in names)


def remove(folder: Path) -> None:
    """Deletes a folder with all that is in it; nothing when it is not there."""
    epath.Path(folder).rmtree(missing_ok=True)


def upload(file: Path, path: Path) -> None:
    """Copies a file of this machine to object storage, where it appears whole or not at all."""
    with file.open("rb") as source, path.open("wb") as target:
        shutil.copyfileobj(source, target, 16 << 20)

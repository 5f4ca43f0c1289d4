"""What stands around the weights in a diffusers folder: configs, tokenizers, scheduler, index."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mvgrpo_jax.convert.files import read_json
from mvgrpo_jax.convert.owned import Owned
from mvgrpo_jax.convert.sources import STEMS

INDEX = "model_index.json"
FOLDERS = ("scheduler", "tokenizer", "tokenizer_2")
# Names that readers look for first: a foreign file under one of them would be read in place of what is written beside it.
READ_FIRST = tuple(f"{stem}.safetensors{end}" for stem in STEMS for end in ("", ".index.json"))


def as_json(item: Any) -> bytes:
    return (json.dumps(item, indent=2) + "\n").encode()


def contents(base: Path, components: tuple[str, ...], configs: dict[str, Any] | None = None) -> dict[str, bytes]:
    """Name -> content of every file around the weights of a pipeline like `base`; `configs` replaces a component's config."""
    files = {
        str(path.relative_to(base)): path.read_bytes()
        for folder in FOLDERS
        for path in sorted((base / folder).rglob("*"))
        if path.is_file()
    }
    given = configs or {}
    files |= {f"{n}/config.json": as_json(given.get(n) or read_json(base / n / "config.json")) for n in components}
    return files | {INDEX: as_json(read_json(base / INDEX))}


def check_free(dst: Path, components: tuple[str, ...]) -> None:
    """UserError where a pipeline cannot be written into `dst` because somebody else's files stand where its own would."""
    Owned(dst).claim((INDEX,), read=False)
    for name in components:
        Owned(dst / name).claim(READ_FIRST, read=False)


@contextlib.contextmanager
def around(files: dict[str, bytes], dst: Path, components: tuple[str, ...]) -> Iterator[None]:
    """Writes the files around the weights, which the body writes into their components' folders: a whole pipeline's with its
    index, or one component's.

    The index comes last: an interrupted folder is no pipeline. Raises UserError before anything is written when the folder has
    files of the same names that this program did not write; what else is there stays.
    """
    owned = Owned(dst)
    owned.claim(files, files)
    for name in components:
        Owned(dst / name).claim(READ_FIRST, read=False)
    if INDEX in files:
        (dst / INDEX).unlink(missing_ok=True)
    for name, content in files.items():
        if name != INDEX:
            owned.put(name, content)
    yield
    if INDEX in files:
        stale = [n for n in owned.sums if n not in files and n.partition("/")[0] in (*FOLDERS, *components)]
        if changed := owned.remove(stale):
            warnings.warn(f"{dst}: {', '.join(changed)} are from an earlier pipeline, changed since; they stay", stacklevel=3)
        owned.put(INDEX, files[INDEX])

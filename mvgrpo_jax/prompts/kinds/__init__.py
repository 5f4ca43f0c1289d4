"""One small file a published set of prompts; the name that --as and config.prompts.kind know is the module's.

A module has fits(path, records), whether a file is of this kind by its name and content, and prompts(path, records, notes),
the prompts of its records; `notes` counts what a reader should know, by sentence. It may have FORM = 'lines' where every line
is a prompt whatever it looks like, unless the file's name says another form, and PUBLISHED, {what: number of prompts as
published}.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from types import ModuleType

from mvgrpo_jax.errors import UserError, did_you_mean
from mvgrpo_jax.prompts.records import Record

ANY = "plain"  # what fits no other


def names() -> list[str]:
    return sorted(m.name for m in pkgutil.iter_modules(__path__))


def module(kind: str) -> ModuleType:
    """UserError lists what exists."""
    if kind not in names():
        raise UserError(f"unknown kind of prompts {kind!r};{did_you_mean(kind, names())} there are: {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{kind}")


def tell(path: Path, records: list[Record]) -> str:
    """The kind of a file by its name and records; 'plain' where no published set is known by them."""
    fitting = [kind for kind in names() if kind != ANY and module(kind).fits(path, records)] if records else []
    return fitting[0] if fitting else ANY

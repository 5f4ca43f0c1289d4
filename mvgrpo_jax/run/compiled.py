"""Where compiled programs are kept between runs, so that the same run starts without compiling again."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import jax

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.storage import is_remote, place

BESIDE = "compiled_programs"


def folder(given: str | None, workdir: str | None) -> str:
    """The folder: what is given, '' for none; None: what JAX_COMPILATION_CACHE_DIR says, else of a job of several processes a
    folder beside the workdir, which they share (its first process writes, all read), else one in the user's cache."""
    if given is not None:
        return given
    if set_already := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return set_already
    if jax.process_count() > 1 and workdir:
        return str(place(workdir).parent / BESIDE)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return str(Path(cache) / "mvgrpo_jax" / BESIDE)


def keep(given: str | None, workdir: str | None) -> None:
    """Keeps what this process compiles from now on, and looks there first. UserError when a folder that was given cannot be
    written; without one that can, nothing is kept."""
    path = folder(given, workdir)
    if path and not is_remote(where := Path(path)) and not _writable(where):
        if given:
            raise UserError(f"--compilation_cache={given} cannot be written; give another folder, or an empty one for none")
        path = ""
    jax.config.update("jax_compilation_cache_dir", path or None)


def _writable(where: Path) -> bool:
    try:
        where.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=where):
            return True
    except OSError:
        return False

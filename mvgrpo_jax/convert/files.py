"""Files that appear under their final name only when they are complete."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from safetensors import SafetensorError

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.storage import is_remote, place, upload


class atomic:
    """`with atomic(path) as part:` write to `part`; it becomes `path` on success and vanishes on failure. part: a file of this
    machine, beside `path`, or where that is in object storage among the temporary files."""

    def __init__(self, path: str | Path):
        self.path, self.remote = place(path), is_remote(path)

    def __enter__(self) -> Path:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle, part = tempfile.mkstemp(dir=None if self.remote else self.path.parent, prefix=f".{self.path.name}.")
        except OSError as error:
            raise UserError(f"{self.path}: could not be written ({error}); check the folder and the free space") from error
        os.close(handle)
        self.part = Path(part)
        return self.part

    def __exit__(self, kind, error, trace) -> None:
        if kind is not None:
            self.part.unlink(missing_ok=True)
            if issubclass(kind, (OSError, SafetensorError)):
                raise UserError(f"{self.path}: could not be written ({error}); free some space and run again") from error
            return
        if self.remote:
            try:
                upload(self.part, self.path)
            except OSError as error:
                raise UserError(f"{self.path}: could not be written ({error}); run again") from error
            finally:
                self.part.unlink()
            return
        self.part.chmod(0o644)
        os.replace(self.part, self.path)


def read_json(path: str | Path) -> dict:
    """A JSON object from a file; UserError when it is missing or damaged."""
    try:
        return json.loads(place(path).read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected a folder as diffusers' save_pretrained writes it") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not valid JSON ({error}); copy it again") from None


def write_json(path: Path, item: dict) -> None:
    with atomic(path) as part:
        part.write_text(json.dumps(item, indent=2) + "\n")

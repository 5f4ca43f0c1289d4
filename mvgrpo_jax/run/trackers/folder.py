"""A folder for files that grow, which object storage does not keep."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

from mvgrpo_jax.storage import files, is_remote, upload

COPIED = 60.0  # seconds


class Folder:
    """local: where to write: the folder itself, or where that is in object storage one of this machine, of the same name, which
    is copied every COPIED seconds and at the end."""

    def __init__(self, folder: Path):
        self.folder, self.remote = folder, is_remote(folder)
        self.local = Path(tempfile.mkdtemp(prefix="tracker.")) / folder.name if self.remote else Path(folder)
        self.copied = time.monotonic()

    def due(self) -> bool:
        """Whether it is time to copy."""
        return self.remote and time.monotonic() - self.copied > COPIED

    def copy(self) -> None:
        self.copied = time.monotonic()
        for name in files(self.local):
            target = self.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            upload(self.local / name, target)

    def close(self) -> None:
        if self.remote:
            self.copy()
            shutil.rmtree(self.local.parent)

"""A store of encoded texts, keyed by text and encoder: bounded in host memory, and on disk when a folder is given."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from pathlib import Path

import numpy as np

from mvgrpo_jax.convert.sources import TensorFiles
from mvgrpo_jax.convert.writing import write_file

Encoded = tuple[np.ndarray, np.ndarray]  # T5's [S, D] and CLIP's pooled [E]


def encoder_identity(folder: Path, length: int, dtype: str) -> str:
    """What an encoding depends on beside its text: the encoders' weight files, the tokens and the precision."""
    facts: list = [length, dtype]
    for part in ("text_encoder", "text_encoder_2"):
        for file in sorted((folder / part).glob("*.safetensors")):
            with file.open("rb") as content:
                facts.append((part, file.name, file.stat().st_size, hashlib.sha256(content.read(1 << 16)).hexdigest()))
    return hashlib.sha256(repr(facts).encode()).hexdigest()


class Store:
    """Least recently used texts go first when a bound is reached; those on disk come back from there.

    memory, disk: bounds in bytes. folder: where files go, one a text; it may be shared by runs and kept between them.
    """

    def __init__(self, identity: str, memory: int, folder: Path | None = None, disk: int = 0):
        self.identity, self.memory, self.folder, self.disk = identity, memory, folder, disk
        self.held: OrderedDict[str, Encoded] = OrderedDict()
        self.size = 0
        self.files: OrderedDict[Path, int] = OrderedDict()
        self.disk_size = 0  # bytes of self.files
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
            for path in sorted(folder.glob("*.safetensors"), key=lambda p: p.stat().st_mtime_ns):
                self._add(path, path.stat().st_size)

    def path(self, text: str) -> Path:
        return self.folder / (hashlib.sha256(f"{self.identity}\n{text}".encode()).hexdigest() + ".safetensors")

    def get(self, text: str) -> Encoded | None:
        if text in self.held:
            self.held.move_to_end(text)
            return self.held[text]
        if self.folder and (path := self.path(text)).exists():
            files = TensorFiles(path)
            encoded = files.read("txt"), files.read("pooled")
            self._hold(text, encoded)
            return encoded
        return None

    def put(self, text: str, encoded: Encoded) -> None:
        """Keeps an encoding where there is room; one that is larger than a bound throws nothing out. The cost does not depend
        on how many texts are stored."""
        self._hold(text, encoded)
        if not self.folder or sum(a.nbytes for a in encoded) > self.disk or (path := self.path(text)) in self.files:
            return
        items = [(name, a.dtype, a.shape) for name, a in zip(("txt", "pooled"), encoded)]
        write_file(path, items, encoded)
        self._add(path, path.stat().st_size)
        while self.disk_size > self.disk:
            oldest, size = self.files.popitem(last=False)
            self.disk_size -= size
            oldest.unlink(missing_ok=True)

    def _add(self, path: Path, size: int) -> None:
        self.files[path] = size
        self.disk_size += size

    def _hold(self, text: str, encoded: Encoded) -> None:
        nbytes = sum(a.nbytes for a in encoded)
        if nbytes > self.memory or text in self.held:
            return
        self.held[text] = encoded
        self.size += nbytes
        while self.size > self.memory:
            _, old = self.held.popitem(last=False)
            self.size -= sum(a.nbytes for a in old)

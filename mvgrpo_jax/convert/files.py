"""Folders of safetensors files: one file, or shards with an index."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import ml_dtypes  # noqa: F401  (teaches numpy the name bfloat16)
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mvgrpo_jax.errors import UserError

STEMS = ("diffusion_pytorch_model", "model")


class TensorFiles:
    """The tensors of a component folder, read one at a time. Raises UserError for anything missing or cut short."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.where = self._locate()
        self._open: dict[Path, object] = {}

    def _locate(self) -> dict[str, Path]:
        if not self.folder.is_dir():
            raise UserError(f"{self.folder}: no such folder; expected a model folder with config.json and safetensors")
        for stem in STEMS:
            index = self.folder / f"{stem}.safetensors.index.json"
            if index.exists():
                return self._from_index(index)
            if (single := self.folder / f"{stem}.safetensors").exists():
                return dict.fromkeys(self._file(single).keys(), single)
        found = ", ".join(sorted(p.name for p in self.folder.iterdir())) or "nothing"
        pickles = any(p.suffix in (".bin", ".pt", ".ckpt", ".pth") for p in self.folder.iterdir())
        advice = (
            "pickled weights are never loaded, because unpickling runs code: save them again with safe_serialization=True"
            if pickles
            else "copy the complete folder as diffusers' save_pretrained writes it"
        )
        raise UserError(f"{self.folder}: expected {' or '.join(s + '.safetensors' for s in STEMS)}, found {found}; {advice}")

    def _from_index(self, index: Path) -> dict[str, Path]:
        try:
            table = json.loads(index.read_text())["weight_map"]
        except (json.JSONDecodeError, KeyError) as error:
            raise UserError(f"{index}: not a safetensors index ({error!r}); download it again") from None
        missing = sorted({f for f in table.values() if not (self.folder / f).exists()})
        if missing:
            raise UserError(f"{index}: names files that are not there: {', '.join(missing)}; download them")
        for name, file in table.items():
            if name not in self._file(self.folder / file).keys():
                raise UserError(f"{index}: says that {name} is in {file}, but it is not; index and shards differ")
        return {name: self.folder / file for name, file in table.items()}

    def _file(self, path: Path):
        opened = self.__dict__.setdefault("_open", {})
        if path not in opened:
            try:
                opened[path] = safe_open(path, "np")
            except (SafetensorError, OSError) as error:
                size = path.stat().st_size if path.exists() else 0
                raise UserError(
                    f"{path}: not a complete safetensors file ({size} bytes: {error}); it was cut short or is damaged, "
                    "copy it again"
                ) from None
        return opened[path]

    def names(self) -> list[str]:
        return list(self.where)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._file(self.where[name]).get_slice(name).get_shape())

    def read(self, name: str) -> np.ndarray:
        return self._file(self.where[name]).get_tensor(name)


def write_tensors(tensors: Callable[[], Iterator[tuple[str, np.ndarray]]], path: Path) -> None:
    """Writes one safetensors file under its final name only when it is complete."""
    with atomic(path) as part:
        save_file({k: np.asarray(v, order="C") for k, v in tensors()}, part, metadata={"format": "pt"})


class atomic:
    """`with atomic(path) as part:` write to `part`; it becomes `path` on success and vanishes on failure."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def __enter__(self) -> Path:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        os.close(handle)
        self.part = Path(part)
        return self.part

    def __exit__(self, kind, error, trace) -> None:
        if kind is not None:
            self.part.unlink(missing_ok=True)
            if issubclass(kind, (OSError, SafetensorError)):
                raise UserError(f"{self.path}: could not be written ({error}); free some space and run again") from error
            return
        self.part.chmod(0o644)
        os.replace(self.part, self.path)


def read_json(path: Path) -> dict:
    """A JSON object from a file; UserError when it is missing or damaged."""
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected a folder as diffusers' save_pretrained writes it") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not valid JSON ({error}); copy it again") from None

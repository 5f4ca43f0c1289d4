"""Tensors out of safetensors files, one at a time or by rows: a folder with one file or shards, or a single file.

Read by offset and not through a memory map, so that reading 24 GB does not make 24 GB resident. Several threads may read one
source at once.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Protocol

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from mvgrpo_jax.convert import float8, formats
from mvgrpo_jax.errors import UserError

STEMS = ("diffusion_pytorch_model", "model")

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
FLOAT8 = (DTYPES["F8_E4M3"], DTYPES["F8_E5M2"])


class Source(Protocol):
    """Named tensors in torch's layout. `where` names the place in errors."""

    where: str

    def names(self) -> list[str]: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def dtype(self, name: str) -> np.dtype: ...

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows start .. stop - 1 of a tensor; all of them by default."""


@dataclasses.dataclass(frozen=True)
class Stored:
    """Where a tensor lies in a file."""

    path: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def read(self, start: int, stop: int | None) -> np.ndarray:
        if not self.shape:
            shape, skip = (), 0
        else:
            stop = self.shape[0] if stop is None else stop
            shape, skip = (stop - start, *self.shape[1:]), start * (self.nbytes // max(self.shape[0], 1))
        out = np.empty(shape, self.dtype)
        room, got = out.reshape(-1).view(np.uint8).data, 0
        with self.path.open("rb", buffering=0) as file:  # a buffer would read beyond the rows
            file.seek(self.offset + skip)
            while count := file.readinto(room[got:]):  # at most 2 GiB at once
                got += count
        if got != out.nbytes:
            raise UserError(f"{self.path}: ended {out.nbytes - got} bytes early; it changed while it was read")
        return out


def stored(path: Path) -> dict[str, Stored]:
    """The tensors of one safetensors file. Raises UserError unless the file is whole, and for formats that are not read."""
    if path.suffix in formats.PICKLES:
        raise UserError(f"{path}: expected a safetensors file; {formats.REFUSED}")
    try:
        if told := formats.foreign(path):
            raise UserError(f"{path}: expected a safetensors file, found {told}")
        with safe_open(path, "np"):  # the library's own checks: header, offsets, length
            pass
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
    except (SafetensorError, OSError, ValueError) as error:
        size = path.stat().st_size if path.exists() else 0
        raise UserError(
            f"{path}: not a complete safetensors file ({size} bytes: {error}); it was cut short or is damaged, copy it again"
        ) from None
    table = {}
    header.pop("__metadata__", None)
    if told := formats.quantised(header, (item["dtype"] for item in header.values())):
        raise UserError(f"{path}: holds {told}")
    for name, item in header.items():
        if item["dtype"] not in DTYPES:
            raise UserError(f"{path}: {name} has dtype {item['dtype']}; known are {', '.join(DTYPES)}")
        table[name] = Stored(path, DTYPES[item["dtype"]], tuple(item["shape"]), 8 + size + item["data_offsets"][0])
    return table


def metadata(path: Path) -> dict[str, str]:
    """The free text fields of a safetensors file."""
    with safe_open(path, "np") as file:
        return dict(file.metadata() or {})


class TensorFiles:
    """The tensors of a component's folder, or of one file. float8 tensors come out as bfloat16, times their scales where the
    file has some (see float8). Raises UserError for anything missing or cut short."""

    def __init__(self, place: str | Path):
        self.place = Path(place)
        self.where = str(place)
        tensors = stored(self.place) if self.place.is_file() else self._locate()
        self.tensors, self.scales = float8.split(tensors, self.where)

    def _locate(self) -> dict[str, Stored]:
        if not self.place.is_dir():
            raise UserError(f"{self.place}: no such folder; expected a model folder with config.json and safetensors")
        for stem in STEMS:
            index = self.place / f"{stem}.safetensors.index.json"
            if index.exists():
                return self._from_index(index)
            if (single := self.place / f"{stem}.safetensors").exists():
                return stored(single)
        found = sorted(p.name for p in self.place.iterdir())
        pickled = any(Path(name).suffix in formats.PICKLES for name in found)
        advice = formats.REFUSED if pickled else "copy the complete folder as diffusers' save_pretrained writes it"
        if any(name.endswith(".gguf") for name in found):
            advice = f"GGUF files are not read; {formats.INSTEAD}"
        raise UserError(
            f"{self.place}: expected {' or '.join(s + '.safetensors' for s in STEMS)}, "
            f"found {', '.join(found) or 'nothing'}; {advice}"
        )

    def _from_index(self, index: Path) -> dict[str, Stored]:
        try:
            table = json.loads(index.read_text())["weight_map"]
            files = sorted(set(table.values()))
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{index}: not a safetensors index ({error!r}); download it again") from None
        if missing := [f for f in files if not (self.place / f).exists()]:
            raise UserError(f"{index}: names files that are not there: {', '.join(missing)}; download them")
        content = {file: stored(self.place / file) for file in files}
        for name, file in table.items():
            if name not in content[file]:
                raise UserError(f"{index}: says that {name} is in {file}, but it is not; index and shards differ")
        return {name: content[file][name] for name, file in table.items()}

    def names(self) -> list[str]:
        return list(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape

    def dtype(self, name: str) -> np.dtype:
        dtype = self.tensors[name].dtype
        return DTYPES["BF16"] if dtype in FLOAT8 else dtype

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        array = self.tensors[name].read(start, stop)
        if name in self.scales:
            array = float8.scaled(array, self.scales[name].read(0, None), self.shape(name), start)
        return array.astype(self.dtype(name), copy=False)


class Described:
    """Names, shapes and one dtype with nothing to read: what layouts are checked and planned with."""

    where = "a description"

    def __init__(self, shapes: dict[str, tuple[int, ...]], dtype: np.dtype = DTYPES["F32"]):
        self.shapes, self.kind = shapes, dtype

    def names(self) -> list[str]:
        return list(self.shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def dtype(self, name: str) -> np.dtype:
        return self.kind


class Renamed:
    """A source under other names: `names` maps the new name to the old one; what it leaves out is hidden."""

    def __init__(self, source: Source, names: dict[str, str]):
        self.source, self.table, self.where = source, names, source.where

    def names(self) -> list[str]:
        return list(self.table)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.source.shape(self.table[name])

    def dtype(self, name: str) -> np.dtype:
        return self.source.dtype(self.table[name])

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        return self.source.read(self.table[name], start, stop)

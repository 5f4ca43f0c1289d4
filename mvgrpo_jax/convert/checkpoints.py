"""Weights as judges are published: files of torch.save or safetensors, alone or in a folder, read by offset, nothing run.

A file of torch.save is a pickle that describes the tensors (see pickles), and their numbers: uncompressed in a zip archive or,
as torch before 1.6 wrote them, one after the other behind the pickle. No tensor is held before it is asked for.
"""

from __future__ import annotations

import dataclasses
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mvgrpo_jax.convert import formats
from mvgrpo_jax.convert.pickles import Refused, Storage, View, described
from mvgrpo_jax.convert.sources import STEMS, Source, Stored, TensorFiles
from mvgrpo_jax.errors import UserError

Places = dict[str, tuple[int, int]]  # of each storage, where it begins in the file and its bytes
SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
# What other programs wrap a state dict in, beside counters and settings of theirs.
WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
_PARALLEL = "module."  # what torch's data parallel wrapper puts before every name
_LEGACY = 0x1950A86A20F9469CFC6C  # the first number of a file of torch before 1.6
_MOST = 2**28  # bytes of a description


def open_weights(place: str | Path, names: tuple[str, ...] = ()) -> Source:
    """The tensors of a file of torch.save or safetensors, or of a folder, in which the first of `names` that is there is read,
    and else safetensors as transformers writes them or a single file of torch.save. Raises UserError."""
    place = Path(place)
    if place.is_dir():
        found = next((place / name for name in names if (place / name).exists()), None)
        written = any((place / f"{stem}.safetensors{end}").exists() for stem in STEMS for end in ("", ".index.json"))
        if not found and not written:
            pickled = [p for p in sorted(place.iterdir()) if p.suffix in SUFFIXES]
            if len(pickled) > 1:
                raise UserError(
                    f"{place}: has {', '.join(p.name for p in pickled)}; expected one file of weights, name that file itself"
                )
            found = next(iter(pickled), None)
        place = found or place
    if place.suffix in SUFFIXES:
        return PickledTensors(place)
    if not place.exists():
        raise UserError(f"{place}: no such file or folder; expected weights in safetensors, or {', '.join(SUFFIXES)}")
    return TensorFiles(place)


@dataclasses.dataclass(frozen=True)
class Strided:
    """A tensor of a file whose numbers do not follow each other in its order. span: the numbers from its first to its last
    one, in a row; strides count numbers."""

    span: Stored
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype:
        return self.span.dtype

    def read(self, start: int, stop: int | None) -> np.ndarray:
        numbers = self.span.read(0, None)
        steps = [n * numbers.itemsize for n in self.strides]
        return np.ascontiguousarray(np.lib.stride_tricks.as_strided(numbers, self.shape, steps)[start:stop])


class PickledTensors:
    """The tensors of a file of torch.save, a sources.Source. What is no tensor is left out; where a state dict is wrapped
    (WRAPPERS), its names are those inside. Raises UserError for anything that is not a whole file of tensors, with what was
    found in it."""

    def __init__(self, path: str | Path):
        self.path, self.where = Path(path), str(path)
        try:
            told = formats.foreign(self.path) or ""
            if told and "pickled" not in told:
                raise UserError(f"{path}: expected weights as torch.save writes them, found {told}")
            with self.path.open("rb") as file:
                content, places = (_archive if zipfile.is_zipfile(file) else _sequence)(file)
            self.tensors = {name: self._placed(view, places) for name, view in state_of(content).items()}
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; expected weights as torch.save writes them") from None
        except (Refused, zipfile.BadZipFile, NotImplementedError, OSError, ValueError, struct.error) as error:
            raise UserError(
                f"{path}: expected tensors as torch.save writes them, found {error}; nothing in the file was run. Copy it "
                "again, or take the same weights as safetensors"
            ) from None

    def _placed(self, view: View, places: Places) -> Stored | Strided:
        storage = view.storage
        start, length = places.get(storage.key, (0, 0))
        if length < storage.count * storage.dtype.itemsize:
            raise Refused(f"{length} bytes for the {storage.count} numbers of {storage.dtype} in the storage {storage.key!r}")
        start += view.offset * storage.dtype.itemsize
        if view.contiguous:
            return Stored(self.path, storage.dtype, view.shape, start)
        return Strided(Stored(self.path, storage.dtype, (view.span,), start), view.shape, view.strides)

    def names(self) -> list[str]:
        return list(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape

    def dtype(self, name: str) -> np.dtype:
        return self.tensors[name].dtype

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        return self.tensors[name].read(start, stop)


def state_of(content: Any) -> dict[str, View]:
    """The tensors by name of what a file holds. Wrappers are opened, at most two of them: a search in depth could be made
    endless by a file."""
    for _ in range(3):
        if not isinstance(content, dict):
            break
        if found := {name: view for name, view in content.items() if isinstance(name, str) and isinstance(view, View)}:
            parallel = all(name.startswith(_PARALLEL) for name in found)
            return {name.removeprefix(_PARALLEL): view for name, view in found.items()} if parallel else found
        content = next((content[key] for key in WRAPPERS if isinstance(content.get(key), dict)), None)
    raise Refused(f"no dict of tensors, nor one under {', '.join(WRAPPERS)}")


def _archive(file: BinaryIO) -> tuple[Any, Places]:
    """Of a zip archive: what TOP/data.pkl describes, and where each TOP/data/KEY lies."""
    size = file.seek(0, 2)
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
    top = next((name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl")), None)
    if top is None:
        raise Refused("a zip archive without a data.pkl")

    def content(name: str, most: int) -> bytes:
        begin, length = _begin(file, entries[name], size)
        if length > most:
            raise Refused(f"{name} of {length} bytes")
        file.seek(begin)
        return file.read(length)

    if (order := top + "byteorder") in entries and content(order, 16) != b"little":
        raise Refused("numbers of another byte order than little")
    folder = top + "data/"
    places = {name.removeprefix(folder): _begin(file, e, size) for name, e in entries.items() if name.startswith(folder)}
    return described(content(top + "data.pkl", _MOST))[0], places


def _begin(file: BinaryIO, entry: zipfile.ZipInfo, size: int) -> tuple[int, int]:
    """Where an entry's bytes begin, and how many they are. Refused where it is compressed, or would reach over the end."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
        raise Refused(f"{entry.filename} compressed, from {entry.compress_size} to {entry.file_size} bytes")
    file.seek(entry.header_offset)
    header = file.read(30)
    begin = entry.header_offset + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    if header[:4] != b"PK\x03\x04" or begin + entry.file_size > size:
        raise Refused(f"{entry.filename} of {entry.file_size} bytes, which end beyond the file")
    return begin, entry.file_size


def _sequence(file: BinaryIO) -> tuple[Any, Places]:
    """Of a file of torch before 1.6, five pickles and then the storages: as _archive."""
    size = file.seek(0, 2)
    file.seek(0)
    start = file.read(2)
    if start[:1] != b"\x80":
        raise Refused("a zip archive that is cut short" if start == b"PK" else "neither a zip archive nor a pickle")
    file.seek(0)
    if described(file)[0] != _LEGACY:
        raise Refused("a pickle that torch.save did not write")
    described(file)  # the format's version
    machine = described(file)[0]
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise Refused("numbers of another byte order than little")
    content, storages = described(file)
    places: Places = {}
    for key in described(file)[0]:
        storage: Storage | None = storages.get(key)
        count = int.from_bytes(file.read(8), "little")
        length = count * storage.dtype.itemsize if storage else 0
        if not storage or file.tell() + length > size:
            raise Refused(f"the storage {key!r} of {count} numbers, which end beyond the file")
        places[key] = (file.tell(), length)
        file.seek(length, 1)
    return content, places

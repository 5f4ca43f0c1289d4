"""Tensors into safetensors files, one tensor in memory at a time: shards of bounded size, an index, checksums, resume."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mvgrpo_jax.convert.files import atomic, read_json, write_json
from mvgrpo_jax.convert.sources import NAMES, Source, stored

SHARD = 5_000_000_000  # bytes; what safetensors' users expect of a shard
CHECKSUMS = "checksums.sha256"  # as `sha256sum -c` reads it
Item = tuple[str, np.dtype, tuple[int, ...]]


def _header(items: list[Item], metadata: dict[str, str]) -> bytes:
    table: dict[str, Any] = {"__metadata__": metadata}
    offset = 0
    for name, dtype, shape in items:
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        table[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def write_file(
    path: Path,
    items: list[Item],
    arrays: Iterable[np.ndarray],
    metadata: dict[str, str] | None = None,
    progress: Callable[[int], Any] = lambda count: None,
) -> str:
    """Writes one safetensors file atomically, tensor by tensor, and returns its SHA-256. `arrays` in the order of `items`."""
    digest = hashlib.sha256()
    with atomic(path) as part, part.open("wb") as file:

        def put(data) -> None:
            file.write(data)
            digest.update(data)

        put(_header(items, {"format": "pt"} | (metadata or {})))
        for (name, dtype, shape), array in zip(items, arrays, strict=True):
            if array.shape != shape or array.dtype != dtype:
                raise ValueError(f"{name}: announced as {dtype} {shape}, came as {array.dtype} {array.shape}")
            put(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            progress(array.nbytes)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def plan_shards(items: list[Item], limit: int) -> list[list[Item]]:
    """Consecutive tensors, as many a shard as fit in `limit` bytes."""
    shards, size = [[]], 0
    for item in items:
        nbytes = int(np.prod(item[2], dtype=np.int64)) * item[1].itemsize
        if shards[-1] and size + nbytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(item)
        size += nbytes
    return shards


def dtype_written(own: np.dtype, asked: Any = None) -> np.dtype:
    """The dtype in which a tensor is written: the one asked for where it is of floating point, else its own."""
    return own if asked is None or own in (np.int64, np.int32, np.uint8, np.bool_) else np.dtype(asked)


def items_of(source: Source, dtype: Any = None) -> list[Item]:
    """Every tensor of a source; `dtype` replaces that of floating-point ones."""
    return [(name, dtype_written(source.dtype(name), dtype), source.shape(name)) for name in source.names()]


def _checksums(folder: Path) -> dict[str, str]:
    path = folder / CHECKSUMS
    lines = path.read_text().splitlines() if path.exists() else []
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def _record(folder: Path, sums: dict[str, str]) -> None:
    with atomic(folder / CHECKSUMS) as part:
        part.write_text("".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())))


def write_folder(
    source: Source, folder: Path, stem: str, *, dtype: Any = None, limit: int = SHARD, identity: str = "", quiet: bool = False
) -> None:
    """Writes a source as `stem`.safetensors, or as shards with an index when it is over `limit` bytes.

    A shard has its final name and its checksum only when it is complete. When the same `identity` (of the source) is
    written again after an interruption, complete shards are kept. The index comes last: without it shards are no model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    items = items_of(source, dtype)
    shards = plan_shards(items, limit)
    single = len(shards) == 1
    names = (
        [f"{stem}.safetensors"]
        if single
        else [f"{stem}-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    )
    mark = folder / f".{stem}.source.json"
    if not identity or not mark.exists() or read_json(mark).get("identity") != identity:
        (folder / f"{stem}.safetensors.index.json").unlink(missing_ok=True)
        _record(folder, {})
        if identity:
            write_json(mark, {"identity": identity})
    sums = _checksums(folder)
    total = sum(int(np.prod(s, dtype=np.int64)) * d.itemsize for _, d, s in items)
    with tqdm(total=total, unit="B", unit_scale=True, desc=folder.name, disable=quiet) as bar:
        for name, part in zip(names, shards):
            if name in sums and (folder / name).exists() and _matches(folder / name, part):
                bar.update(sum(int(np.prod(s, dtype=np.int64)) * d.itemsize for _, d, s in part))
                continue
            sums[name] = write_file(folder / name, part, _arrays(source, part), progress=bar.update)
            _record(folder, sums)
    if not single:
        table = {n: file for file, part in zip(names, shards) for n, _, _ in part}
        write_json(folder / f"{stem}.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": table})
    for old in set(folder.glob(f"{stem}*.safetensors")) - {folder / name for name in names}:
        old.unlink()
    mark.unlink(missing_ok=True)


def _arrays(source: Source, items: list[Item]) -> Iterator[np.ndarray]:
    for name, dtype, _ in items:
        yield source.read(name).astype(dtype, copy=False)


def _matches(path: Path, items: list[Item]) -> bool:
    return {n: (t.dtype, t.shape) for n, t in stored(path).items()} == {n: (d, s) for n, d, s in items}


def verify(folder: Path) -> list[str]:
    """The files of a folder whose content is not what its checksums say."""
    wrong = []
    for name, digest in _checksums(folder).items():
        path = folder / name
        if not path.exists() or hashlib.file_digest(path.open("rb"), "sha256").hexdigest() != digest:
            wrong.append(name)
    return wrong

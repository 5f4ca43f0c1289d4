"""Tensors into safetensors files, one tensor in memory at a time: shards of bounded size, an index, checksums, resume."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mvgrpo_jax.convert.companions import READ_FIRST, as_json
from mvgrpo_jax.convert.files import atomic, read_json, write_json
from mvgrpo_jax.convert.owned import Owned
from mvgrpo_jax.convert.sources import NAMES, Source, stored

SHARD = 5_000_000_000  # bytes; what safetensors' users expect of a shard
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
    sealed: Callable[[str], Any] = lambda digest: None,
) -> str:
    """Writes one safetensors file atomically, tensor by tensor, and returns its SHA-256. `arrays` in the order of `items`.

    progress(bytes) is called for each tensor; sealed(SHA-256) once, just before the file gets its name."""
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
        sealed(digest.hexdigest())
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


def write_owned(
    owned: Owned, name: str, source: Source, items: list[Item], progress: Callable[[int], Any] = lambda count: None
) -> None:
    """Writes one safetensors file into a folder of ours and lists it there."""
    digest = write_file(
        owned.folder / name, items, _arrays(source, items), progress=progress, sealed=lambda d: owned.expect(name, d)
    )
    owned.wrote(name, digest)


def _size(items: list[Item]) -> int:
    return sum(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize for _, dtype, shape in items)


def _finished(owned: Owned, mark: Path, identity: str, plan: dict[str, list[Item]]) -> list[str]:
    """The shards that an interrupted write of the same source left complete."""
    state = read_json(mark) if identity and mark.exists() else {}
    if state.get("identity") != identity:
        return []
    names = [n for n in state.get("done", []) if n in plan and n in owned.sums and (owned.folder / n).exists()]
    return [n for n in names if _matches(owned.folder / n, plan[n])]


def write_folder(
    source: Source, folder: Path, stem: str, *, dtype: Any = None, limit: int = SHARD, identity: str = "", quiet: bool = False
) -> None:
    """Writes a source as `stem`.safetensors, or as shards with an index when it is over `limit` bytes.

    A shard has its final name and its checksum only when it is complete. When the same `identity` (of the source) is
    written again after an interruption, complete shards are kept. The index comes last: without it shards are no model.
    Files that an earlier write left there are replaced or deleted; other people's stay, and raise UserError, before anything
    is written, where they have a name that is needed or would be read first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards = plan_shards(items_of(source, dtype), limit)
    count, index = len(shards), f"{stem}.safetensors.index.json"
    names = [f"{stem}-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)] if count > 1 else [f"{stem}.safetensors"]
    plan = dict(zip(names, shards))
    owned, mark = Owned(folder), folder / f".{stem}.source.json"
    done = _finished(owned, mark, identity, plan)
    owned.claim([n for n in (*names, *READ_FIRST) if n not in done])
    owned.remove([index])  # shards of two sources would be read as one model
    with tqdm(
        total=_size([i for part in shards for i in part]), unit="B", unit_scale=True, desc=folder.name, disable=quiet
    ) as bar:
        bar.update(sum(_size(plan[name]) for name in done))
        for name in names:
            if name not in done:
                if identity:
                    write_json(mark, {"identity": identity, "done": done})
                write_owned(owned, name, source, plan[name], bar.update)
                done.append(name)
    if count > 1:
        table = {n: name for name, part in plan.items() for n, _, _ in part}
        total = _size([i for part in shards for i in part])
        owned.put(index, as_json({"metadata": {"total_size": total}, "weight_map": table}))
    _clear(owned, stem, names)
    mark.unlink(missing_ok=True)


def _clear(owned: Owned, stem: str, names: list[str]) -> None:
    """Deletes the weights of an earlier write; a warning names other people's, which stay."""
    found = sorted(p.name for p in owned.folder.glob(f"{stem}*.safetensors") if p.name not in names)
    owned.remove([name for name in found if name in owned.sums])
    if others := [name for name in found if (owned.folder / name).exists()]:
        warnings.warn(f"{owned.folder}: {', '.join(others)} beside the weights are not part of them", stacklevel=3)


def _arrays(source: Source, items: list[Item]) -> Iterator[np.ndarray]:
    for name, dtype, _ in items:
        yield source.read(name).astype(dtype, copy=False)


def _matches(path: Path, items: list[Item]) -> bool:
    return {n: (t.dtype, t.shape) for n, t in stored(path).items()} == {n: (d, s) for n, d, s in items}

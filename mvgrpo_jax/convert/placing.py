"""Tensors of a source onto devices. All processes of a run together read each byte once.

A large leaf goes tensor by tensor. The rows that a process needs, which are one range of bytes of the file, are read once and
cut along the columns for its devices; a compiled program, one a shape, turns the parts into our layout and writes them into
their layer of the leaf. One process reads what its devices hold, and nothing travels between them. Several processes would
read what all of them hold several times: there the rows are dealt out over all devices of the mesh instead, and the program
also gathers copies and exchanges what is cut along columns. So each reads its share of the files, however many hold copies,
and between devices, over the network too where copies are on several hosts, goes what each of them keeps: at most twice, once
to gather and once to exchange.
The small leaves, a few per cent of the bytes at most, are read whole by every process: a program for each would cost more.

Threads read ahead of what is placed. Beside the result the host holds READ_AHEAD bytes, again as much while they are cut, and
two tensors.
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from mvgrpo_jax.convert.naming import Entry, from_torch, to_torch
from mvgrpo_jax.convert.sources import Source

READ_AHEAD = 256 * 2**20  # bytes that are read and not yet placed
THREADS = 8
SMALL = 16 * 2**20  # bytes of a leaf that is not worth a program
REPEATED = 0.04  # of all bytes: what all processes together may read more than once

Reads = Iterator[tuple[int, Callable[[], Any]]]  # bytes, and what reads them


def read_ahead(reads: Reads, window: int) -> Iterator[Any]:
    """The results of calls, in order, each given with its size in bytes. Threads make them while those that are made and not
    asked for are `window` bytes together, or a single one that is larger."""
    pool, waiting, held = ThreadPoolExecutor(THREADS), deque(), 0
    try:
        for size, call in reads:
            while waiting and held + size > window:
                yield waiting[0][1].result()
                held -= waiting.popleft()[0]
            waiting.append((size, pool.submit(call)))
            held += size
        while waiting:
            yield waiting.popleft()[1].result()
    finally:
        pool.shutdown(cancel_futures=True)


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One parameter: its tensors in a source, in the order of their layers, its dtype, and where it goes (None: the default
    device)."""

    source: Source
    entries: tuple[Entry, ...]
    dtype: np.dtype
    where: NamedSharding | None

    @classmethod
    def of(cls, source: Source, entries: Iterable[Entry], dtype, where: NamedSharding | None) -> Leaf:
        """dtype None: the source's."""
        group = tuple(sorted(entries, key=lambda e: e.layer or 0))
        return cls(source, group, jnp.result_type(*[dtype or source.dtype(e.name) for e in group]), where)

    @property
    def name(self) -> str:
        return self.entries[0].path[-1]

    @property
    def layered(self) -> bool:
        return self.entries[0].layer is not None

    @property
    def nbytes(self) -> int:
        """Bytes in the source."""
        return sum(math.prod(e.shape) * self.source.dtype(e.name).itemsize for e in self.entries)

    def read(self, entry: Entry, start: int = 0, stop: int | None = None) -> np.ndarray:
        return self.source.read(entry.name, start, stop).astype(self.dtype, copy=False)


class Whole:
    """A leaf that every process reads whole and cuts for its devices."""

    def __init__(self, leaf: Leaf):
        self.leaf = leaf

    def reads(self) -> Reads:
        yield math.prod(self.leaf.entries[0].shape) * len(self.leaf.entries) * self.leaf.dtype.itemsize, self._read

    def _read(self) -> np.ndarray:
        layers = [from_torch(self.leaf.read(entry), self.leaf.name) for entry in self.leaf.entries]
        return np.stack(layers) if self.leaf.layered else layers[0]

    def place(self, parts: Iterator[np.ndarray]) -> jax.Array:
        array, where = next(parts), self.leaf.where
        return jnp.asarray(array) if where is None else jax.make_array_from_callback(array.shape, where, lambda i: array[i])


class Cut:
    """A leaf of which each device gets its part of each tensor. Every process places the same leaves in the same order."""

    def __init__(self, leaf: Leaf, processes: int):
        self.leaf, self.shape, self.near = leaf, leaf.entries[0].shape, None
        self.cut: NamedSharding | None = None
        platform = jax.default_backend() if leaf.where is None else leaf.where.mesh.devices.flat[0].platform
        # XLA's CPU backend has no bfloat16 update of a slice: it would turn the whole stack to float32 and back for each layer.
        slow = leaf.layered and (platform, leaf.dtype) == ("cpu", jnp.bfloat16)
        self.word = np.dtype(np.uint16) if slow else leaf.dtype
        places: dict = {None: (slice(None),)}
        if leaf.where is not None:
            mesh, spec = leaf.where.mesh, _file_spec(leaf)
            if processes > 1:
                # From major to minor: a device gathers copies from neighbours, and keeps the rows that are its own.
                used = [axis for axes in spec for axis in ((axes,) if isinstance(axes, str) else axes or ())]
                self.near = NamedSharding(mesh, PartitionSpec(tuple(used)))
                spec = PartitionSpec((*used, *(axis for axis in mesh.axis_names if axis not in used)))
                self.shape = (-(-self.shape[0] // mesh.size) * mesh.size, *self.shape[1:])  # beyond the last row: zeros
            self.cut = NamedSharding(mesh, spec)
            places = self.cut.addressable_devices_indices_map(self.shape)
        # (first row, end) -> the devices that hold some of these rows, and which part of them
        self.ranges: dict[tuple[int, int], dict] = {}
        for device, (rows, *rest) in places.items():
            span = rows.indices(self.shape[0])[:2]
            self.ranges.setdefault(span, {})[device] = tuple((s.start, s.stop) for s in rest)

    def reads(self) -> Reads:
        row = math.prod(self.shape[1:]) * self.leaf.dtype.itemsize
        for entry in self.leaf.entries:
            for (start, stop), holders in self.ranges.items():
                yield (stop - start) * row, partial(self._read, entry, start, stop, set(holders.values()))

    def _read(self, entry: Entry, start: int, stop: int, parts: set) -> dict[tuple, np.ndarray]:
        end = min(stop, entry.shape[0])
        found = self.leaf.read(entry, start, end) if start < end else np.zeros((0, *entry.shape[1:]), self.leaf.dtype)
        if missing := stop - start - len(found):
            found = np.pad(found, [(0, missing), *[(0, 0)] * (found.ndim - 1)])
        found = found.view(self.word)
        return {part: np.ascontiguousarray(found[:, *(slice(*s) for s in part)]) for part in parts}

    def _tensor(self, parts: Iterator) -> jax.Array:
        arrays = []
        for holders in self.ranges.values():
            found = next(parts)
            arrays += [jax.device_put(found[part], device) for device, part in holders.items()]
        return jax.make_array_from_single_device_arrays(self.shape, self.cut, arrays) if self.cut else arrays[0]

    def place(self, parts: Iterator) -> jax.Array:
        leaf = self.leaf
        key = (leaf.name, leaf.entries[0].shape[0], leaf.where, self.near)
        if not leaf.layered:
            array = _turn(*key)(self._tensor(parts))
        else:
            shape = from_torch(np.broadcast_to(np.int8(0), leaf.entries[0].shape), leaf.name).shape
            array = _room((len(leaf.entries), *shape), self.word, leaf.where)()
            for layer in range(len(leaf.entries)):
                tensor = self._tensor(parts)
                # One layer moves while the next is read: more would wait in the host's memory beside the window.
                array = _write(*key)(jax.block_until_ready(array), tensor, layer)
                del tensor
        return jax.block_until_ready(array if self.word == leaf.dtype else _meant(array, leaf.dtype, leaf.where))


def _file_spec(leaf: Leaf) -> PartitionSpec:
    """How the file's axes of one tensor are cut over the mesh."""
    count = len(leaf.entries[0].shape)
    spec = [*leaf.where.spec, *[None] * (count + leaf.layered - len(leaf.where.spec))][leaf.layered :]
    order = to_torch(np.empty(range(count)), leaf.name).shape  # the axes, told by their sizes
    return PartitionSpec(*(spec[axis] for axis in order))


def _turned(tensor: jax.Array, name: str, rows: int, near: NamedSharding | None) -> jax.Array:
    """A tensor in our layout. Copies are gathered first: in one step the partitioner would send every device the whole."""
    tensor = tensor if near is None else jax.lax.with_sharding_constraint(tensor, near)
    return from_torch(tensor[:rows], name)


@lru_cache
def _room(shape: tuple[int, ...], dtype: np.dtype, where: NamedSharding | None) -> Callable[[], jax.Array]:
    return jax.jit(lambda: jnp.zeros(shape, dtype), out_shardings=where)


@lru_cache
def _turn(name: str, rows: int, where: NamedSharding | None, near: NamedSharding | None) -> Callable[[jax.Array], jax.Array]:
    """A tensor -> the leaf."""
    return jax.jit(partial(_turned, name=name, rows=rows, near=near), out_shardings=where)


@lru_cache
def _write(name: str, rows: int, where: NamedSharding | None, near: NamedSharding | None) -> Callable[..., jax.Array]:
    """A stack, a tensor, its layer -> the stack with it."""

    def write(stack, tensor, layer):
        return jax.lax.dynamic_update_index_in_dim(stack, _turned(tensor, name, rows, near), layer, 0)

    return jax.jit(write, donate_argnums=0, out_shardings=where)


def _meant(words: jax.Array, dtype: np.dtype, where: NamedSharding | None) -> jax.Array:
    """The numbers of the same bits, in the same memory: on a CPU numpy and jax look at one buffer."""
    parts = [jax.device_put(np.asarray(part.data).view(dtype), where and part.device) for part in words.addressable_shards]
    return parts[0] if where is None else jax.make_array_from_single_device_arrays(words.shape, where, parts)


def repeated(sizes: list[int], processes: int) -> set[int]:
    """Which leaves every process reads whole, by their sizes in bytes: the smallest, none over SMALL, and so few that all
    processes together read at most REPEATED of all bytes more than once."""
    left = REPEATED * sum(sizes) / (processes - 1) if processes > 1 else math.inf
    out = set()
    for i in sorted(range(len(sizes)), key=sizes.__getitem__):
        left -= sizes[i]
        if sizes[i] > SMALL or left < 0:
            break
        out.add(i)
    return out


def place(leaves: list[Leaf]) -> Iterator[jax.Array]:
    """The leaves on their devices, in order, finished."""
    processes = jax.process_count()
    small = repeated([leaf.nbytes for leaf in leaves], processes)
    # A number has no rows to cut.
    plans = [Whole(leaf) if i in small or not leaf.entries[0].shape else Cut(leaf, processes) for i, leaf in enumerate(leaves)]
    parts = read_ahead((read for plan in plans for read in plan.reads()), READ_AHEAD)
    try:
        for plan in plans:
            yield plan.place(parts)
    finally:
        parts.close()

"""Tensors of a source onto devices. All processes of a run together read each byte once.

A large leaf: the rows of each of its tensors, which are one range of bytes of the file, are dealt out over all devices of the
mesh, and a process reads those of its own devices. A compiled program, one a shape, then gathers copies, exchanges what another
axis than the rows is cut along, turns the rest into our layout and writes it into its layer of the leaf. So a host reads its
share of the files, however many devices hold copies, and between devices, over the network too where copies are on several
hosts, goes what each of them keeps: at most twice, once to gather and once to exchange.
The small leaves, a few per cent of the bytes at most, are read whole by every process: a program for each would cost more.

Threads read ahead of what is placed, so that the host holds READ_AHEAD bytes and two tensors beside the result.
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from mvgrpo_jax.convert.naming import Entry, from_torch
from mvgrpo_jax.convert.sources import Source

READ_AHEAD = 256 * 2**20  # bytes that are read and not yet placed
THREADS = 8
SMALL = 16 * 2**20  # bytes of a leaf that is not worth a program
REPEATED = 0.04  # of all bytes: what all processes together may read more than once

Reads = Iterator[tuple[int, Callable[[], np.ndarray]]]


def read_ahead(reads: Reads, window: int) -> Iterator[np.ndarray]:
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

    def bytes_of(self, rows: int) -> int:
        """Bytes of so many rows of one tensor, as they are placed."""
        return rows * math.prod(self.entries[0].shape[1:]) * self.dtype.itemsize

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


class Dealt:
    """A leaf whose rows are dealt out over the devices. Every process places the same leaves in the same order."""

    def __init__(self, leaf: Leaf):
        self.leaf = leaf
        self.rows, *rest = leaf.entries[0].shape
        if leaf.where is None:
            self.each, self.shape, self.dealt, self.starts = self.rows, leaf.entries[0].shape, None, {None: 0}
            return
        mesh = leaf.where.mesh
        self.each = -(-self.rows // mesh.size)  # rows of a device; beyond the last row there are zeros
        self.shape = (self.each * mesh.size, *rest)
        self.dealt = NamedSharding(mesh, PartitionSpec(sum(_order(leaf.name, leaf.where), ())))
        places = self.dealt.addressable_devices_indices_map(self.shape)
        self.starts = {device: index[0].start or 0 for device, index in places.items()}

    def reads(self) -> Reads:
        for entry in self.leaf.entries:
            for start in self.starts.values():
                yield self.leaf.bytes_of(self.each), partial(self._read, entry, start)

    def _read(self, entry: Entry, start: int) -> np.ndarray:
        stop = min(start + self.each, self.rows)
        found = self.leaf.read(entry, start, stop) if start < stop else np.zeros((0, *self.shape[1:]), self.leaf.dtype)
        missing = self.each - len(found)
        return np.pad(found, [(0, missing), *[(0, 0)] * (found.ndim - 1)]) if missing else found

    def _tensor(self, parts: Iterator[np.ndarray]) -> jax.Array:
        arrays = [jax.device_put(next(parts), device) for device in self.starts]
        return jax.make_array_from_single_device_arrays(self.shape, self.dealt, arrays) if self.dealt else arrays[0]

    def place(self, parts: Iterator[np.ndarray]) -> jax.Array:
        leaf = self.leaf
        if not leaf.layered:
            return jax.block_until_ready(_turn(leaf.name, self.rows, leaf.where)(self._tensor(parts)))
        shape = from_torch(np.broadcast_to(np.int8(0), leaf.entries[0].shape), leaf.name).shape
        stack = _room((len(leaf.entries), *shape), leaf.dtype, leaf.where)()
        for layer in range(len(leaf.entries)):
            tensor = self._tensor(parts)
            # One layer moves while the next is read: more would wait in the host's memory beside the window.
            stack = _write(leaf.name, self.rows, leaf.where)(jax.block_until_ready(stack), tensor, layer)
            del tensor
        return jax.block_until_ready(stack)


def _order(name: str, where: NamedSharding) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The mesh axes over which rows are dealt out, (those that cut the leaf, those that copy it). This order, from major to
    minor, gives a device neighbouring rows when copies are gathered, and leaves those that it keeps where they are."""
    used = [axes if isinstance(axes, tuple) else (axes,) for axes in where.spec if axes is not None]
    cut = [axis for axes in (reversed(used) if name == "kernel" else used) for axis in axes]
    return tuple(cut), tuple(axis for axis in where.mesh.axis_names if axis not in cut)


def _turned(tensor: jax.Array, name: str, rows: int, where: NamedSharding | None) -> jax.Array:
    """Dealt rows in our layout. Copies are gathered first: in one step the partitioner would send every device the whole."""
    if where is not None:
        tensor = jax.lax.with_sharding_constraint(tensor, NamedSharding(where.mesh, PartitionSpec(_order(name, where)[0])))
    return from_torch(tensor[:rows], name)


@lru_cache
def _room(shape: tuple[int, ...], dtype: np.dtype, where: NamedSharding | None) -> Callable[[], jax.Array]:
    return jax.jit(lambda: jnp.zeros(shape, dtype), out_shardings=where)


@lru_cache
def _turn(name: str, rows: int, where: NamedSharding | None) -> Callable[[jax.Array], jax.Array]:
    """Dealt rows -> the leaf."""
    return jax.jit(partial(_turned, name=name, rows=rows, where=where), out_shardings=where)


@lru_cache
def _write(name: str, rows: int, where: NamedSharding | None) -> Callable[[jax.Array, jax.Array, int], jax.Array]:
    """A stack, dealt rows, their layer -> the stack with them in it."""

    def write(stack, tensor, layer):
        return jax.lax.dynamic_update_index_in_dim(stack, _turned(tensor, name, rows, where), layer, 0)

    return jax.jit(write, donate_argnums=0, out_shardings=where)


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
    small = repeated([leaf.nbytes for leaf in leaves], jax.process_count())
    # A number has no rows to deal out.
    plans = [Whole(leaf) if i in small or not leaf.entries[0].shape else Dealt(leaf) for i, leaf in enumerate(leaves)]
    parts = read_ahead((read for plan in plans for read in plan.reads()), READ_AHEAD)
    try:
        for plan in plans:
            yield plan.place(parts)
    finally:
        parts.close()

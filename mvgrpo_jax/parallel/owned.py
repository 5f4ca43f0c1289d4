"""Items that stay on the devices that made them: which process owns each, and its own ones on its host."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from mvgrpo_jax.parallel import hosts


class Owned:
    """items: [A, m, ...], of which the first n of each row count; the rest is padding. No two processes own the same item.

    No collective carries the items: a process reads the shards that it addresses.
    """

    def __init__(self, items: jax.Array, count: int):
        self.items, self.count = items, count
        items.copy_to_host_async()

    @property
    def shape(self) -> tuple[int, int]:
        """(A, n)."""
        return self.items.shape[0], self.count

    @cached_property
    def owner(self) -> np.ndarray:
        """int [A, n]: the process that owns each item, the same numbers on every process."""
        out = np.full(self.items.shape[:2], -1)
        places = self.items.sharding.devices_indices_map(self.items.shape)
        for device in sorted(places, key=lambda d: d.id, reverse=True):  # the lowest of those that hold a copy
            out[places[device][:2]] = device.process_index
        return out[:, : self.count]

    @cached_property
    def mine(self) -> dict[tuple[int, int], np.ndarray]:
        """{(row, column): item [...]} of this process, as soon as its devices have them."""
        out = {}
        for shard in sorted(self.items.addressable_shards, key=lambda s: s.device.id):
            rows, columns = (range(*i.indices(n)) for i, n in zip(shard.index[:2], self.items.shape[:2]))
            if (rows[0], columns[0]) in out or columns[0] >= self.count:
                continue
            data = np.asarray(shard.data)
            for r, row in enumerate(rows):
                out |= {(row, column): data[r, c] for c, column in enumerate(columns) if column < self.count}
        me = jax.process_index()
        return {place: item for place, item in out.items() if self.owner[place] == me}

    def release(self) -> None:
        """Frees the devices' memory; what belongs to this process stays on its host."""
        self.owner, self.mine  # noqa: B018 - read while the items are there
        self.items.delete()

    def merged(self, values: np.ndarray) -> np.ndarray:
        """[A, n, ...] in which each process filled in what belongs to its own items, filled in from all of them; every process
        calls this together. Only these numbers travel."""
        return hosts.merge(values, self.owner)


def from_hosts(lead: tuple[int, ...], sharding: NamedSharding, make: Callable[[tuple[slice, ...]], Any]) -> Any:
    """A tree of global arrays [*lead, ...] whose leading dimensions are split by a sharding. make(index) -> a tree of host
    arrays for one part of the leading dimensions; each process makes the parts that its devices hold, each part once."""
    made: dict[tuple, Any] = {}
    shards: dict[int, list[jax.Array]] = {}
    for device, index in sharding.addressable_devices_indices_map(lead).items():
        key = tuple(i.indices(n) for i, n in zip(index, lead))
        if key not in made:
            made[key] = make(index)
        for number, part in enumerate(jax.tree.leaves(made[key])):
            shards.setdefault(number, []).append(jax.device_put(part, device))
    arrays = [
        jax.make_array_from_single_device_arrays((*lead, *parts[0].shape[len(lead) :]), sharding, parts)
        for parts in shards.values()
    ]
    return jax.tree.unflatten(jax.tree.structure(next(iter(made.values()))), arrays)

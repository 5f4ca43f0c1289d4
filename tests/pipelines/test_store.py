"""The store of encoded texts: what a put costs, and what it throws out."""

from collections import OrderedDict

import numpy as np

from mvgrpo_jax.pipelines import store as module
from mvgrpo_jax.pipelines.store import Store

TEXT = (np.zeros((2, 4), np.float32), np.zeros(2, np.float32))
BYTES = 2 * 4 * 4 + 2 * 4


class Counted(OrderedDict):
    """Counts each entry that a walk over the dict looks at, and each single access."""

    touched = 0

    def __iter__(self):
        for key in super().__iter__():
            Counted.touched += 1
            yield key

    def values(self):
        return (self[key] for key in self)

    def items(self):
        return ((key, self[key]) for key in self)

    def __getitem__(self, key):
        Counted.touched += 1
        return super().__getitem__(key)

    def __setitem__(self, key, value):
        Counted.touched += 1
        super().__setitem__(key, value)

    def popitem(self, last=True):
        Counted.touched += 1
        key = next(reversed(self)) if last else next(super().__iter__())
        return key, self.pop(key)


def test_a_put_costs_the_same_however_many_texts_are_stored(tmp_path, monkeypatch):
    """Entries touched by 50 puts among 100 and among 10,000 texts, with room and when every put throws one out."""
    monkeypatch.setattr(module, "write_file", lambda path, items, arrays: path.write_bytes(bytes(100)))

    def cost(stored: int, room: int) -> int:
        store = Store("id", memory=BYTES * stored, folder=tmp_path, disk=100 * (stored + room))
        names = [f"{i}" for i in range(stored)]
        store.files, store.held = Counted({tmp_path / n: 100 for n in names}), Counted({n: TEXT for n in names})
        store.disk_size, store.size = 100 * stored, BYTES * stored
        Counted.touched = 0
        for i in range(50):
            store.put(f"new {stored} {room} {i}", TEXT)
        touched = Counted.touched
        assert store.disk_size == sum(store.files.values()) == 100 * (stored + min(room, 50))
        return touched

    for room in (0, 1000):
        few = cost(100, room)
        assert cost(10_000, room) == few > 0


def test_the_total_follows_what_is_on_disk(tmp_path):
    """Files of an earlier store count; one text that is larger than the bound throws nothing out."""
    first = Store("id", 0, tmp_path, disk=10**6)
    for text in "abc":
        first.put(text, TEXT)
    size = next(tmp_path.glob("*.safetensors")).stat().st_size
    assert first.disk_size == 3 * size
    again = Store("id", 0, tmp_path, disk=3 * size)
    assert again.disk_size == 3 * size
    again.put("huge", (np.zeros((4 * size, 4), np.float32), TEXT[1]))
    assert again.get("huge") is None and all(again.get(t) is not None for t in "abc")
    again.put("d", TEXT)
    assert again.disk_size == 3 * size == sum(p.stat().st_size for p in tmp_path.glob("*.safetensors"))

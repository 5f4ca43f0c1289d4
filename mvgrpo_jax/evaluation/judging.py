"""Judges on the pictures of an evaluation, one judge after another, so that one judge's weights are in memory at a time.

Each process asks about its own share, with its own devices; nothing travels between processes.
"""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from mvgrpo_jax import rewards
from mvgrpo_jax.evaluation.job import share
from mvgrpo_jax.evaluation.ledger import Ledger
from mvgrpo_jax.evaluation.side import Side, bar_options
from mvgrpo_jax.evaluation.weights import local_mesh
from mvgrpo_jax.parallel import rules, spread
from mvgrpo_jax.parallel.owned import Owned
from mvgrpo_jax.rewards.base import Judge
from mvgrpo_jax.rewards.panel import Panel

AHEAD = 2  # batches that a judge has been asked about and not answered
VECTORS = "vectors of {}"  # the ledger of a judge's embeddings
# Pictures uint8 [n, H, W, 3] and their texts -> what waits for a value of each, None where there is none.
Ask = Callable[[np.ndarray, list[str]], Callable[[], list[Any]]]


def ledger(side: Side, name: str) -> Ledger:
    """Of a judge's scores."""
    return Ledger(side.folder, f"judge {name}")


def judge(name: str, settings: dict[str, Any], sides: list[Side], batch: int, vectors: bool) -> int:
    """Scores what this process owns of all sides and has no score yet; returns how many captions the judge had to cut. Pictures
    that are not finite get none. vectors: keep the judge's embeddings of pictures, too. UserError as the judge's."""
    wanted = [(side, ledger(side, name)) for side in sides if side.own]
    further = [(side, Ledger(side.folder, VECTORS.format(name))) for side in sides if side.own] if vectors else []
    if not any(_missing(side, book) for side, book in wanted + further):
        return 0
    made = rewards.make(name, settings)
    rewards.tell({name: made}, sides[0].job.prompts.records)
    batch = min(batch, max(len(_missing(side, book)) for side, book in wanted + further))
    asker: OnDevices | OnHost = OnDevices(name, made, batch) if hasattr(made, "tokens") else OnHost(made, batch)
    try:
        for side, book in wanted:
            _fill(side, book, asker.size, asker.scores, f"{name} of {side.name}")
        for side, book in further:
            _fill(side, book, asker.size, asker.vectors, f"vectors of {side.name}")
    finally:
        asker.close()
    return made.take_cut()


def _missing(side: Side, book: Ledger) -> list:
    """Items of this process that a ledger has nothing of."""
    known, looks = book.read(), side.looks.read()
    return [item for item in share(side.items) if known.get(item.key) is None and looks[item.key]["finite"]]


def _fill(side: Side, book: Ledger, size: int, ask: Ask, title: str) -> None:
    """Writes a line for each item that has none, as the answers come."""
    book.mend()
    missing, mine, waiting = _missing(side, book), len(share(side.items)), deque()

    def take(bar) -> None:
        items, answer = waiting.popleft()
        book.add(dict(zip((item.key for item in items), answer(), strict=True)))
        bar.update(len(items))

    with tqdm(total=mine, initial=mine - len(missing), desc=title, **bar_options()) as bar:
        for items, images in side.batches(missing, size):
            waiting.append((items, ask(images, [item.text for item in items])))
            if len(waiting) > AHEAD:
                take(bar)
        while waiting:
            take(bar)


class OnDevices:
    """A judge on this process's devices, asked about `size` pictures at a time; a smaller batch is filled up, so that one
    program is compiled."""

    def __init__(self, name: str, judge, batch: int, mesh: Mesh | None = None):
        dtype = jax.tree.leaves(judge.network.shapes)[0].dtype
        self.mesh = mesh or local_mesh([judge.network], dtype)
        self.name, self.judge = name, judge
        self.size = spread.padded(batch, rules.parts("prompts", self.mesh))
        with jax.set_mesh(self.mesh):
            self.panel = Panel({name: judge}, self.mesh)
        self._embed = jax.jit(judge.embed_images) if hasattr(judge, "embed_images") else None

    def scores(self, images: np.ndarray, texts: list[str]) -> Callable[[], list[float | None]]:
        pictures, count = self._placed(images), len(texts)
        filled = [*texts, *texts[-1:] * (self.size - count)]
        with jax.set_mesh(self.mesh):
            answer = self.panel.begin(self.name, Owned(pictures, 1), [filled])
        return lambda: [_number(score) for score in answer()[0, :count, 0]]

    def vectors(self, images: np.ndarray, texts: list[str]) -> Callable[[], list[str]]:
        """Embeddings as `packed` writes them."""
        with jax.set_mesh(self.mesh):
            found = self._embed(self.panel.params[self.name], self._placed(images))
        return lambda: [packed(vector) for vector in np.asarray(found)[: len(texts), 0]]

    def _placed(self, images: np.ndarray) -> jax.Array:
        rows = np.minimum(np.arange(self.size), len(images) - 1)
        return jax.device_put(images[rows][:, None], rules.sharding(self.mesh, "prompts"))

    def close(self) -> None:
        self.panel.close()


class OnHost:
    """A judge on the host, or behind a service, which is asked about further pictures while it answers."""

    def __init__(self, judge: Judge, batch: int):
        self.judge, self.size = judge, batch

    def scores(self, images: np.ndarray, texts: list[str]) -> Callable[[], list[float | None]]:
        question = images, [[text] for text in texts]
        begin = getattr(self.judge, "begin", None)
        answer = begin(*question).result if begin else lambda: self.judge.score(*question)

        def values() -> list[float | None]:
            scores, valid = answer()
            scores = np.where(True if valid is None else valid, scores, np.nan)
            return [_number(score) for score in scores.reshape(len(texts))]

        return values

    def vectors(self, images: np.ndarray, texts: list[str]) -> Callable[[], list[str]]:
        raise TypeError("a judge on the host has no vectors")

    def close(self) -> None:
        if hasattr(self.judge, "close"):
            self.judge.close()


def _number(score: float) -> float | None:
    return float(score) if np.isfinite(score) else None


def packed(vector: np.ndarray) -> str:
    """A unit vector of the direction, in half precision, as text."""
    unit = np.asarray(vector, np.float32) / np.linalg.norm(vector)
    return base64.b64encode(unit.astype(np.float16).tobytes()).decode()


def unpacked(text: str) -> np.ndarray:
    """float32 [d] of what `packed` wrote."""
    return np.frombuffer(base64.b64decode(text), np.float16).astype(np.float32)

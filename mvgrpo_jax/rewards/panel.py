"""A panel of judges: pictures stay where they are, texts go to them, and every process gets all scores."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mvgrpo_jax.parallel import rules
from mvgrpo_jax.parallel.owned import Owned, from_hosts
from mvgrpo_jax.rewards.base import Judge, Judgement

# Texts of a batch of pictures [P, n]: of each row under each view; None where one is missing.
Texts = list[list[str | None]]


class Panel:
    """Judges by name. The parameters of those that run on the devices are read onto the mesh, or without one onto the default
    device.

    program(name): the compiled (params, pictures [P, n, H, W, 3], tokens of [V, P] texts) -> Judgement [V, P, n] of a judge on
    the devices.
    """

    def __init__(self, judges: dict[str, Judge], mesh: Mesh | None = None):
        self.judges, self.mesh, self.params = judges, mesh, {}
        for name in on_devices(judges):
            self.params[name] = judges[name].load(rules.placements(judges[name].network, mesh) if mesh else None)

    @functools.cache  # noqa: B019 - a panel lives as long as its run
    def program(self, name: str):
        return jax.jit(self.judges[name].score, out_shardings=rules.sharding(self.mesh) if self.mesh else None)

    def score(self, name: str, pictures: Owned, texts: Texts) -> Judgement:
        """A judge's scores float32 [V, P, n] of pictures [P, n] under texts [V][P], and which of them are valid; the same numpy
        arrays on every process, which all call this together. A missing text scores 0."""
        judge = self.judges[name]
        there = np.asarray([[t is not None for t in view] for view in texts])
        if name in self.params:
            result = self.program(name)(self.params[name], pictures.items, self._tokens(judge, texts))
            scores, valid = (None if a is None else np.asarray(a)[..., : pictures.count] for a in result)
        else:
            scores, valid = _on_hosts(judge, pictures, texts)
        valid = np.ones(scores.shape, bool) if valid is None else valid
        return Judgement(np.where(there[..., None], scores, 0.0).astype(np.float32), valid & there[..., None])

    def _tokens(self, judge, texts: Texts) -> Any:
        """Tokens [V, P, ...] of all texts, split like the prompts that they belong to."""
        shape = (len(texts), len(texts[0]))
        flat = [t or "" for view in texts for t in view]
        rows = jax.tree.map(lambda a: np.reshape(a, (*shape, *a.shape[1:])), judge.tokens(flat))
        if self.mesh is None:
            return rows
        return from_hosts(shape, rules.sharding(self.mesh, None, "prompts"), lambda i: jax.tree.map(lambda a: a[i], rows))


def on_devices(judges: dict[str, Judge]) -> list[str]:
    """The names of the judges that run on the mesh."""
    return [name for name, judge in judges.items() if hasattr(judge, "tokens")]


def _on_hosts(judge, pictures: Owned, texts: Texts) -> Judgement:
    """Each process asks about its own pictures; the scores are exchanged."""
    mine = pictures.mine
    scores = np.zeros((*pictures.shape, len(texts)), np.float32)
    valid = np.ones(scores.shape, bool)
    if mine:
        places = tuple(np.asarray(list(mine)).T)
        result = judge.score(np.stack(list(mine.values())), [[view[p] for view in texts] for p, _ in mine])
        scores[places] = result.scores
        valid[places] = True if result.valid is None else result.valid
    scores, valid = (np.moveaxis(pictures.merged(a), -1, 0) for a in (scores, valid))
    return Judgement(scores, valid)

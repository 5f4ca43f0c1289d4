"""A panel of judges: pictures stay where they are, texts go to them, and every process gets all scores."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.parallel import rules
from mvgrpo_jax.parallel.hosts import exchange
from mvgrpo_jax.parallel.owned import Owned, from_hosts
from mvgrpo_jax.parallel.program import Program
from mvgrpo_jax.rewards.base import Judge, Judgement

# Texts of a batch of pictures [P, n]: of each row under each view; None where one is missing.
Texts = list[list[str | None]]
# Scores float32 [V, P, n], the same on every process; not-a-number where there is none: a text is missing, or the judge could
# not tell.
Scores = np.ndarray


class Panel:
    """Judges by name. The parameters of those that run on the devices are read onto the mesh, or without one onto the default
    device; of those named in `offload` they are kept in the host's memory, and on the devices from a judge's first question
    until `rest`.

    program(name): the compiled (params, pictures [P, n, H, W, 3], tokens of [V, P] texts) -> Judgement [V, P, n] of a judge on
    the devices.
    """

    def __init__(self, judges: dict[str, Judge], mesh: Mesh | None = None, offload: frozenset[str] = frozenset()):
        self.judges, self.mesh, self.params = judges, mesh, {}
        self.away: dict[str, Any] = {}  # parameters in the host's memory
        self._seconds = dict.fromkeys(judges, 0.0)
        self._thread = ThreadPoolExecutor(1, "judges")
        for name in on_devices(judges):
            self.params[name] = judges[name].load(rules.placements(judges[name].network, mesh) if mesh else None)
            if name in offload:
                self.away[name] = jax.tree.map(_on_host, self.params[name])
        self.rest()

    @functools.cache  # noqa: B019 - a panel lives as long as its run
    def program(self, name: str):
        shardings = rules.sharding(self.mesh) if self.mesh else None
        return Program(f"judge {name}", self.judges[name].score, "judge", out_shardings=shardings)

    def score(self, name: str, pictures: Owned, texts: Texts) -> Scores:
        """A judge's scores of pictures [P, n] under texts [V][P]; every process calls this together."""
        return self.begin(name, pictures, texts)()

    def begin(self, name: str, pictures: Owned, texts: Texts) -> Callable[[], Scores]:
        """Asks a judge and returns at once; what is returned waits for the scores. Every process calls both together.
        UserError: the judge gave another number of scores than it was asked for."""
        judge, began = self.judges[name], time.perf_counter()
        there = np.asarray([[t is not None for t in view] for view in texts])[..., None]
        fetch = (self._on_devices if name in self.params else self._on_hosts)(name, judge, pictures, texts)

        def result() -> Scores:
            scores, valid = fetch()
            self._seconds[name] = max(self._seconds[name], time.perf_counter() - began)
            valid = there if valid is None else there & valid
            return np.where(valid & np.isfinite(scores), scores, np.nan).astype(np.float32)

        return result

    def rest(self) -> None:
        """The judges will not be asked for a while: what is offloaded leaves the devices."""
        for name in self.away:
            self.params[name] = None

    def take_seconds(self) -> dict[str, float]:
        """Of each judge the longest wait from a question to its scores since the last call."""
        out, self._seconds = self._seconds, dict.fromkeys(self.judges, 0.0)
        return out

    def take_log(self) -> dict[str, dict[str, float]]:
        """Of each judge elsewhere what it counted since the last call, of all processes, which call this together: of seconds
        the longest, of grades their mean, of the rest the sum."""
        mine = {name: judge.take_log() for name, judge in self.judges.items() if hasattr(judge, "take_log")}
        if not mine:
            return {}
        values: dict[str, dict[str, list[float]]] = {name: {} for name in mine}
        for process in exchange(json.dumps(mine)):
            for name, log in json.loads(process).items():
                for key, value in log.items():
                    values[name].setdefault(key, []).append(value)
        return {name: {key: _merged(key, all_of_them) for key, all_of_them in log.items()} for name, log in values.items()}

    def close(self) -> None:
        """Ends the thread, and what judges hold open."""
        self._thread.shutdown(cancel_futures=True)
        for judge in self.judges.values():
            if hasattr(judge, "close"):
                judge.close()

    def _on_devices(self, name: str, judge, pictures: Owned, texts: Texts) -> Callable[[], Judgement]:
        if self.params[name] is None:
            self.params[name] = jax.tree.map(lambda a: jax.device_put(a, _like(a, "device")), self.away[name])
        result = self.program(name)(self.params[name], pictures.items, self._tokens(judge, texts))
        return lambda: Judgement(*(None if a is None else np.asarray(a)[..., : pictures.count] for a in result))

    def _on_hosts(self, name: str, judge, pictures: Owned, texts: Texts) -> Callable[[], Judgement]:
        """Each process asks about its own pictures; the scores are exchanged."""
        mine, wait = pictures.mine, None
        if mine:
            question = np.stack(list(mine.values())), [[view[p] for view in texts] for p, _ in mine]
            ask = getattr(judge, "begin", None)
            wait = ask(*question).result if ask else self._thread.submit(judge.score, *question).result

        def fetch() -> Judgement:
            scores = np.zeros((*pictures.shape, len(texts)), np.float32)
            valid = np.ones(scores.shape, bool)
            if mine:
                places, result = tuple(np.asarray(list(mine)).T), wait()
                expected, found = (len(mine), len(texts)), np.shape(result.scores)
                if found != expected:
                    raise UserError(
                        f"the judge {name!r} was asked for {expected[0]} x {expected[1]} scores (pictures x captions), it gave "
                        f"{' x '.join(map(str, found)) or 'one'}"
                    )
                scores[places] = result.scores
                valid[places] = True if result.valid is None else result.valid
            return Judgement(*(np.moveaxis(pictures.merged(a), -1, 0) for a in (scores, valid)))

        return fetch

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


def _merged(key: str, values: list[float]) -> float:
    counts = key in ("asked", "missing", "retries", "hedges") or key.startswith("missing/")
    return sum(values) if counts else max(values) if key.endswith("_s") else sum(values) / len(values)


def _like(array: jax.Array, kind: str):
    return array.sharding.with_memory_kind(kind)


def _on_host(array: jax.Array) -> jax.Array:
    return jax.device_put(array, _like(array, "pinned_host"))

"""The fastest setting that fits: `plan --fastest`.

What a setting costs is what its compiled programs cost (compilation.py). Rematerialisation repeats work, small microbatches
gather weights more often, a mesh decides what is sent; none of them changes a result. They are tried from the one that computes
and sends least: for each mesh the policies from none to full, and for each policy the largest microbatch that fits, which is
searched by halving. A mesh can gain no more than the exposed communication of the one before it, and is not tried where
that is next to nothing.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from mvgrpo_jax import algorithms
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.planning import compilation, table
from mvgrpo_jax.planning.abstract import AbstractRun
from mvgrpo_jax.planning.compilation import Cost
from mvgrpo_jax.planning.hardware import GIB, Chip

Changes = dict[str, Any]
REMAT = ("none", "dots", "full")  # from what repeats nothing to what repeats most
CHUNKS = ("train.view_chunk", "train.prompt_chunk", "train.state_chunk")
WORTH = 0.02  # share of an iteration that another mesh must be able to gain


class Tried(NamedTuple):
    """A setting: what it changes of the config, the costs of its programs, and why it cannot be run, '' where it can."""

    changes: Changes
    costs: dict[str, Cost]
    refused: str = ""

    @property
    def seconds(self) -> float:
        """Of an iteration's programs."""
        return sum(cost.calls * cost.seconds for cost in self.costs.values())

    @property
    def exposed(self) -> float:
        return sum(cost.calls * cost.exposed for cost in self.costs.values())

    @property
    def peak(self) -> int:
        """Bytes of a device at the fullest moment."""
        return max(cost.peak for cost in self.costs.values())

    def fits(self, bound: float) -> bool:
        return not self.refused and all(not cost.error and cost.peak <= bound for cost in self.costs.values())

    @property
    def text(self) -> str:
        return " ".join(f"--config.{key}={value}" for key, value in self.changes.items()) or "the config as it is"


class Search:
    """Looks for a faster setting of a config on a topology. margin: the share of a device's memory that stays free. say(text)
    is told what is tried."""

    def __init__(self, config, topology: str, chip: Chip, margin: float, say: Callable[[str], None] = lambda text: None):
        self.config, self.topology, self.say = config, topology, say
        self.bound = (chip.memory - chip.reserve) * (1 - margin)
        self.tried: list[Tried] = []

    def run(self) -> Tried | None:
        """The fastest setting that fits; None where none of them does."""
        costs, plan = compilation.measure(self.config, self.topology)
        base = self._note(Tried({}, {cost.name: cost for cost in costs}))
        meshes = [{}, *_meshes(plan.mesh.shape, plan.islands)]
        for mesh in meshes:
            best = self.best
            if mesh and best and best.exposed < WORTH * best.seconds:
                break
            start = base if not mesh else self._try(mesh)
            if start.refused:
                continue
            for remat in REMAT:
                if self._largest(start, mesh | {"train.remat": remat}, plan):
                    break
        return self.best

    @property
    def best(self) -> Tried | None:
        """Of equally fast ones that with the largest microbatch, which the estimate does not reward."""
        return min((t for t in self.tried if t.fits(self.bound)), key=lambda t: (round(t.seconds, 3), -t.peak), default=None)

    def _largest(self, start: Tried, changes: Changes, plan: AbstractRun) -> bool:
        """Whether some microbatch fits: the largest is found by halving, since memory grows with it."""
        sizes = list(_microbatches(self.config, plan))
        low, high, found = 0, len(sizes) - 1, False
        while low <= high:
            middle = low if not found and low == 0 else (low + high) // 2
            tried = self._try(
                changes | dict(zip(CHUNKS, sizes[middle])), start, only=("update" if "update" in start.costs else "add",)
            )
            if tried.fits(self.bound):
                found, high = True, middle - 1
            else:
                low = middle + 1
        return found

    def _try(self, changes: Changes, start: Tried | None = None, only: tuple[str, ...] = ()) -> Tried:
        """A setting; of a `start` that differs in nothing else the other programs' costs are taken over."""
        own = {key: value for key, value in changes.items() if _value(self.config, key) != value}
        if known := next((t for t in self.tried if t.changes == own), None):
            return known
        config = self.config.copy_and_resolve_references()
        with config.unlocked():
            config.update_from_flattened_dict(own)
        try:
            costs, _ = compilation.measure(config, self.topology, only)
        except UserError as error:  # as more shards than a parameter has rows
            return self._note(Tried(own, {}, str(error)))
        return self._note(Tried(own, (start.costs if start else {}) | {cost.name: cost for cost in costs}))

    def _note(self, tried: Tried) -> Tried:
        self.tried.append(tried)
        self.say(line(tried, self.bound))
        return tried


def _value(config, key: str) -> Any:
    return functools.reduce(lambda section, name: section[name], key.split("."), config)


def _meshes(shape: Mapping[str, int], islands: list[int]) -> Iterator[Changes]:
    """Other sizes of data and fsdp for as many devices, whose shards stay inside an island, from the fewest copies up."""
    devices, inside = len(islands), islands.count(islands[0])
    tensor = shape["tensor"]
    for fsdp in sorted((n for n in range(1, inside + 1) if inside % n == 0 and n % tensor == 0), reverse=True):
        sizes = {"data": devices // fsdp, "fsdp": fsdp // tensor, "tensor": tensor}
        if sizes != {axis: shape[axis] for axis in sizes}:
            yield {f"mesh.{axis}": size for axis, size in sizes.items()} | {"mesh.auto": False}


def _microbatches(config, plan: AbstractRun) -> Iterator[tuple[int, int, int]]:
    """(view_chunk, prompt_chunk, state_chunk), 0 for all, from the largest microbatch to the smallest."""
    views = algorithms.captions(config) + 1
    prompts = config.prompts_per_iteration // config.train.minibatches
    states = plan.programs.states(config)
    parts = [[n for n in range(1, total + 1) if total % n == 0] for total in (views, prompts, states)]
    sizes = sorted(itertools.product(*parts), key=lambda chunk: (-chunk[0] * chunk[1] * chunk[2], *(-n for n in chunk)))
    seen = set()
    for chunk in sizes:
        product = chunk[0] * chunk[1] * chunk[2]
        if product not in seen:  # of equal microbatches the one with most views: they share a state
            seen.add(product)
            yield tuple(0 if n == total else n for n, total in zip(chunk, (views, prompts, states)))


def line(tried: Tried, bound: float) -> str:
    """What came of a setting."""
    if tried.refused:
        return f"{'refused':>18}  {tried.text}: {tried.refused}"
    failed = [cost for cost in tried.costs.values() if cost.error]
    if failed:
        return f"{'out of memory':>18}  {tried.text}"
    verdict = f"{tried.seconds:6.1f} s {tried.peak / GIB:6.1f} GiB"
    return f"{verdict}  {tried.text}" + ("" if tried.fits(bound) else "  (leaves too little free)")


def report(base: Tried, best: Tried | None, bound: float) -> str:
    """The setting found, beside the config's own."""
    if best is None:
        return f"nothing that was tried fits {bound / GIB:.1f} GiB; without --fastest a setting that needs less is looked for"
    own = f"the config as it is: {base.seconds:.1f} s an iteration, {base.peak / GIB:.1f} GiB at the fullest"
    if best is base:
        return f"{own}; nothing that was tried is faster and leaves as much free"
    return f"{own}\nfastest that fits {bound / GIB:.1f} GiB: {best.seconds:.1f} s, {best.peak / GIB:.1f} GiB: {best.text}"


def facts(search: Search) -> dict[str, Any]:
    """Every setting that was tried, and the fastest, for JSON."""
    shown = lambda t: {
        "changes": t.changes,
        "refused": t.refused,
        "fits": t.fits(search.bound),
        "seconds": t.seconds if t.costs else None,
        "peak": t.peak if t.costs else None,
        "programs": table.records(t.costs.values()),
    }
    return {"bound": search.bound, "tried": [shown(t) for t in search.tried], "best": search.best and search.best.changes}

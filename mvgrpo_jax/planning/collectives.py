"""Communication of a compiled program, read from its optimised HLO: bytes through each network, seconds hidden and exposed.

Bytes are those that one device receives where every collective is done in the best known way: with n devices in a group that
spans k islands (parallel.mesh), of S bytes that go in on each,

  all-gather      S (n - k) inside an island, S (k - 1) between islands;
  reduce-scatter  S (n - k) / n inside, S (k - 1) / n between; an all-reduce twice that;
  all-to-all      S (n/k - 1) / n inside, S (n - n/k) / n between;
  a permutation   S, between islands where some pair crosses.

That is a collective inside each island and one between islands among devices of the same place, each with its own adapter, as
NCCL and multislice XLA do them. A collective takes as long as the slower of its two parts. Bodies of loops count as often as
they run.

Time is that of the schedule's order with one stream of computing and one of communication. A collective that is started and
waited for in two instructions (`-start`/`-done`, TPU's fused AsyncCollectiveStart/Done) runs beside what stands between them
and is hidden as far as that computes long enough; the rest of it, and every other collective, is exposed: nothing computes
meanwhile. An instruction computes as long as its matrix products take at MFU of the peak, or writing its result and reading
as much.
"""

from __future__ import annotations

import dataclasses
from collections import Counter

from mvgrpo_jax.planning import hlo
from mvgrpo_jax.planning.hardware import MFU, Chip
from mvgrpo_jax.planning.hlo import Instruction, Module

_KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")
# What is no computing.
_FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "copy-start", "copy-done")


@dataclasses.dataclass
class Traffic:
    """Of one device. inside, between: bytes by kind of collective; hidden, exposed: seconds of communication; compute: of
    computing."""

    inside: Counter = dataclasses.field(default_factory=Counter)
    between: Counter = dataclasses.field(default_factory=Counter)
    hidden: float = 0.0
    exposed: float = 0.0
    compute: float = 0.0

    def add(self, other: Traffic, times: int = 1) -> None:
        for kind in other.inside:
            self.inside[kind] += times * other.inside[kind]
            self.between[kind] += times * other.between[kind]
        self.hidden += times * other.hidden
        self.exposed += times * other.exposed
        self.compute += times * other.compute


def count(text: str, islands: list[int], chip: Chip) -> Traffic:
    """The traffic of a program, whose HLO is given as text. islands: of each device of the mesh, the island that it is in."""
    module = Module.parse(text)
    return _Reader(module, islands, chip).read(module.entry)


def volume(kind: str, size: float, groups: list[list[int]], islands: list[int]) -> tuple[float, float]:
    """(bytes that a device receives inside its island, from others) in a collective of `size` bytes a device."""
    if kind == "collective-permute":
        crosses = any(islands[a] != islands[b] for a, b in groups)
        return (0.0, size) if crosses else (size, 0.0)
    spans = [(len({islands[device] for device in group}), len(group)) for group in groups]
    k, n = max(spans)
    if kind == "all-to-all":
        return size * (n / k - 1) / n, size * (n - n / k) / n
    factor = {"all-gather": size, "reduce-scatter": size / n, "all-reduce": 2 * size / n}[kind]
    return factor * (n - k), factor * (k - 1)


@dataclasses.dataclass
class _Clock:
    """now: of computing; free: when the network has done what it was given; ends: of what was started."""

    spent: Traffic
    now: float = 0.0
    free: float = 0.0
    ends: dict[str, float] = dataclasses.field(default_factory=dict)

    def start(self, key: str, seconds: float) -> None:
        self.free = self.ends[key] = max(self.now, self.free) + seconds
        self.spent.hidden += seconds

    def wait(self, key: str) -> None:
        """What is waited for was not hidden."""
        waited = max(self.ends.pop(key, self.now) - self.now, 0.0)
        self.now += waited
        self.spent.hidden = max(self.spent.hidden - waited, 0.0)  # of rounding
        self.spent.exposed += waited


@dataclasses.dataclass
class _Reader:
    module: Module
    islands: list[int]
    chip: Chip
    known: dict[str, Traffic] = dataclasses.field(default_factory=dict)

    def read(self, name: str) -> Traffic:
        """The traffic of a computation that runs once."""
        if name not in self.known:
            clock = _Clock(Traffic())
            for instruction in self.module.computations.get(name, []):
                self.step(clock, name, instruction)
            for key in list(clock.ends):
                clock.wait(key)
            self.known[name] = clock.spent
        return self.known[name]

    def step(self, clock: _Clock, name: str, instruction: Instruction) -> None:
        i, kind = instruction, self.kind(instruction)
        if kind and i.op.endswith("-done"):
            clock.wait(i.operands[0])
        elif kind and not i.op.endswith("-update"):
            inner = [(c, x) for c in i.called for x in self.module.computations[c] if x.op in _KINDS]
            where, talks = inner[0] if i.op == "async-start" else (name, i)
            clock.start(i.name, self.seconds(clock.spent, kind, where, talks))
            if not i.op.endswith("-start"):
                clock.wait(i.name)
        elif i.op == "fusion":
            self.fusion(clock, name, i)
        elif i.op in ("while", "call", "conditional"):
            branches = [self.read(c) for c in i.called]
            longest = max(branches, key=lambda t: t.compute + t.exposed, default=Traffic())
            times = self.module.trips(i) if i.op == "while" else 1
            clock.spent.add(longest, times)
            clock.now += times * (longest.compute + longest.exposed)
        else:
            self.compute(clock, name, i)

    def kind(self, instruction: Instruction) -> str:
        """The kind of collective that an instruction is, starts or waits for; '' where it is none."""
        op = instruction.op
        if op.startswith("async-"):
            inner = [x.op for c in instruction.called for x in self.module.computations.get(c, [])]
            return next((op for op in inner if op in _KINDS), "")
        return next((k for k in _KINDS if op in (k, f"{k}-start", f"{k}-done")), "")

    def fusion(self, clock: _Clock, name: str, fused: Instruction) -> None:
        """TPU's fusions hold collectives: one that is started, the same one again where it is waited for and in what runs
        meanwhile, or one by itself; the same one has the same channel."""
        inside = [pair for c in fused.called for pair in self.module.fused(c)]
        marks = {
            operand: i.rest
            for _, i in inside
            if i.op == "custom-call" and "AsyncCollective" in i.rest
            for operand in i.operands
        }
        for where, i in inside:
            if i.op not in _KINDS:
                continue
            channel, mark = i.attribute(r"channel_id=(\d+)") or i.name, marks.get(i.name, "")
            if '"AsyncCollectiveDone"' in mark:
                clock.wait(channel)
            elif channel not in clock.ends:
                kind = "reduce-scatter" if "all-reduce-scatter" in where else i.op
                clock.start(channel, self.seconds(clock.spent, kind, where, i))
                if '"AsyncCollectiveStart"' not in mark:
                    clock.wait(channel)
        self.compute(clock, name, fused)

    def seconds(self, spent: Traffic, kind: str, where: str, talks: Instruction) -> float:
        """How long a collective takes, its bytes noted."""
        size = sum(map(hlo.size, self.module.shapes_in(where, talks)))
        inside, between = volume(kind, size, hlo.groups(talks, len(self.islands)), self.islands)
        spent.inside[kind] += inside
        spent.between[kind] += between
        return max(inside / self.chip.link, between / self.chip.network)

    def compute(self, clock: _Clock, name: str, i: Instruction) -> None:
        if i.op in _FREE:
            return
        # What is written into a part of a buffer has the buffer's shape.
        partly = "dynamic-update-slice" in i.op or any(
            "dynamic-update-slice" in inner.op for c in i.called for _, inner in self.module.fused(c)
        )
        moved = 0 if partly else 2 * hlo.size(i.shape)
        seconds = max(self.module.operations(name, i) / (self.chip.flops * MFU), moved / self.chip.bandwidth)
        clock.now += seconds
        clock.spent.compute += seconds

"""The text of an optimised HLO module: its computations, what instructions compute, how often loops run, who talks to whom."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import re

import numpy as np

_BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "c64": 64, "c128": 128}
_SHAPE = re.compile(r"\b(pred|bf16|[sufc]\d+|f8\w+)\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) (?:\([^\n]*)?.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\((.*)$")
_CALLED = re.compile(r"(?:to_apply|calls|body|branch_computations|called_computations)=\{?([^,}]*(?:, ?%[^,}]*)*)\}?")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """shape: its result, as written; rest: operands and attributes, as written."""

    name: str
    shape: str
    op: str
    rest: str

    @functools.cached_property
    def operands(self) -> list[str]:
        depths = itertools.accumulate((character == "(") - (character == ")") for character in self.rest)
        end = next((n for n, depth in enumerate(depths) if depth < 0), len(self.rest))
        return re.findall(r"%([\w.\-]+)", self.rest[:end])

    @functools.cached_property
    def called(self) -> list[str]:
        """The computations that it calls, a loop's condition not among them."""
        return [name for names in _CALLED.findall(self.rest) for name in re.findall(r"%([\w.\-]+)", names)]

    def attribute(self, pattern: str) -> str:
        """The first group of a pattern in the attributes, or ''."""
        found = re.search(pattern, self.rest)
        return found[1] if found else ""


@dataclasses.dataclass(frozen=True)
class Module:
    """computations: the instructions of each, in the order of the schedule."""

    computations: dict[str, list[Instruction]]
    entry: str

    @classmethod
    def parse(cls, text: str) -> Module:
        out: dict[str, list[Instruction]] = {}
        entry, name = "", None
        for line in text.splitlines():
            if not line.startswith(" ") and line.rstrip().endswith("{") and (found := _COMPUTATION.match(line)):
                name = found[1]
                out[name] = []
                entry = name if line.startswith("ENTRY") else entry
            elif name and (found := _INSTRUCTION.match(line)):
                out[name].append(Instruction(*found.groups()))
        return cls(out, entry)

    @functools.cached_property
    def _shapes(self) -> dict[str, dict[str, str]]:
        return {name: {i.name: i.shape for i in rows} for name, rows in self.computations.items()}

    def shapes_in(self, computation: str, instruction: Instruction) -> list[str]:
        """The shapes of an instruction's operands, as written."""
        return [self._shapes[computation].get(name, "") for name in instruction.operands]

    def fused(self, name: str):
        """(computation, instruction) of all that a fused computation holds, fusions inside it opened."""
        for instruction in self.computations.get(name, []):
            yield name, instruction
            if instruction.op == "fusion":
                for called in instruction.called:
                    yield from self.fused(called)

    def trips(self, loop: Instruction) -> int:
        """How often a while loop runs: what XLA noted, or the bound that its condition compares with."""
        if noted := loop.attribute(r'known_trip_count[^}]*?"n":"(\d+)"'):
            return int(noted)
        rows = [i for _, i in self.fused(loop.attribute(r"condition=%?([\w.\-]+)"))]
        return max((int(i.rest.split(")")[0]) for i in rows if i.op == "constant" and i.rest[0].isdigit()), default=1)

    def operations(self, computation: str, instruction: Instruction) -> int:
        """Floating-point operations of an instruction's matrix products, convolutions and attention kernels."""
        i = instruction
        if i.op == "fusion":
            return sum(self.operations(name, inner) for c in i.called for name, inner in self.fused(c) if inner.op != "fusion")
        if i.op not in ("dot", "convolution", "custom-call"):
            return 0
        target = i.attribute(r'custom_call_target="([^"]*)"')
        operands = [dims(shape) for shape in self.shapes_in(computation, i)]
        if i.op == "dot" or "matmul" in target or "gemm" in target:
            written = i.attribute(r'lhs_contracting_dim(?:ension)?s"?[=:][{\[]([^}\]]*)')
            contracted = [operands[0][int(axis)] for axis in re.findall(r"\d+", written) if operands[0]]
            return 2 * math.prod(dims(i.shape)) * math.prod(contracted)
        if i.op == "convolution":
            labels = i.attribute(r"dim_labels=\w+_(\w+)->")
            return 2 * math.prod(dims(i.shape)) * math.prod(operands[1]) // max(operands[1][labels.index("o")], 1)
        if len(operands) > 2 and len(operands[0]) > 2 and ("fmha" in target or target == "tpu_custom_call"):
            tokens = operands[0][1] if "fmha" in target else operands[0][-2]  # [B, T, H, D]; [..., T, D]
            return (10 if "Backward" in target else 4) * math.prod(operands[0]) * tokens
        return 0


def size(shape: str) -> int:
    """Bytes of a shape or tuple of shapes, as written."""
    return sum(math.prod(map(int, filter(None, d.split(",")))) * _bits(kind) for kind, d in _SHAPE.findall(shape)) // 8


def dims(shape: str) -> list[int]:
    """The dimensions of a shape; of a tuple's first one."""
    found = _SHAPE.search(shape)
    return [int(d) for d in filter(None, found[2].split(","))] if found else []


def _bits(kind: str) -> int:
    return _BITS.get(kind) or (8 if kind.startswith("f8") else int(kind[1:]))


def groups(instruction: Instruction, devices: int) -> list[list[int]]:
    """The devices (as positions in the mesh) of each group that talks, of a collective's replica groups in any of XLA's three
    notations, or the pairs of a permutation. Raises ValueError for another notation."""
    i = instruction
    if pairs := i.attribute(r"source_target_pairs=\{(\{.*?\})\}"):
        return _listed(pairs)
    if found := re.search(r"replica_groups=(\[[\d,]+\])<=(\[[\d,]+\](?:T\([\d,]+\))?)", i.rest):
        return _ordered(found[2]).reshape(_numbers(found[1])).tolist()
    if found := re.search(r"replica_groups=mesh\[(.*?)\](?:, device_ids=\((.*?)\))? \{(.*?)\}", i.rest):
        return _along(*found.groups())
    if listed := i.attribute(r"replica_groups=\{(\{.*?\})\}"):
        return _listed(listed)
    if "replica_groups=" in i.rest.replace("replica_groups={}", ""):
        raise ValueError(
            f"replica groups in a notation that is not known here: {i.rest[i.rest.index('replica_groups=') :][:200]}"
        )
    return [list(range(devices))]


def _numbers(text: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", text)]


def _ordered(text: str) -> np.ndarray:
    """Devices in an order written as [2,4]T(1,0): counted in rows of that shape, then transposed."""
    shape, _, order = text.partition("T")
    ids = np.arange(math.prod(_numbers(shape))).reshape(_numbers(shape))
    return ids.transpose(_numbers(order)) if order else ids


def _listed(text: str) -> list[list[int]]:
    return [[int(n) for n in part.split(",")] for part in re.findall(r"\{([\d,]+)\}", text)]


def _along(axes: str, ids: str | None, grouped: str) -> list[list[int]]:
    """Groups along axes of a mesh: 'a'=2,'b'=4 with {'a'}, or {'b':(1)2} for a part of an axis."""
    sizes = {name: int(n) for name, n in re.findall(r"'?([\w\-]+)'?=(\d+)", axes)}
    shape: list[int] = []
    inside: list[int] = []
    wanted = re.findall(r"'?([\w\-]+)'?(?::\((\d+)\)(\d+))?(?:,|$)", grouped)
    for name, whole in sizes.items():
        parts = sorted((int(before or 1), int(n or whole)) for axis, before, n in wanted if axis == name)
        done = 1
        for before, n in parts:
            shape.append(before // done)
            inside.append(len(shape))
            shape.append(n)
            done = before * n
        shape.append(whole // done)
    order = [axis for axis in range(len(shape)) if axis not in inside] + inside
    if ids and "[" not in ids:
        listed = np.asarray(_numbers(ids))
    else:
        listed = _ordered(ids or f"[{math.prod(sizes.values())}]")
    return listed.reshape(shape).transpose(order).reshape(-1, math.prod(shape[axis] for axis in inside)).tolist()

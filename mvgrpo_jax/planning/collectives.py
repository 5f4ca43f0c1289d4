"""Bytes through collectives of a compiled program, read from its optimised HLO; loop bodies count as often as they run."""

from __future__ import annotations

import re
from collections import Counter

_BYTES = {
    "pred": 1,
    "s8": 1,
    "u8": 1,
    "s16": 2,
    "u16": 2,
    "bf16": 2,
    "f16": 2,
    "s32": 4,
    "u32": 4,
    "f32": 4,
    "f64": 8,
    "s64": 8,
}
_KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) (?:\([^\n]*)?.*\{\s*$")
_SHAPE = re.compile(r"\b(" + "|".join(_BYTES) + r"|f8\w+)\[([\d,]*)\]")


def _size(text: str) -> int:
    total = 0
    for kind, dims in _SHAPE.findall(text):
        count = 1
        for d in filter(None, dims.split(",")):
            count *= int(d)
        total += count * _BYTES.get(kind, 1)
    return total


def _split(hlo: str) -> tuple[dict[str, list[str]], str]:
    """Computation name -> its lines, and the entry's name."""
    out: dict[str, list[str]] = {}
    entry, name = "", None
    for line in hlo.splitlines():
        if not line.startswith(" ") and line.rstrip().endswith("{") and (m := _COMPUTATION.match(line)):
            name = m[1]
            out[name] = []
            entry = name if line.startswith("ENTRY") else entry
        elif name and line.startswith(" "):
            out[name].append(line)
    return out, entry


def _trips(line: str, computations: dict[str, list[str]]) -> int:
    """How often a while loop runs: what XLA noted, or the bound that its condition compares with."""
    if m := re.search(r'known_trip_count[^}]*?"n":"(\d+)"', line):
        return int(m[1])
    condition = re.search(r"condition=%?([\w.\-]+)", line)
    constants = [int(c) for row in computations.get(condition[1], []) for c in re.findall(r"constant\((\d+)\)", row)]
    if not constants:  # the comparison may sit in a fusion that the condition calls
        called = [c for row in computations.get(condition[1], []) for c in re.findall(r"calls=%?([\w.\-]+)", row)]
        constants = [int(c) for n in called for row in computations.get(n, []) for c in re.findall(r"constant\((\d+)\)", row)]
    return max(constants, default=1)


def count(hlo: str) -> Counter[str]:
    """Bytes that each kind of collective hands over on one device: the size of its result, all-reduce twice."""
    computations, entry = _split(hlo)
    total: Counter[str] = Counter()

    def visit(name: str, times: int) -> None:
        for line in computations.get(name, []):
            m = re.search(r"= (.*?) ([\w\-]+)\(", line)
            op = m[2] if m else ""
            kind = next((k for k in _KINDS if op in (k, f"{k}-start")), None)
            if kind:
                shape = m[1]
                if op.endswith("-start") and kind in ("all-gather", "collective-permute"):  # (operand, result, ...)
                    shape = shape[len(shape) // 2 :] if "), (" in shape else shape.split(", ", 1)[-1]
                total[kind] += times * _size(shape) * (2 if kind == "all-reduce" else 1)
            if op == "while":
                visit(re.search(r"body=%?([\w.\-]+)", line)[1], times * _trips(line, computations))
            elif op in ("call", "conditional", "async-start", "fusion"):
                for called in re.findall(
                    r"(?:to_apply|calls|branch_computations=\{|called_computations=\{)=?%?([\w.\-]+)", line
                ):
                    visit(called, times)

    visit(entry, 1)
    return total

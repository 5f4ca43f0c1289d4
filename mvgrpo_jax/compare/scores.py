"""The first, the best and the last evaluation of every judge in every run, and what lies between them."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mvgrpo_jax.compare.runs import Compared
from mvgrpo_jax.convert.files import atomic

ROLES = ("trained", "held out")


class Difference(NamedTuple):
    """mean, and its standard error over the prompts that have both scores; not-a-number where single scores were not kept."""

    mean: float
    stderr: float

    def __str__(self) -> str:
        return f"{self.mean:+.4f}" + ("" if math.isnan(self.stderr) else f" ± {self.stderr:.4f}")


class Line(NamedTuple):
    """Of a judge in a run. *_at: iterations. gain: the last evaluation less the first. ahead: of the first run, at the last
    iteration, ahead_at, that both were evaluated at; None in the first run and where they cannot be compared."""

    judge: str
    run: str
    role: str
    first: float
    first_at: int
    best: float
    best_at: int
    last: float
    last_at: int
    gain: Difference
    ahead: Difference | None = None
    ahead_at: int | None = None


def lines(runs: list[Compared], incomparable: set[str]) -> list[Line]:
    """By judge, then in the order of runs. incomparable: judges of which nothing is said about two runs."""
    judges = sorted({judge for run in runs for judge in run.judges}, key=lambda judge: (-runs[0].weight(judge), judge))
    return [_line(runs[0], run, judge, judge not in incomparable) for judge in judges for run in runs if run.scores(judge)]


def _line(base: Compared, run: Compared, judge: str, comparable: bool) -> Line:
    found = run.scores(judge)
    first, last, best = min(found), max(found), max(found, key=lambda iteration: found[iteration])
    line = Line(
        judge, run.name, ROLES[run.weight(judge) == 0], found[first], first, found[best], best, found[last], last,
        difference(judge, (run, last), (run, first)),
    )  # fmt: skip
    common = found.keys() & base.scores(judge).keys()
    if run is base or not comparable or not common:
        return line
    at = max(common)
    return line._replace(ahead=difference(judge, (run, at), (base, at)), ahead_at=at)


def difference(judge: str, one: tuple[Compared, int], other: tuple[Compared, int]) -> Difference:
    """The score of one run at an iteration less another's; prompt by prompt where both kept their scores."""
    mean = one[0].scores(judge)[one[1]] - other[0].scores(judge)[other[1]]
    pair = [run.kept[at].scores.get(judge) for run, at in (one, other) if at in run.kept]
    if len(pair) < 2 or any(scores is None for scores in pair) or len(pair[0]) != len(pair[1]):
        return Difference(mean, math.nan)
    each = pair[0] - pair[1]
    each = each[~np.isnan(each)]
    if len(each) < 2:
        return Difference(mean, math.nan)
    return Difference(float(each.mean()), float(each.std(ddof=1) / len(each) ** 0.5))


def write(found: list[Line], path: Path) -> None:
    """As CSV; what is not known is empty."""
    head = [*Line._fields[:-3], "gain", "gain_stderr", "ahead", "ahead_stderr", "ahead_at"]
    with atomic(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(head)
        for line in found:
            numbers = [*line.gain, *(line.ahead or (None, None)), line.ahead_at]
            row = [*line[:-3], *numbers]
            out.writerow(["" if isinstance(x, float) and math.isnan(x) else x for x in row])


def text(found: list[Line]) -> list[str]:
    """A line a judge and run, for a terminal."""
    out = []
    for line in found:
        ahead = "" if line.ahead is None else f"; {line.ahead} against the first run at {line.ahead_at}"
        ends = f"{line.first:.4f} -> {line.last:.4f} at {line.last_at} ({line.gain})"
        out.append(f"{line.judge} ({line.role}), {line.run}: {ends}, best {line.best:.4f} at {line.best_at}{ahead}")
    return out

"""What workdirs hold that is compared, and whether their evaluations are of one kind."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mvgrpo_jax.configuration import continuation
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.run import curves, metrics
from mvgrpo_jax.run.page import names

EVALUATED = "eval/"


class Kept(NamedTuple):
    """An evaluation: its prompts [N] and the scores [N] of each judge, not-a-number where there is none."""

    prompts: list[str]
    scores: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Compared:
    """A run. rows: its metrics, without the scores of evaluations on other prompts than its last one. config: flat, empty where
    there is none. kept: evaluations by iteration; runs of earlier versions kept none."""

    name: str
    workdir: Path
    rows: list[dict]
    config: dict[str, Any]
    kept: dict[int, Kept]

    @property
    def judges(self) -> list[str]:
        return [name.removeprefix(EVALUATED) for name in curves.names({self.name: self.rows}, EVALUATED)]

    def weight(self, judge: str) -> float:
        """0 for one that does not train."""
        return self.config.get(f"rewards.{judge}", 0.0)

    def scores(self, judge: str) -> dict[int, float]:
        """The mean of each evaluation by its iteration."""
        return dict(zip(*curves.curve(self.rows, EVALUATED + judge)))

    @property
    def prompts(self) -> list[str] | None:
        """Of its evaluations, as far as it kept them."""
        if self.kept:
            return self.kept[max(self.kept)].prompts
        listed = self.workdir / "eval" / "prompts.json"
        return json.loads(listed.read_text()) if listed.exists() else None


def read(workdirs: list[Path]) -> list[Compared]:
    """UserError: no such run, a run without evaluations, or the same run twice."""
    return [_read(name, workdir) for name, workdir in zip(names(workdirs), workdirs)]


def _read(name: str, workdir: Path) -> Compared:
    rows, path = metrics.read(workdir), workdir / "config.json"
    config = continuation.flatten(json.loads(path.read_text())) if path.exists() else {}
    kept = {}
    for file in sorted((workdir / "eval").glob("[0-9]*.json")):
        item = json.loads(file.read_text())
        kept[item["iteration"]] = Kept(item["prompts"], {n: np.asarray(s, float) for n, s in item["scores"].items()})
    if kept:  # the held-out prompts of a run may change
        last = kept[max(kept)].prompts
        others = {iteration for iteration, evaluation in kept.items() if evaluation.prompts != last}
        kept = {iteration: evaluation for iteration, evaluation in kept.items() if iteration not in others}
        rows = [{k: v for k, v in r.items() if not k.startswith("eval")} if r["iteration"] in others else r for r in rows]
    run = Compared(name, workdir, rows, config, kept)
    if not any(run.scores(judge) for judge in run.judges):
        raise UserError(
            f"{workdir} has no evaluation; expected a run with config.eval.every above 0 that was evaluated at least once. "
            "Leave it out; mvgrpo_jax.report draws its other curves"
        )
    return run


def obstacles(runs: list[Compared]) -> list[str]:
    """Why the runs' scores and pictures cannot be compared with the first one's; nothing where they can."""
    first, found = runs[0], []
    for other in runs[1:]:
        if not _same_prompts(first, other):
            found.append(f"{other.name} was evaluated on other prompts than {first.name}")
        for key in ("eval.steps", "eval.solver", "image.height", "image.width"):
            if first.config.get(key) != other.config.get(key):
                found.append(f"{key} is {first.config.get(key)} in {first.name}, {other.config.get(key)} in {other.name}")
    return found


def _same_prompts(a: Compared, b: Compared) -> bool:
    if a.kept and b.kept:
        return a.prompts == b.prompts
    keys = ("prompts.eval", "prompts.eval_count")
    mine, theirs = a.prompts, b.prompts
    if mine is None or theirs is None:
        return all(a.config.get(key) == b.config.get(key) for key in keys)
    # Of a job of several processes the first one's pictures alone are kept.
    return set(mine) <= set(theirs) or set(theirs) <= set(mine)


def changed_judges(runs: list[Compared]) -> dict[str, str]:
    """{judge: why its scores cannot be compared}: of those whose settings differ between two runs."""
    found = {}
    for other in runs[1:]:
        for judge in {*runs[0].judges} & {*other.judges}:
            lines = continuation.changes(_settings(runs[0], judge), _settings(other, judge))
            if lines:
                found[judge] = f"{lines[0].replace(' there', f' in {runs[0].name}').replace(' now', f' in {other.name}')}"
    return found


def _settings(run: Compared, judge: str) -> dict[str, Any]:
    return {key: value for key, value in run.config.items() if key.startswith(f"judges.{judge}.")}

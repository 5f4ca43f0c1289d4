"""Table 1 of several runs: the untrained policy, and each run after its last evaluation, in the paper's columns."""

from __future__ import annotations

from typing import Any

from mvgrpo_jax.compare.runs import Compared
from mvgrpo_jax.evaluation.columns import Column, columns, version
from mvgrpo_jax.evaluation.intervals import Estimate, estimate
from mvgrpo_jax.evaluation.rows import NOTHING
from mvgrpo_jax.evaluation.table import Row, Table


def table(runs: list[Compared]) -> Table | None:
    """Of runs that were evaluated on the same prompts by the same judges; None where one did not keep its single scores. The
    first row is the first run's policy as it was before training, where it was evaluated then."""
    if not all(run.kept for run in runs):
        return None
    judges = {judge: _settings(runs[0], judge) for judge in runs[0].judges}
    placed = columns(judges)
    rows = [Row(NOTHING, "before training", _cells(runs[0], 0, placed))] if 0 in runs[0].kept else []
    rows += [Row(_trained_on(run, placed), _method(run, runs), _cells(run, max(run.kept), placed)) for run in runs]
    return Table([column.title for column in placed.values()], rows, _caption(runs, judges, placed))


def _settings(run: Compared, judge: str) -> dict[str, Any]:
    start = f"judges.{judge}."
    own = {key.removeprefix(start): value for key, value in run.config.items() if key.startswith(start)}
    return {"kind": judge} | own


def _cells(run: Compared, iteration: int, placed: dict[str, Column]) -> dict[str, Estimate]:
    scores = run.kept[iteration].scores
    return {c.title: estimate(scores[judge][:, None]).scaled(c.scale) for judge, c in placed.items() if judge in scores}


def _trained_on(run: Compared, placed: dict[str, Column]) -> str:
    return " + ".join(column.title for judge, column in placed.items() if run.weight(judge)) or NOTHING


def _method(run: Compared, runs: list[Compared]) -> str:
    """The algorithm, and which run where several have it or it is not known."""
    name = lambda of: of.config.get("algorithm.name", "")
    same = [other for other in runs if name(other) == name(run)]
    return f"{name(run)} ({run.name})" if name(run) and len(same) > 1 else name(run) or run.name


def _caption(runs: list[Compared], judges: dict[str, dict[str, Any]], placed: dict[str, Column]) -> str:
    config, iterations = runs[0].config, sorted({max(run.kept) for run in runs})
    span = f"{iterations[0]}" if len(iterations) == 1 else f"{iterations[0]} to {iterations[-1]}"
    scales = {judge: f" x {column.scale:g}" if column.scale != 1 else "" for judge, column in placed.items()}
    prompts = f"{len(runs[0].prompts)} held-out prompts of {config.get('prompts.eval', 'the runs')}"
    sentences = [
        f"{prompts}, one picture each from the same noise, {config.get('eval.steps', '?')} steps, after {span} iterations",
        "Mean over prompts with its 95 % interval (bootstrap over prompts)",
        "Judges: " + "; ".join(f"{c.title}{scales[j]} = {version(judges[j])}" for j, c in placed.items()),
    ]
    return ". ".join(sentences) + "."

"""The rows and the caption of an evaluation's table."""

from __future__ import annotations

from typing import Any

from mvgrpo_jax.evaluation import published
from mvgrpo_jax.evaluation.columns import PAPER, Column, columns, version
from mvgrpo_jax.evaluation.intervals import Estimate, estimate
from mvgrpo_jax.evaluation.results import Results, by_style
from mvgrpo_jax.evaluation.table import MARK, Row, Table

NOTHING = "-"  # in the paper's first column: not trained


def table(
    ours: Results,
    theirs: Results | None,
    judges: dict[str, dict[str, Any]],
    *,
    trained_on: str = NOTHING,
    with_published: bool = False,
    per_style: bool = False,
) -> Table:
    """judges: settings by name. with_published: the paper's rows come
    first. per_style: a row for each style, too."""
    placed = columns(judges)
    titles = [column.title for column in placed.values()]
    rows = []
    if with_published:
        titles = [column.title for column in PAPER] + [t for t in titles if t not in {column.title for column in PAPER}]
        names = published.read()["columns"]
        rows = [Row(on, method, dict(zip(names, numbers)), MARK) for on, method, *numbers in published.read()["rows"]]
    sides = [(theirs, theirs.side.name, NOTHING)] if theirs else []
    for results, name, on in [*sides, (ours, ours.side.name, trained_on)]:
        rows.append(Row(on, name, _cells(results, placed)))
        if per_style:
            styles = by_style(results.side.job.prompts.styles)
            rows += [Row(on, f"{name}: {style}", _cells(results, placed, chosen), "part") for style, chosen in styles.items()]
    return Table(titles, rows, caption(ours, judges, placed, with_published))


def _cells(results: Results, placed: dict[str, Column], rows: list[int] | slice = slice(None)) -> dict[str, Estimate]:
    return {column.title: estimate(results.scores[name][rows]).scaled(column.scale) for name, column in placed.items()}


def caption(results: Results, judges: dict[str, dict[str, Any]], placed: dict[str, Column], with_published: bool) -> str:
    """How the numbers came about: prompts, seeds, sampler, judges."""
    job = results.side.job
    first, last = job.seeds[0], job.seeds[-1]
    seeds = f"seed {first}" if first == last else f"seeds {first} to {last}"
    prompts = f"{len(job.prompts.texts)} prompts of {job.prompts.name} (sha256 {job.prompts.sha256[:12]})"
    if skipped := job.prompts.numbers[0]:
        prompts += f" after the first {skipped}"
    sentences = [
        f"{prompts}, {seeds}, {job.steps} steps, guidance {job.guidance:g}, {job.width} x {job.height} pixels, {job.dtype}",
        "Mean over prompts with its 95 % interval (bootstrap over prompts)",
        "Judges: " + "; ".join(_named(column, name, judges[name]) for name, column in placed.items()),
    ]
    if with_published:
        sentences.append(f"Rows marked {MARK} were not measured here: {published.read()['source']}")
    return ". ".join(sentences) + "."


def _named(column: Column, name: str, settings: dict[str, Any]) -> str:
    scale = f" x {column.scale:g}" if column.scale != 1 else ""
    said = version(settings)
    return f"{column.title}{scale}" + (f" = {said}" if said != column.title else "")

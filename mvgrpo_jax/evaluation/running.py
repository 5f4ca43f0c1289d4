"""An evaluation from its settings to its files; the same call goes on where an earlier one was stopped."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from mvgrpo_jax.configuration.continuation import OF_JUDGES
from mvgrpo_jax.convert.files import read_json
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.evaluation import judging, outputs, results, rows
from mvgrpo_jax.evaluation.job import SETTINGS, WEIGHTS, Job, claim, differences
from mvgrpo_jax.evaluation.side import Side
from mvgrpo_jax.evaluation.table import Table
from mvgrpo_jax.evaluation.weights import Weights
from mvgrpo_jax.parallel import hosts
from mvgrpo_jax.rewards import kinds
from mvgrpo_jax.storage import hold

BASE = "against"  # the folder of the other side that is painted here

Judges = dict[str, dict[str, Any]]  # settings with the kind, by name


def run(sides: list[Side], judges: Judges, batch: int, **shown: Any) -> tuple[dict[str, Any], Table] | None:
    """Paints, judges and writes; (summary, table) in the first process, None in the others. All processes of a job call this
    together and each does its share. sides: ours, and theirs where pipelines are compared. shown: of rows.table. UserError of
    any process ends all of them."""
    ours, *others = sides
    space = space_of(judges)
    with _held([side for side in sides if side.own], judges):
        together(lambda: [side.paint(batch) for side in sides if side.own])
        cut = together(lambda: {n: judging.judge(n, settings, sides, batch, n == space) for n, settings in judges.items()})
        counts = {name: sum(process[name] for process in cut) for name in judges}

        def finish() -> tuple[dict[str, Any], Table]:
            mine, *theirs = [results.collect(side, list(judges), space) for side in sides]
            other = theirs[0] if theirs else None
            summary = results.summary(mine, other, counts)
            table = rows.table(mine, other, judges, **shown)
            outputs.write(mine, other, summary, table)
            if other and others[0].own:
                outputs.scores_of(other)
            return summary, table

        made: list[tuple[dict[str, Any], Table]] = []
        hosts.decide(lambda: made.append(finish()))
        return made[0] if made else None


def space_of(judges: Judges) -> str | None:
    """The judge whose space tells how alike pictures are: the first of kind clip."""
    return next((name for name, settings in judges.items() if settings["kind"] == "clip"), None)


def together(work) -> list[Any]:
    """What work() returned in each process, a JSON value, once all are done; the UserError of one is raised in all."""
    try:
        said = {"value": work()}
    except UserError as error:
        if len(said := hosts.exchange(json.dumps({"error": str(error)}))) == 1:
            raise
    else:
        said = hosts.exchange(json.dumps(said))
    found = [json.loads(text) for text in said]
    if errors := [f"process {i}: {f['error']}" for i, f in enumerate(found) if "error" in f]:
        raise UserError("; ".join(errors))
    return [f["value"] for f in found]


@contextlib.contextmanager
def _held(sides: list[Side], judges: Judges) -> Iterator[None]:
    """Keeps other jobs out of the folders and records what is evaluated in them."""
    with contextlib.ExitStack() as stack:

        def take() -> None:
            for side in sides:
                try:
                    side.folder.mkdir(parents=True, exist_ok=True)
                    stack.enter_context(hold(side.folder))
                except OSError as error:
                    raise UserError(
                        f"--out {side.folder} cannot be written ({error}); check the name and the rights"
                    ) from error
                claim(side.folder, side.job.facts(), judges)

        hosts.decide(take)
        yield


def against(other: str, job: Job, judges: Judges, out: Path) -> Side:
    """What is compared with: another evaluation's folder, or a pipeline that is painted beside ours. UserError as of either."""
    if (Path(other) / SETTINGS).is_file():
        return other_side(Path(other), job, judges)
    weights = Weights(other)
    pipeline = weights.described()
    pipeline.grid(job.height, job.width)
    return Side(out / BASE, replace(job, weights=weights))


def other_side(folder: Path, job: Job, judges: Judges) -> Side:
    """A finished evaluation as the side that is compared with. UserError unless it differs in its weights alone."""
    there = read_json(folder / SETTINGS)
    lines = differences(there, job.facts(), WEIGHTS)
    for name, settings in there["judges"].items():
        if name in judges:
            lines += [f"judge {name}: {line}" for line in differences(settings, judges[name], OF_JUDGES)]
    if lines:
        listed = "\n  ".join(lines)
        raise UserError(
            f"--against {folder} was painted or judged otherwise:\n  {listed}\ngive the same settings, or its pipeline"
        )
    return Side(folder, job_of(there, job), own=False)


def job_of(there: dict[str, Any], like: Job) -> Job:
    """The job that a settings.json describes, of the same prompts and settings as another one."""
    lora, workdir = (Path(there[name]) if there.get(name) else None for name in ("lora", "workdir"))
    weights = Weights(there["pipeline"], lora, workdir, there.get("step"), there.get("best", False))
    return replace(like, weights=weights)


def check_judges(judges: Judges) -> None:
    """UserError where a judge lacks a setting that it needs, before anything is painted."""
    for name, settings in judges.items():
        missing = [k for k, v in kinds.defaults(settings["kind"]).items() if v is kinds.REQUIRED and k not in settings]
        if missing:
            needs = f"the judge {name!r} of kind {settings['kind']!r} needs {', '.join(missing)}"
            raise UserError(f"{needs}: give --option {name}.{missing[0]}=...")

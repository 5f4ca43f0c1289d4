"""Numbers of a run: metrics.jsonl, a line an iteration."""

from __future__ import annotations

import contextlib
import json
import math
import time
from pathlib import Path

import jax

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.parallel.hosts import is_chief
from mvgrpo_jax.run import lines
from mvgrpo_jax.run.timeline import Timeline
from mvgrpo_jax.storage import place


def read(workdir: Path) -> list[dict]:
    """The lines of a run's metrics.jsonl; a last line cut off by a kill is passed over. UserError when there is none."""
    path = place(workdir) / "metrics.jsonl"
    if not path.exists():
        raise UserError(f"{path} does not exist; expected the workdir of a run")
    rows = {}
    for line in lines.read(path):
        with contextlib.suppress(json.JSONDecodeError):
            row = json.loads(line)
            rows[row["iteration"]] = row
    return list(rows.values())


# Stages under another name in a trace than among the metrics.
TRACED = {"enhance": "caption", "reward": "judge", "eval": "evaluate"}


class Clock:
    """Seconds spent in each stage of an iteration; a trace of the iteration shows the stages, and so does a timeline."""

    def __init__(self, timeline: Timeline | None = None):
        self.spent: dict[str, float] = {}
        self.timeline = timeline

    @contextlib.contextmanager
    def __call__(self, stage: str):
        start = time.perf_counter()
        with jax.profiler.TraceAnnotation(TRACED.get(stage, stage)):
            yield
        self.spent[f"time/{stage}"] = self.spent.get(f"time/{stage}", 0.0) + time.perf_counter() - start
        self.note("host", TRACED.get(stage, stage), start)

    def note(self, line: str, name: str, start: float) -> None:
        """For the timeline: something that began at `start` and ends now."""
        if self.timeline:
            self.timeline.note(line, name, start)


class Writer:
    """Adds lines to metrics.jsonl. A continued run drops the lines that its checkpoint does not know. Of several processes the
    first one writes; the others' writers do nothing."""

    def __init__(self, workdir: Path, resumed_at: int):
        self.writes = is_chief()
        if not self.writes:
            return
        path = workdir / "metrics.jsonl"
        kept = [json.dumps(r) for r in read(workdir) if r["iteration"] < resumed_at] if path.exists() else []
        self.file = lines.writer(path, kept)

    def write(self, iteration: int, values: dict[str, float]) -> None:
        """Not-a-number and infinities are written as null: JSON has no word for them."""
        if not self.writes:
            return
        values = {k: float(v) for k, v in values.items()}
        self.file.add(json.dumps({"iteration": iteration} | {k: v if math.isfinite(v) else None for k, v in values.items()}))

    def close(self) -> None:
        if self.writes:
            self.file.close()

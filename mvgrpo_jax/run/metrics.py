"""Numbers of a run: metrics.jsonl (a line an iteration) and, with the extra `tensorboard`, TensorBoard through clu."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from pathlib import Path

from mvgrpo_jax.convert.files import atomic
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.parallel.hosts import is_chief


def read(workdir: Path) -> list[dict]:
    """The lines of a run's metrics.jsonl; a last line cut off by a kill is passed over. UserError when there is none."""
    path = Path(workdir) / "metrics.jsonl"
    if not path.exists():
        raise UserError(f"{path} does not exist; expected the workdir of a run")
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


class Clock:
    """Seconds spent in each stage of an iteration."""

    def __init__(self):
        self.spent: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, stage: str):
        start = time.perf_counter()
        yield
        self.spent[f"time/{stage}"] = self.spent.get(f"time/{stage}", 0.0) + time.perf_counter() - start


def board(workdir: Path):
    """A writer of TensorBoard files in workdir/tensorboard; None, with a warning that says why, where its libraries are not."""
    try:
        import tensorboard.summary  # noqa: F401  (TensorFlow asks for it only when the first number is written)
        from clu import metric_writers
    except ImportError as error:
        print(
            f"warning: TensorBoard files are off ({error}); metrics.jsonl has every number. "
            "To have them: pip install 'mvgrpo_jax[tensorboard]'",
            file=sys.stderr,
        )
        return None
    return metric_writers.SummaryWriter(str(workdir / "tensorboard"))


class Writer:
    """Appends to metrics.jsonl and, where TensorBoard is installed, to its files. A continued run drops the lines that its
    checkpoint does not know. Of several processes the first one writes; the others' writers do nothing."""

    def __init__(self, workdir: Path, resumed_at: int):
        self.writes = is_chief()
        if not self.writes:
            return
        self.path = workdir / "metrics.jsonl"
        kept = [r for r in read(workdir) if r["iteration"] < resumed_at] if self.path.exists() else []
        with atomic(self.path) as part:  # whatever stops this, the history is there
            part.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        self.file = self.path.open("a", encoding="utf-8")
        self.board = board(workdir)

    def _line(self, row: dict) -> None:
        self.file.write(json.dumps(row) + "\n")
        self.file.flush()

    def write(self, iteration: int, values: dict[str, float]) -> None:
        """Not-a-number and infinities are written as null: JSON has no word for them."""
        if not self.writes:
            return
        values = {k: float(v) for k, v in values.items()}
        self._line({"iteration": iteration} | {k: v if math.isfinite(v) else None for k, v in values.items()})
        if self.board is not None:
            self.board.write_scalars(iteration, values)

    def close(self) -> None:
        if not self.writes:
            return
        self.file.close()
        if self.board is not None:
            self.board.flush()

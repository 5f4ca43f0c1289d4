"""Numbers of a run: metrics.jsonl (a line an iteration) and, with the extra `tensorboard`, TensorBoard through clu."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.parallel.hosts import is_chief
from mvgrpo_jax.run import lines
from mvgrpo_jax.storage import is_remote, place, upload


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
    return Board(metric_writers.SummaryWriter, workdir / "tensorboard")


class Board:
    """A clu writer into a folder. Files that grow cannot be kept in object storage: there they are written on this machine and
    copied every COPIED seconds and at the end."""

    COPIED = 60.0

    def __init__(self, kind, folder: Path):
        self.folder = folder
        self.local = Path(tempfile.mkdtemp(prefix="tensorboard.")) if is_remote(folder) else folder
        self.writer, self.copied = kind(str(self.local)), time.monotonic()

    def write_scalars(self, iteration: int, values: dict[str, float]) -> None:
        self.writer.write_scalars(iteration, values)
        if time.monotonic() - self.copied > self.COPIED:
            self.flush()

    def flush(self) -> None:
        self.writer.flush()
        self.copied = time.monotonic()
        if self.local != self.folder:
            self.folder.mkdir(parents=True, exist_ok=True)
            for file in self.local.iterdir():
                upload(file, self.folder / file.name)

    def close(self) -> None:
        self.flush()
        self.writer.close()
        if self.local != self.folder:
            shutil.rmtree(self.local)


class Writer:
    """Adds lines to metrics.jsonl and, where TensorBoard is installed, to its files. A continued run drops the lines that its
    checkpoint does not know. Of several processes the first one writes; the others' writers do nothing.

    aside(task, ...) does TensorBoard's part, beside training; what it was given must be done before `close`."""

    def __init__(self, workdir: Path, resumed_at: int, aside: Callable = lambda task, *given: task(*given)):
        self.writes, self.aside = is_chief(), aside
        if not self.writes:
            return
        path = workdir / "metrics.jsonl"
        kept = [json.dumps(r) for r in read(workdir) if r["iteration"] < resumed_at] if path.exists() else []
        self.file = lines.writer(path, kept)
        self.board = board(workdir)

    def write(self, iteration: int, values: dict[str, float]) -> None:
        """Not-a-number and infinities are written as null: JSON has no word for them."""
        if not self.writes:
            return
        values = {k: float(v) for k, v in values.items()}
        self.file.add(json.dumps({"iteration": iteration} | {k: v if math.isfinite(v) else None for k, v in values.items()}))
        if self.board is not None:
            self.aside(self.board.write_scalars, iteration, values)

    def close(self) -> None:
        if not self.writes:
            return
        self.file.close()
        if self.board is not None:
            self.board.close()

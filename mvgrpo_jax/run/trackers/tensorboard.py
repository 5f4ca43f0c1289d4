"""TensorBoard through clu. A picture has no caption there: it is written beneath it."""

from __future__ import annotations

import sys

import numpy as np

from mvgrpo_jax.run import pictures
from mvgrpo_jax.run.trackers.base import TITLE, Job, Picture

CELL = 224  # pixels of the longer side, of a picture with its caption


def begin(job: Job) -> Board | None:
    """None, with a warning that says why, where its libraries are not."""
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
    return Board(metric_writers.SummaryWriter(str(job.folder.local)))


class Board:
    def __init__(self, writer):
        self.writer = writer

    def numbers(self, iteration: int, values: dict[str, float]) -> None:
        self.writer.write_scalars(iteration, values)

    def pictures(self, iteration: int, shown: list[Picture]) -> None:
        sheets = {
            f"{TITLE}/{p.number:03d}": np.asarray(pictures.contact_sheet([[(p.image, p.caption)]], cell=CELL))[None]
            for p in shown
        }
        self.writer.write_images(iteration, sheets)

    def flush(self) -> None:
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()

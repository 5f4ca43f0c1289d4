"""What every tracker has: one method for numbers, one for pictures."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image

from mvgrpo_jax.run.trackers.folder import Folder

TITLE = "eval_images"  # flow_grpo's name of an evaluation's pictures


class Picture(NamedTuple):
    """number: of the held-out prompt. image: uint8 [H, W, 3]. caption: prompt and scores."""

    number: int
    image: np.ndarray
    caption: str

    @classmethod
    def of(cls, number: int, image: np.ndarray, caption: str, side: int) -> Picture:
        """A picture that is larger is brought to `side` pixels on its longer side."""
        if max(image.shape[:2]) > side:
            small = Image.fromarray(image)
            small.thumbnail((side, side), Image.Resampling.LANCZOS)
            image = np.asarray(small)
        return cls(number, image, caption)


class Job(NamedTuple):
    """What a tracker begins with. folder: for its files. project, name: under which a run is listed. offline: to keep files
    alone, which its own program sends later. config: flat. identity: Identity, by which it finds the run again."""

    folder: Folder
    project: str
    name: str
    offline: bool
    config: dict[str, Any]
    identity: Any


class Tracker(Protocol):
    """What `begin(job)` of a tracker's module returns, or None where it warned that it is off. Errors are what its client
    raises; the caller deals with them."""

    def numbers(self, iteration: int, values: dict[str, float]) -> None:
        """Finite metrics of an iteration. One that is trained again after a kill comes again."""

    def pictures(self, iteration: int, shown: list[Picture]) -> None:
        """Of an evaluation."""

    def flush(self) -> None:
        """Writes what is held back, before its files are copied."""

    def close(self) -> None: ...

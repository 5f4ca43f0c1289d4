"""The pictures of one pipeline in one folder: painted where they are missing, looked at, and read back to be judged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.evaluation import look, weights
from mvgrpo_jax.evaluation.job import Item, Job, share
from mvgrpo_jax.evaluation.ledger import Ledger
from mvgrpo_jax.evaluation.painter import Painter
from mvgrpo_jax.parallel import hosts
from mvgrpo_jax.run import pictures

LOOKS = "looks"  # the ledger of what is painted


class Side:
    """folder: of the evaluation. job: what is painted in it. own: whether this command paints and judges it; else it is another
    evaluation, which is only read. label: what tables call it, '' for its weights' name."""

    def __init__(self, folder: Path, job: Job, own: bool = True, label: str = ""):
        self.folder, self.job, self.own, self.name = folder, job, own, label or job.weights.name
        self.items = job.items
        self.looks = Ledger(folder, LOOKS)

    def missing(self) -> list[Item]:
        """The items of this process that are not painted: without a file, or not noted as finished."""
        known, there = self.looks.read(), {path.name for path in (self.folder / "pictures").glob("*.png")}
        return [item for item in share(self.items) if item.key not in known or Path(item.file).name not in there]

    def paint(self, batch: int) -> None:
        """Paints what is missing of this process's share; a picture is there when its line is. UserError when one cannot be
        written: what was painted until then stays."""
        self.looks.mend()
        if not (missing := self.missing()):
            return
        mine = len(share(self.items))
        mesh = weights.local_mesh(weights.networks(self.job.weights.described()), self.job.dtype)
        painter = Painter(self.job.weights.load(np.dtype(self.job.dtype), mesh), mesh, self.job, min(batch, len(missing)))
        with tqdm(total=mine, initial=mine - len(missing), desc=f"painting {self.name}", **bar_options()) as bar:
            for first in range(0, len(missing), painter.size):
                items = missing[first : first + painter.size]
                for item, image, finite in zip(items, *painter(items)):
                    pictures.save_png(image, self.folder / item.file, self._texts(item))
                    self.looks.add({item.key: look.measured(image, finite)})
                    bar.update()

    def _texts(self, item: Item) -> dict[str, object]:
        """What a picture's file says of it."""
        job = self.job
        return {
            "prompt": item.text,
            "seed": item.seed,
            "number": item.number,
            "steps": job.steps,
            "guidance": job.guidance,
            "pipeline": job.weights.name,
        }

    def batches(self, items: list[Item], size: int) -> Iterator[tuple[list[Item], np.ndarray]]:
        """(items, pictures uint8 [n, H, W, 3]) of at most `size` at a time."""
        for first in range(0, len(items), size):
            part = items[first : first + size]
            yield part, np.stack([read(self.folder / item.file) for item in part])


def read(path: Path) -> np.ndarray:
    """uint8 [H, W, 3]. UserError when it is missing or damaged."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise UserError(f"picture {path} cannot be read ({error}); delete it, and the same command paints it anew") from None


def bar_options() -> dict[str, Any]:
    """Of a progress bar: the first process of a job shows its own, the others' shares are as large."""
    return {"unit": "picture", "disable": not hosts.is_chief()}

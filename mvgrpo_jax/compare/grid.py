"""Pictures of the held-out prompts before training and after each run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mvgrpo_jax.compare.runs import Compared
from mvgrpo_jax.run import pictures

COLUMNS = 6
SAME = 2.0  # mean difference of pixels, of 255, to which two machines paint the same picture


class Ends(NamedTuple):
    """Of a run: the numbers of its first and its last evaluation with pictures, and those pictures by prompt, uint8."""

    first: int
    last: int
    before: dict[str, np.ndarray]
    after: dict[str, np.ndarray]


def ends(run: Compared) -> Ends | None:
    """None for a run that kept fewer than two evaluations' pictures."""
    stored = sorted((run.workdir / "eval").glob("*.npy"))
    if len(stored) < 2:
        return None
    prompts = json.loads((run.workdir / "eval" / "prompts.json").read_text())
    before, after = (dict(zip(prompts, pictures.load_array(path))) for path in (stored[0], stored[-1]))
    return Ends(int(stored[0].stem), int(stored[-1].stem), before, after)


def write(runs: list[Compared], path: Path, count: int = 16) -> str | None:
    """Draws of each prompt before, then after each run; the picture before stands beside each run's where they are not the
    same. Returns a sentence on which it is; None, and nothing is drawn, without a run that has pictures, or without a prompt
    that all of those have."""
    found = {run.name: end for run in runs if (end := ends(run))}
    if not found:
        return None
    prompts = [p for p in next(iter(found.values())).before if all(p in end.before for end in found.values())][:count]
    if not prompts:
        return None
    shared = same_noise(list(found.values()), prompts)
    cells = []
    for prompt in prompts:
        row = []
        for name, end in found.items():
            if not shared or not row:
                row.append((end.before[prompt], f"before: {prompt}" if not row else f"before {name}"))
            row.append((end.after[prompt], f"{name}, {end.last} iterations"))
        cells.append(row)
    beside = max(1, COLUMNS // len(cells[0]))  # prompts in a row
    rows = [sum(cells[i : i + beside], []) for i in range(0, len(cells), beside)]
    pictures.sheet(rows, path, cell=180, title="The same held-out prompts; each run's own noise is the same before and after")
    if len(found) == 1:
        return "The same prompts and noise before and after."
    if shared:
        return (
            "The same prompts and noise before and after every run: the pictures before training are the same in all of them."
        )
    return "The runs began with other pictures: of other noise or other weights. Compare each run's with those before it."


def same_noise(found: list[Ends], prompts: list[str]) -> bool:
    """Whether all runs were evaluated before training, and painted the same pictures then, up to rounding."""
    if any(end.first for end in found):
        return False
    for prompt in prompts:
        one, *others = (end.before[prompt].astype(np.float64) for end in found)
        if any(other.shape != one.shape or np.abs(other - one).mean() > SAME for other in others):
            return False
    return True

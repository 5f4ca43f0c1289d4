"""The groups of an iteration for people: a contact sheet, and a table of captions and rewards."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from mvgrpo_jax.rewards.means import mean
from mvgrpo_jax.run import pictures
from mvgrpo_jax.run.drawing import Samples
from mvgrpo_jax.run.iteration import Scores, Views


def draw(path: Path, number: int, samples: Samples, views: Views, scores: Scores) -> None:
    """The groups of the first branch that belong to this process: each picture with the caption of its view and its reward
    under the prompt. Beside the picture a JSON file has every caption of every branch and its mean reward over the group."""
    prompts, captions, by_judge = samples.prompts, views.captions, scores.by_judge
    table = []
    for v, p, r in np.ndindex(len(captions), len(prompts), len(samples.pictures)):
        means = {n: rounded(mean(s[v, p, r])) for n, s in by_judge.items() if v < len(s)}
        table.append({"prompt": prompts[p], "branch": r, "view": v, "caption": captions[v][p][r], "reward": means})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps({"iteration": number, "captions": table}, indent=1) + "\n")
    rows: dict[int, list] = {}
    for (p, g), image in sorted(samples.pictures[0].mine.items()):
        numbers = ", ".join(f"{n} {s[0, p, 0, g]:.2f}" for n, s in by_judge.items())
        view = captions[g + 1][p][0] if len(captions) > g + 1 else None  # view g + 1 describes sample g
        rows.setdefault(p, []).append((image, f"[{numbers}] {view or ''}"))
    shown = list(rows)[:4]
    titles = [f"prompt: {prompts[p]}" for p in shown]
    pictures.sheet([rows[p] for p in shown], path, titles=titles, title=f"iteration {number}", cell=96)


def rounded(score: float) -> float | None:
    """For JSON, which has no word for what is not a number."""
    return round(score, 5) if math.isfinite(score) else None

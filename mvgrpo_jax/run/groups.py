"""The groups of an iteration for people: a contact sheet, and a table of captions and rewards."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from mvgrpo_jax.run import pictures
from mvgrpo_jax.run.iteration import Samples, Scores, Views


def draw(path: Path, number: int, samples: Samples, views: Views, scores: Scores) -> None:
    """The groups of the first branch: each picture with the caption of its view and its reward under the prompt. Beside the
    picture a JSON file has every caption of every branch and its mean reward over the group."""
    prompts, images, captions, by_judge = samples.prompts, samples.images, views.captions, scores.by_judge
    rows, titles, table = [], [], []
    for v, p, r in np.ndindex(len(captions), len(prompts), images.shape[1]):
        means = {n: round(float(s[v, p, r].mean()), 5) for n, s in by_judge.items() if v < len(s)}
        table.append({"prompt": prompts[p], "branch": r, "view": v, "caption": captions[v][p][r], "reward": means})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps({"iteration": number, "captions": table}, indent=1) + "\n")
    for p, prompt in enumerate(prompts[:4]):
        titles.append(f"prompt: {prompt}")
        row = []
        for g in range(images.shape[2]):
            numbers = ", ".join(f"{n} {s[0, p, 0, g]:.2f}" for n, s in by_judge.items())
            view = captions[g + 1][p][0] if len(captions) > g + 1 else None  # view g + 1 describes sample g
            row.append((images[p, 0, g], f"[{numbers}] {view or ''}"))
        rows.append(row)
    pictures.sheet(rows, path, titles=titles, title=f"iteration {number}", cell=96)

"""Scores of picture files for people and for programs: a table, a JSON object, and notes on how pictures were read."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from mvgrpo_jax.rewards.means import mean

ROWS = 40  # of the table


def record(scores: dict[str, np.ndarray], images: list[Path], prompts: list[str]) -> dict[str, Any]:
    """What scores.json holds: {'judges': {name: scores}, 'images': paths, 'prompts': texts}. scores [N], or [N, prompts] of
    every pair. Scores that are not finite become None, since JSON has no NaN; one prompt is repeated for every picture."""
    in_order = all(s.ndim == 1 for s in scores.values())
    return {
        "judges": {name: np.where(np.isfinite(s), s.astype(object), None).tolist() for name, s in scores.items()},
        "images": [str(path) for path in images],
        "prompts": prompts * len(images) if in_order and len(prompts) == 1 else prompts,
    }


def notes(kinds: Counter[str]) -> list[str]:
    """Sentences on pictures that were not plain RGB, from `scoring.score`'s counts of what was done to them."""
    out = []
    if kinds["transparent"]:
        out.append(f"{kinds['transparent']} pictures have transparency and were laid over white")
    others = ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items()) if kind not in ("", "transparent"))
    return [*out, f"read as RGB: {others}"] if others else out


def table(scores: dict[str, np.ndarray], images: list[Path], prompts: list[str]) -> str:
    """A line a picture and prompt, at most ROWS, and the means. scores as in `record`, [N, prompts] in rows by picture."""
    pairs = list(np.ndindex(next(iter(scores.values())).shape))
    names = [path.name for path in images]
    name_width, prompt_width = _column(names, "picture", 30), _column(prompts, "prompt", 50)
    widths = [max(len(judge), 8) for judge in scores]

    def line(name: str, prompt: str, cells: list[str]) -> str:
        return f"{name:<{name_width}}  {prompt:<{prompt_width}}" + "".join(f"  {c:>{w}}" for c, w in zip(cells, widths))

    def numbers(values) -> list[str]:
        return [f"{value:.4f}" if np.isfinite(value) else "-" for value in values]

    lines = [line("picture", "prompt", list(scores))]
    for pair in pairs[:ROWS]:
        name, prompt = names[pair[0]], prompts[pair[-1] % len(prompts)]
        lines.append(line(_cut(name, name_width), _cut(prompt, prompt_width), numbers(s[pair] for s in scores.values())))
    if len(pairs) > ROWS:
        lines.append(f"... and {len(pairs) - ROWS} more")
    return "\n".join([*lines, line("mean", "", numbers(mean(s) for s in scores.values()))])


def _column(texts: list[str], title: str, widest: int) -> int:
    """Characters of a column."""
    return min(max(map(len, [*texts, title])), widest)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."

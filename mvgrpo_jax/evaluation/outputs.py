"""The files of a finished evaluation."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mvgrpo_jax.convert.files import atomic, write_json
from mvgrpo_jax.evaluation import page, results, table
from mvgrpo_jax.evaluation.results import Results


def write(ours: Results, theirs: Results | None, summary: dict[str, Any], shown: table.Table) -> None:
    """scores.jsonl, scores.csv, summary.json, the table in three forms, index.html, and pairs.csv beside another side."""
    folder = ours.side.folder
    scores_of(ours)
    write_json(folder / "summary.json", summary)
    _text(folder / "table.md", table.markdown(shown))
    _text(folder / "table.tex", table.latex(shown))
    _text(folder / "table.html", f'<!doctype html><meta charset="utf-8">\n{table.html_table(shown)}\n')
    _text(folder / "index.html", page.render(ours, theirs, summary, shown))
    if theirs:
        _csv(folder / "pairs.csv", results.pairs(ours, theirs), results.PAIR)


def scores_of(results: Results) -> None:
    """scores.jsonl, a line a picture, and scores.csv; a score that could not be had is null in one and empty in the other."""
    rows = list(records(results))
    _text(results.side.folder / "scores.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    flat = [{k: v for k, v in row.items() if k != "scores"} | row["scores"] for row in rows]
    _csv(results.side.folder / "scores.csv", flat, list(flat[0]))


def records(results: Results) -> Iterable[dict[str, Any]]:
    """Of every picture, by prompt and seed."""
    prompts, seeds = results.side.job.prompts, results.side.job.seeds
    for n, s in np.ndindex(len(prompts.texts), len(seeds)):
        number = prompts.numbers[n]
        yield {
            "picture": f"pictures/{number:05d}_{seeds[s]}.png",
            "number": number,
            "seed": seeds[s],
            "prompt": prompts.texts[n],
            "style": prompts.styles[n],
            "scores": {name: _plain(values[n, s]) for name, values in results.scores.items()},
            "brightness": float(results.brightness[n, s]),
            "saturation": float(results.saturation[n, s]),
        }


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _text(path: Path, text: str) -> None:
    with atomic(path) as part:
        part.write_text(text, encoding="utf-8")


def _csv(path: Path, rows: list[dict[str, Any]], fields: Sequence[str]) -> None:
    with atomic(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fields)
        writer.writeheader()
        writer.writerows(rows)

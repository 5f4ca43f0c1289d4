"""index.html: the table, what stands beside it, and every picture with its scores, to be searched and sorted. It works from
disk: data and script are in the page, pictures are read from the folders beside it as they come into view."""

from __future__ import annotations

import json
import os
import urllib.parse
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from mvgrpo_jax.evaluation import table
from mvgrpo_jax.evaluation.results import Results

TEMPLATE = Path(__file__).parent / "assets" / "page.html"
DIGITS = 4  # of a score


def render(ours: Results, theirs: Results | None, summary: dict[str, Any], shown: table.Table) -> str:
    template = jinja2.Template(TEMPLATE.read_text(encoding="utf-8"), autoescape=True)
    return template.render(
        title=ours.side.name + (f" against {theirs.side.name}" if theirs else ""),
        table=table.html_table(shown),
        rows=len(shown.rows),
        wins=_wins(summary),
        collapse=_collapse(summary),
        repeated=summary["collapse"].get("near_duplicates"),
        data=_inline(data(ours, theirs)),
    )


def data(ours: Results, theirs: Results | None) -> dict[str, Any]:
    """What the script reads. items: [number, seed, prompt, style, [scores of each side]] in the order of judges; sides: where
    pictures are, relative to the page, theirs first, since the base stands on the left."""
    sides = [*([theirs] if theirs else []), ours]
    judges, job = list(ours.scores), ours.side.job
    places = [os.path.relpath(side.side.folder, ours.side.folder) for side in sides]
    return {
        "judges": judges,
        "sides": [
            {"name": results.side.name, "folder": urllib.parse.quote(Path(place).as_posix())}
            for results, place in zip(sides, places, strict=True)
        ],
        "size": [job.width, job.height],
        "items": [
            [
                job.prompts.numbers[n],
                job.seeds[s],
                job.prompts.texts[n],
                job.prompts.styles[n],
                [[_rounded(results.scores[name][n, s]) for name in judges] for results in sides],
            ]
            for n, s in np.ndindex(len(job.prompts.texts), len(job.seeds))
        ],
    }


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), DIGITS)


def _inline(value: dict[str, Any]) -> str:
    """JSON that may stand in a <script>: nothing in it ends the element or begins a comment."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c").replace("\u2028", "\\u2028")


def _wins(summary: dict[str, Any]) -> list[list[str]]:
    """Of each judge its name, win rate, difference and number of pairs."""
    if "against" not in summary:
        return []
    judges = summary["against"]["judges"].items()
    return [[name, _shown(j["win_rate"], 100, 1, " %"), _shown(j["difference"], 1, 4), str(j["pairs"])] for name, j in judges]


def _collapse(summary: dict[str, Any]) -> list[list[str]]:
    """Of each figure its name, ours and theirs."""
    ours, theirs = summary["collapse"], summary.get("against", {}).get("collapse", {})
    rows = []
    for name, title in (
        ("brightness", "brightness"),
        ("saturation", "saturation"),
        ("pixel_distance", "distance of a prompt's pictures, pixels"),
        ("clip_distance", "distance of a prompt's pictures, CLIP"),
    ):
        if name in ours:
            rows.append([title, _shown(ours[name], 1, 4), _shown(theirs[name], 1, 4) if name in theirs else ""])
    if repeated := ours.get("near_duplicates"):
        share = lambda found: f"{100 * found['share']:.1f} %" if found else ""
        title = f"pictures that nearly repeat one of another prompt (CLIP cosine from {repeated['from']})"
        rows.append([title, share(repeated), share(theirs.get("near_duplicates"))])
    return rows


def _shown(estimate: dict[str, float | None], factor: float, digits: int, unit: str = "") -> str:
    if estimate["mean"] is None:
        return ""
    number = lambda name: f"{factor * estimate[name]:.{digits}f}"
    interval = "" if estimate["low"] is None else f" [{number('low')}, {number('high')}]"
    return f"{number('mean')}{unit}{interval}"

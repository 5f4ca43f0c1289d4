"""Which judge stands in which column of the paper's table, and what it is called in a caption."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from mvgrpo_jax.configuration.continuation import OF_JUDGES
from mvgrpo_jax.rewards import kinds


class Column(NamedTuple):
    """title: as in the paper. kind, settings: of a judge that belongs there. scale: what its scores are multiplied by."""

    title: str
    kind: str
    settings: dict[str, Any] = {}
    scale: float = 1.0


# Table 1 of arXiv 2603.12648, in its order.
PAPER = (
    Column("HPSv3", "hpsv3", {"scale": 1.0, "positions": "sequential"}, 0.01),
    Column("UR-v2 A", "unifiedreward", {"version": "v2", "use": "alignment", "scale": "points"}),
    Column("UR-v2 C", "unifiedreward", {"version": "v2", "use": "coherence", "scale": "points"}),
    Column("UR-v2 S", "unifiedreward", {"version": "v2", "use": "style", "scale": "points"}),
    Column("HPSv2", "hpsv2", {"scale": 1.0}),
    Column("CLIP", "clip", {"scale": 1.0}),
    Column("IR", "imagereward", {"scale": 1.0}),
    Column("UR-v1", "unifiedreward", {"version": "v1", "scale": "points"}),
)


def columns(judges: dict[str, dict[str, Any]]) -> dict[str, Column]:
    """The column of each judge, by its name, in the order of the table: the paper's first; a judge that is none of them, or the
    second one of a kind, has one of its own name. judges: settings with the kind (scoring.described)."""
    taken: dict[str, Column] = {}
    for column in PAPER:
        fitting = [name for name, settings in judges.items() if name not in taken and _fits(column, settings)]
        if fitting:
            taken[fitting[0]] = column
    return taken | {name: Column(name, settings["kind"]) for name, settings in judges.items() if name not in taken}


def _fits(column: Column, settings: dict[str, Any]) -> bool:
    if settings["kind"] != column.kind:
        return False
    own = kinds.defaults(column.kind) | settings
    return all(own.get(key, value) == value for key, value in column.settings.items())


def version(settings: dict[str, Any]) -> str:
    """A judge in a few words: its kind, its file, folder or model, and what was set otherwise than its kind has it."""
    kind = settings["kind"]
    known, place = kinds.defaults(kind), kinds.place(kind)
    words = [kind]
    if where := settings.get(place, known.get(place)):
        words.append(settings.get("model", known.get("model", "")) if isinstance(where, tuple) else Path(str(where)).name)
    skipped = {"kind", "model", "base", place} | OF_JUDGES
    words += [f"{key} {value}" for key, value in settings.items() if key not in skipped and value != known.get(key)]
    return ", ".join(word for word in words if word)

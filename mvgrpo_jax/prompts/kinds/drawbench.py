"""DrawBench, 200 prompts: a list of strings (HPDv2's benchmark/drawbench.json) or a table with the columns Prompts and
Category, which becomes the `tag`."""

from __future__ import annotations

from pathlib import Path

from mvgrpo_jax.prompts.kinds import hpdv2
from mvgrpo_jax.prompts.kinds.plain import prompts
from mvgrpo_jax.prompts.records import Record

PUBLISHED = {"DrawBench": 200}

__all__ = ["PUBLISHED", "fits", "prompts"]


def fits(path: Path, records: list[Record]) -> bool:
    first = records[0].value
    if isinstance(first, dict):
        return {"prompts", "category"} <= {name.lower() for name in first}
    return hpdv2.style_of(path) == "drawbench" and all(isinstance(record.value, str) for record in records)

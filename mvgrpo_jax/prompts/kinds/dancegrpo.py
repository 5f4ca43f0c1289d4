"""DanceGRPO's list (github.com/XueZeyue/DanceGRPO, assets/prompts.txt): a prompt a line, about 100,000."""

from __future__ import annotations

from pathlib import Path

from mvgrpo_jax.prompts.kinds.plain import prompts
from mvgrpo_jax.prompts.records import Record

FORM = "lines"

__all__ = ["FORM", "fits", "prompts"]


def fits(path: Path, records: list[Record]) -> bool:
    return path.name == "prompts.txt" and any(part.lower() == "dancegrpo" for part in path.resolve().parts)

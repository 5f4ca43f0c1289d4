"""PickScore's prompts as flow_grpo has them (dataset/pickscore/train.txt and test.txt): a prompt a line, with repeats, and with
some that are not safe for work, which a blocklist removes."""

from __future__ import annotations

from pathlib import Path

from mvgrpo_jax.prompts.kinds.plain import prompts
from mvgrpo_jax.prompts.records import Record

FORM = "lines"
PUBLISHED = {"train.txt": 25432, "test.txt": 2048}

__all__ = ["FORM", "PUBLISHED", "fits", "prompts"]


def fits(path: Path, records: list[Record]) -> bool:
    return path.suffix == ".txt" and path.resolve().parent.name.lower() == "pickscore"

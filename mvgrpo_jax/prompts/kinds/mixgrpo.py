"""MixGRPO's lists (github.com/Tencent-Hunyuan/MixGRPO, data/): prompts.txt to train on, and prompts_test.txt, the 400 of
HPDv2's test split in its order, so that their blocks of 100 have a style."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from mvgrpo_jax.prompts.kinds import hpdv2
from mvgrpo_jax.prompts.records import Prompt, Record, prompt_of

FORM = "lines"
PUBLISHED = {"prompts_test.txt": 400}


def fits(path: Path, records: list[Record]) -> bool:
    lines = all(record.where.startswith("line") and isinstance(record.value, str) for record in records)
    return lines and path.name == "prompts_test.txt" and len(records) == PUBLISHED[path.name]


def prompts(path: Path, records: list[Record], notes: Counter[str]) -> list[Prompt]:
    found = [prompt_of(record) for record in records]
    return hpdv2.with_styles(found, notes) if path.name == "prompts_test.txt" else found

"""Prompts for pictures with writing in them, as flow_grpo's (dataset/ocr/train.txt and test.txt): a prompt a line, whose first
text between double quotes is what is to be read in the picture, its `target`. A prompt without has none, and is counted."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from mvgrpo_jax.prompts.records import Prompt, Record, prompt_of

FORM = "lines"
PUBLISHED = {"test.txt": 1018}
QUOTED = re.compile(r'"([^"]*)"')


def fits(path: Path, records: list[Record]) -> bool:
    return path.suffix == ".txt" and (
        path.resolve().parent.name.lower() == "ocr" or "ocr" in re.split(r"\W|_", path.stem.lower())
    )


def prompts(path: Path, records: list[Record], notes: Counter[str]) -> Iterator[Prompt]:
    for record in records:
        prompt = prompt_of(record)
        found = QUOTED.search(prompt.text)
        target = found[1].strip() if found else ""
        notes["without a target: no text between double quotes"] += not target
        yield Prompt(prompt.text, prompt.metadata | ({"target": target} if target else {}))

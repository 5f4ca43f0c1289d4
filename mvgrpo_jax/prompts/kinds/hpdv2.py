"""HPDv2 (huggingface.co/datasets/ymhao/HPDv2): pairs to train on, and two sets of prompts to evaluate on.

train.json is a list of pairs {prompt, human_preference, file_path}; a prompt that several pairs share is read once, and
`pairs` counts them. test.json is a list of {prompt, image_path, rank, raw_annotations}: 400 prompts in blocks of 100, a style
each. benchmark/STYLE.json (or benchmark_STYLE.json) is a list of strings, 800 of each style, which the file's name gives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from mvgrpo_jax.prompts.records import Prompt, Record, Refused, checked, kind_of, listed, prompt_of, text_of

STYLES = ("anime", "concept-art", "paintings", "photo")
BLOCK = 100  # of a style in test.json
PUBLISHED = {"test.json": len(STYLES) * BLOCK, "a file of benchmark/": 800}
PAIR, RANKED = ("prompt", "human_preference", "file_path"), ("prompt", "image_path", "rank")


def fits(path: Path, records: list[Record]) -> bool:
    texts = all(isinstance(record.value, str) for record in records)
    return records[0].has(*PAIR) or records[0].has(*RANKED) or (texts and style_of(path) in STYLES)


def style_of(path: Path) -> str:
    """What a benchmark's name says: 'photo' of photo.json and of benchmark_photo.json."""
    return path.stem.removeprefix("benchmark_") if path.suffix.lower() == ".json" else ""


def prompts(path: Path, records: list[Record], notes: Counter[str]) -> Iterator[Prompt]:
    first = records[0]
    if isinstance(first.value, str):
        return _benchmark(path, records)
    if first.has(*PAIR):
        return _train(records, notes)
    if first.has(*RANKED):
        return _test(records, notes)
    found = listed(first.value) if isinstance(first.value, dict) else kind_of(first.value)
    raise Refused(
        f"{first.where} is no record of HPDv2; expected the fields {listed(PAIR)} (train.json), {listed(RANKED)} (test.json), "
        f"or a list of strings (benchmark); found: {found}"
    )


def _train(records: list[Record], notes: Counter[str]) -> Iterator[Prompt]:
    pairs = Counter(_text(record) for record in records)
    notes["pairs of a prompt that another pair has, read once"] += len(records) - len(pairs)
    return (Prompt(text, {"pairs": count}) for text, count in pairs.items())


def _text(record: Record) -> str:
    if not isinstance(record.value, dict):
        raise Refused(f"{record.where} is {kind_of(record.value)}, where the others are pairs")
    return text_of(record, "prompt")


def _test(records: list[Record], notes: Counter[str]) -> Iterator[Prompt]:
    styled = with_styles([prompt_of(record, "prompt") for record in records], notes)
    for prompt in styled:
        yield Prompt(prompt.text, {k: v for k, v in prompt.metadata.items() if k != "raw_annotations"})


def with_styles(found: list[Prompt], notes: Counter[str]) -> list[Prompt]:
    """The prompts of the test split with the style that their block of 100 has; as they are where they are not 400."""
    if len(found) != len(STYLES) * BLOCK:
        notes[f"without a style, which only {len(STYLES) * BLOCK} prompts in blocks of {BLOCK} have"] += len(found)
        return found
    return [Prompt(prompt.text, {"style": STYLES[i // BLOCK]} | prompt.metadata) for i, prompt in enumerate(found)]


def _benchmark(path: Path, records: list[Record]) -> Iterator[Prompt]:
    style = style_of(path)
    for record in records:
        yield Prompt(checked(record.value, record.where), {"style": style} if style else {})

"""What an evaluation paints and how: prompts x seeds under one setting. What may not change between a run and its next."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from mvgrpo_jax.configuration.continuation import OF_JUDGES
from mvgrpo_jax.convert.files import read_json, write_json
from mvgrpo_jax.core.seeds import SEEDS
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.evaluation.prompt_set import PromptSet
from mvgrpo_jax.evaluation.weights import Weights

SETTINGS = "settings.json"
WEIGHTS = ("pipeline", "weights", "lora", "lora_sha256", "workdir", "step", "best")  # what may differ from a base
PLACES = ("pipeline", "lora")  # compared by what is there


@dataclasses.dataclass(frozen=True)
class Item:
    """A picture: the prompt's number in its set, its text and style, and the seed of its noise."""

    number: int
    seed: int
    text: str
    style: str = ""

    @property
    def key(self) -> str:
        return f"{self.number:05d}_{self.seed}"

    @property
    def file(self) -> str:
        """Its place in the folder of the evaluation."""
        return f"pictures/{self.key}.png"


@dataclasses.dataclass(frozen=True)
class Job:
    """seeds: of the noise of each prompt's pictures. height, width: pixels. dtype: its name, of weights and arithmetic.
    length: T5 tokens of a prompt."""

    weights: Weights
    prompts: PromptSet
    seeds: range
    steps: int
    guidance: float
    height: int
    width: int
    dtype: str
    length: int

    @property
    def items(self) -> list[Item]:
        """In the order of painting: every prompt under the first seed, then under the next."""
        p = self.prompts
        return [Item(*row[:1], seed, *row[1:]) for seed in self.seeds for row in zip(p.numbers, p.texts, p.styles, strict=True)]

    def facts(self) -> dict[str, Any]:
        """Everything that a picture depends on, as JSON has it."""
        p, first = self.prompts, self.seeds[0]
        prompts = {"prompts": p.name, "prompts_sha256": p.sha256, "first": p.numbers[0], "count": len(p.texts)}
        noise = {"seed": first, "seeds": len(self.seeds)}
        names = ("steps", "guidance", "height", "width", "dtype", "length")
        return self.weights.facts() | prompts | noise | {name: getattr(self, name) for name in names}


def seeds(first: int, count: int) -> range:
    """`count` seeds from `first` on. UserError beyond 64 bits."""
    if first + count > SEEDS:
        raise UserError(f"--seed {first} --seeds {count}: the last seed is beyond {SEEDS - 1}; lower one of them")
    return range(first, first + count)


def share(items: Sequence) -> Sequence:
    """This process's part of all items."""
    return items[jax.process_index() :: jax.process_count()]


def claim(folder: Path, facts: dict[str, Any], judges: dict[str, dict]) -> None:
    """Records what a folder holds. UserError where it holds another evaluation, or another judge under the same name; a further
    judge is added."""
    path, known = folder / SETTINGS, {}
    if path.exists():
        there = read_json(path)
        known = there.get("judges", {})
        lines = differences(there, facts, PLACES) + [
            f"judge {name}: {line}"
            for name in known.keys() & judges.keys()
            for line in differences(known[name], judges[name], OF_JUDGES)
        ]
        if lines:
            listed = "\n  ".join(lines)
            raise UserError(f"{folder} holds another evaluation:\n  {listed}\nchoose another --out, or give the same settings")
    write_json(path, facts | {"judges": known | judges})


def differences(old: dict, new: dict, free: Sequence[str] = ()) -> list[str]:
    """A line for each setting that differs, but for those that are free."""
    keys = sorted((old.keys() | new.keys()) - {"judges", *free})
    shown = lambda settings, key: repr(settings[key]) if key in settings else "not set"
    same = lambda key: _plain(old.get(key)) == _plain(new.get(key))
    return [f"{key}: {shown(old, key)} there, {shown(new, key)} now" for key in keys if not same(key)]


def _plain(value: Any) -> Any:
    """As JSON has it, which knows no tuples."""
    return list(value) if isinstance(value, tuple) else value

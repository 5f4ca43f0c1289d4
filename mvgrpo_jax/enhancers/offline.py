"""The offline enhancer: training reads captions that were written before it.

The file has a JSON line a prompt:
{"prompt": ..., "captions": [{"text": ..., "operation": "addition|deletion|rewriting"}, ...]}.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np

from mvgrpo_jax.enhancers.base import Pictures
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.prompts import text_files
from mvgrpo_jax.prompts.selection import folded


def read_captions(path: str | Path) -> dict[str, list[str]]:
    """Prompt -> captions, from a file that the enhance command wrote. UserError when it is missing or damaged."""
    if not path or not Path(path).exists():
        raise UserError(
            f"config.views.file {str(path)!r} does not exist; write it with python -m mvgrpo_jax.enhance "
            "--prompts FILE --out FILE"
        )
    table = {}
    expected = "expected JSON lines as python -m mvgrpo_jax.enhance writes them"
    for number, line in enumerate(text_files.read(Path(path), "config.views.file", expected).split("\n"), 1):
        if not line:
            continue
        try:
            item = json.loads(line)
            texts = [c["text"] for c in item["captions"]]
            if not isinstance(item["prompt"], str) or not all(isinstance(t, str) for t in texts):
                raise TypeError
            table[item["prompt"]] = texts
        except (json.JSONDecodeError, KeyError, TypeError):
            raise UserError(
                f'{path}, line {number}: expected {{"prompt": ..., "captions": [{{"text": ...}}]}}, found {line[:80]!r}'
            ) from None
    return table


def join(table: dict[str, list[str]], prompts: list[str]) -> dict[str, list[str]]:
    """Prompt -> captions of the prompts that have some: those of the same text, else of one that differs in case and white
    space alone."""
    alike = {folded(prompt): captions for prompt, captions in reversed(table.items()) if captions}
    found = {prompt: table.get(prompt) or alike.get(folded(prompt), []) for prompt in prompts}
    return {prompt: captions for prompt, captions in found.items() if captions}


def coverage(path: str | Path, prompts: list[str]) -> str:
    """A sentence on how many prompts have captions in a file. UserError as read_captions."""
    table = read_captions(path)
    joined = join(table, prompts)
    without = [prompt for prompt in prompts if prompt not in joined]
    counts = sorted(map(len, joined.values())) or [0]
    line = f"captions: {len(joined)} of {len(prompts)} prompts have some in {path}, {counts[0]} to {counts[-1]} each"
    return line + (f"; {len(without)} have none, such as {without[0]!r}" if without else "")


class FileEnhancer:
    """Captions from a file written before training: K of a prompt's, drawn anew at each iteration."""

    eager = False

    def __init__(self, table: dict[str, list[str]], count: int, seed: int):
        self.table, self.count, self.seed = table, count, seed

    @classmethod
    def load(cls, path: str, count: int, seed: int, prompts: list[str]) -> FileEnhancer:
        """UserError when the file is missing or damaged, or lacks a prompt of `prompts`."""
        table = join(read_captions(path), prompts)
        missing = [p for p in prompts if p not in table]
        if missing:
            raise UserError(
                f"{path} has no captions for {len(missing)} of {len(prompts)} training prompts, such as {missing[0]!r}; "
                "run python -m mvgrpo_jax.enhance on the same prompts with the same --out, which does those that are missing"
            )
        return cls(table, count, seed)

    def known(self) -> list[str]:
        return [text for texts in self.table.values() for text in texts]

    def begin(self, iteration: int, prompts: list[str], branches: int, group: int) -> FileSession:
        del branches, group
        return FileSession(self, iteration, prompts)

    def log(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        pass


@dataclasses.dataclass
class FileSession:
    """Needs no pictures."""

    enhancer: FileEnhancer
    iteration: int
    prompts: list[str]

    def add(self, branch: int, images: Pictures) -> None:
        pass

    def captions(self, branch: int) -> list[list[str | None]]:
        """The same for every branch."""
        enhancer = self.enhancer
        out: list[list[str | None]] = [[] for _ in range(enhancer.count)]
        for p, prompt in enumerate(self.prompts):
            rng = np.random.default_rng([enhancer.seed, 17, self.iteration, p])
            known = enhancer.table[prompt]
            picks = [known[i] for i in rng.permutation(len(known))[: enhancer.count]]
            for k in range(enhancer.count):  # with fewer captions than K the rest of the views is masked
                out[k].append(picks[k] if k < len(picks) else None)
        return out

    def finish(self) -> None:
        pass

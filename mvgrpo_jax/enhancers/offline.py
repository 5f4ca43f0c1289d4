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


def read_captions(path: str | Path) -> dict[str, list[str]]:
    """Prompt -> captions, from a file that the enhance command wrote. UserError when it is missing or damaged."""
    if not path or not Path(path).exists():
        raise UserError(
            f"config.views.file {str(path)!r} does not exist; write it with python -m mvgrpo_jax.enhance "
            "--prompts FILE --out FILE"
        )
    table = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8-sig").split("\n"), 1):
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


class FileEnhancer:
    """Captions from a file written before training: K of a prompt's, drawn anew at each iteration."""

    eager = False

    def __init__(self, table: dict[str, list[str]], count: int, seed: int):
        self.table, self.count, self.seed = table, count, seed

    @classmethod
    def load(cls, path: str, count: int, seed: int, prompts: list[str]) -> FileEnhancer:
        """UserError when the file is missing or damaged, or lacks a prompt of `prompts`."""
        table = read_captions(path)
        missing = [p for p in prompts if not table.get(p)]
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

"""The offline enhancer: prompts are rewritten before training, into a file that training reads.

Three operations, drawn at random: addition of details, deletion of details, rewriting in other words. A memory of what
was already produced for a prompt prevents repeats. The file has a JSON line a prompt:
{"prompt": ..., "captions": [{"text": ..., "operation": "addition|deletion|rewriting"}, ...]}.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import hashlib
import json
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import numpy as np
from rapidfuzz import fuzz

from mvgrpo_jax.core.structs import Captions
from mvgrpo_jax.enhancers.rewriters import OPERATIONS, Rewriter
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.services import Failure

ATTEMPTS = 30  # tries for one caption before the prompt is given up as exhausted


@dataclasses.dataclass
class Enhanced:
    """What was written for a prompt. similar: of each caption, its similarity to the nearest of the prompt and the captions
    before it. refused: near repeats. failure: why the service did not answer; such a prompt is not finished."""

    prompt: str
    captions: list[dict[str, str]] = dataclasses.field(default_factory=list)
    similar: list[float] = dataclasses.field(default_factory=list)
    refused: int = 0
    failure: Failure | None = None


def canonical(text: str) -> str:
    return " ".join(text.lower().split())


def similarity(a: str, b: str) -> float:
    """1 for equal texts, case and spaces aside: 1 - insertions and deletions between them / length of both."""
    return fuzz.ratio(canonical(a), canonical(b)) / 100


async def enhance_prompt(prompt: str, rewriter: Rewriter, count: int, seed: int, limit: float) -> Enhanced:
    """Up to `count` captions, each less similar than `limit` to the prompt and to the others. The draws depend on the seed
    and the prompt alone, whatever else is in the file."""
    digest = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8])
    rng = np.random.default_rng([seed, 13, digest])
    out = Enhanced(prompt)
    memory = [prompt]
    while len(out.captions) < count:
        for _ in range(ATTEMPTS):
            operation = str(rng.choice(OPERATIONS))
            try:
                text = await rewriter.rewrite(prompt, operation, memory, rng)
            except Failure as failure:
                if failure.reason == "rejected":  # the model answers, but not usably: another operation may do
                    continue
                out.failure = failure
                return out
            if text is None:
                continue
            nearest = max(similarity(text, known) for known in memory)
            if nearest < limit:
                break
            out.refused += 1
        else:
            break
        memory.append(text)
        out.captions.append({"text": text, "operation": operation})
        out.similar.append(nearest)
    return out


async def enhance_prompts(
    prompts: Iterable[str], rewriter: Rewriter, count: int, seed: int, *, limit: float = 1.0, in_flight: int = 1
) -> AsyncIterator[Enhanced]:
    """Each prompt's captions as they are finished, `in_flight` prompts at a time."""
    waiting: collections.deque[str] = collections.deque(prompts)
    running: set[asyncio.Task] = set()
    try:
        while waiting or running:
            while waiting and len(running) < in_flight:
                running.add(asyncio.create_task(enhance_prompt(waiting.popleft(), rewriter, count, seed, limit)))
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                yield task.result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def read_captions(path: str | Path) -> dict[str, list[str]]:
    """Prompt -> captions, from a file that the enhance command wrote. UserError when it is missing or damaged."""
    if not path or not Path(path).exists():
        raise UserError(
            f"config.views.file {str(path)!r} does not exist; write it with python -m mvgrpo_jax.enhance "
            "--prompts FILE --out FILE"
        )
    table = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").split("\n"), 1):
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
                "run python -m mvgrpo_jax.enhance on the same prompts"
            )
        return cls(table, count, seed)

    def known(self) -> list[str]:
        return [text for texts in self.table.values() for text in texts]

    def begin(self, iteration: int, prompts: list[str], branches: int) -> FileSession:
        return FileSession(self, iteration, prompts, branches)

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
    branches: int

    def add(self, branch: int, images: np.ndarray) -> None:
        pass

    def collect(self) -> Captions:
        own = self.enhancer
        out: Captions = [[] for _ in range(own.count)]
        for p, prompt in enumerate(self.prompts):
            rng = np.random.default_rng([own.seed, 17, self.iteration, p])
            known = own.table[prompt]
            picks = [known[i] for i in rng.permutation(len(known))[: own.count]]
            for k in range(own.count):  # with fewer captions than K the rest of the views is masked
                out[k].append([picks[k] if k < len(picks) else None] * self.branches)
        return out

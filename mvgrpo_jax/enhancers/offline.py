"""The offline enhancer: prompts are rewritten before training, into a file that training reads.

Three operations, drawn at random: addition of details, deletion of details, rewriting in other words. A memory of what
was already produced for a prompt prevents repeats. The file has a JSON line a prompt:
{"prompt": ..., "captions": [{"text": ..., "operation": "addition|deletion|rewriting"}, ...]}.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.rewards.base import Captions
from mvgrpo_jax.world import captions as words
from mvgrpo_jax.world.scene import BACKGROUNDS, COLORS, PLACES, SIZES, Scene, Thing

OPERATIONS = ("addition", "deletion", "rewriting")
ATTEMPTS = 30  # tries for one caption before the prompt is given up as exhausted


class Rewriter(Protocol):
    """rewrite(prompt, operation, memory, rng) -> a new caption, or None where the operation cannot be applied."""

    def rewrite(self, prompt: str, operation: str, memory: list[str], rng: np.random.Generator) -> str | None: ...


class WorldRewriter:
    """The three operations on the embedded world's grammar."""

    def rewrite(self, prompt: str, operation: str, memory: list[str], rng: np.random.Generator) -> str | None:
        scene = words.read(prompt)
        if not scene.stated():
            return None
        if operation == "addition":
            changed = self._add(scene, rng)
        elif operation == "deletion":
            changed = self._delete(scene, rng)
        else:
            order = rng.permutation(len(scene.things))
            changed = dataclasses.replace(scene, things=tuple(scene.things[i] for i in order))
            return words.reword(words.write(changed), rng, 0.7)
        return None if changed is None else words.write(changed)

    def _add(self, scene: Scene, rng) -> Scene | None:
        """States one or two attributes that the prompt leaves open, consistently with what it says."""
        before = scene
        for _ in range(int(rng.integers(1, 3))):
            open_slots = [
                (i, k) for i, t in enumerate(scene.things) for k in ("color", "size", "place") if getattr(t, k) is None
            ]
            open_slots += [(None, "background")] * (scene.background is None)
            if not open_slots:
                break
            index, name = open_slots[rng.integers(len(open_slots))]
            used_colors = {t.color for t in scene.things} | {scene.background}
            if index is None:
                value = str(rng.choice([b for b in BACKGROUNDS if b not in used_colors]))
                scene = dataclasses.replace(scene, background=value)
                continue
            taken = {t.place for t in scene.things}
            choices = {
                "color": [c for c in COLORS if c not in used_colors],
                "size": list(SIZES),
                "place": [p for p in PLACES if p not in taken],
            }[name]
            thing = dataclasses.replace(scene.things[index], **{name: str(rng.choice(choices))})
            scene = dataclasses.replace(scene, things=(*scene.things[:index], thing, *scene.things[index + 1 :]))
        return None if scene == before else scene

    def _delete(self, scene: Scene, rng) -> Scene | None:
        """Drops one or two attributes, keeping at least one."""
        for _ in range(int(rng.integers(1, 3))):
            if scene.stated() <= 1:
                return None
            slots = [(i, k) for i, t in enumerate(scene.things) for k in t.stated()]
            slots += [(None, "background")] * (scene.background is not None)
            slots += [(None, "count")] * (scene.count is not None)
            index, name = slots[rng.integers(len(slots))]
            if index is None:
                scene = dataclasses.replace(scene, **{name: None})
                continue
            left = {k: v for k, v in scene.things[index].stated().items() if k != name}
            thing = (Thing(**left),) if left else ()
            scene = dataclasses.replace(scene, things=(*scene.things[:index], *thing, *scene.things[index + 1 :]))
        return scene


def enhance_prompts(
    prompts: Iterable[str], rewriter: Rewriter, count: int, seed: int
) -> Iterator[tuple[str, list[dict[str, str]], int]]:
    """For each prompt, up to `count` captions that differ from it and from each other (case and spaces aside), each
    {'text', 'operation'}, and how many repeats the memory refused."""
    for number, prompt in enumerate(prompts):
        rng = np.random.default_rng([seed, 13, number])
        memory, found, refused = [prompt], [], 0
        while len(found) < count:
            for _ in range(ATTEMPTS):
                operation = str(rng.choice(OPERATIONS))
                text = rewriter.rewrite(prompt, operation, memory, rng)
                if text is None:
                    continue
                if canonical(text) not in map(canonical, memory):
                    break
                refused += 1
            else:
                break
            memory.append(text)
            found.append({"text": text, "operation": operation})
        yield prompt, found, refused


def canonical(text: str) -> str:
    return " ".join(text.lower().split())


class FileEnhancer:
    """Captions from a file written before training: K of a prompt's, drawn anew at each iteration."""

    def __init__(self, table: dict[str, list[str]], count: int, seed: int):
        self.table, self.count, self.seed = table, count, seed

    @classmethod
    def load(cls, path: str, count: int, seed: int, prompts: list[str]) -> FileEnhancer:
        """UserError when the file is missing or damaged, or lacks a prompt of `prompts`."""
        if not path or not Path(path).exists():
            raise UserError(
                f"config.views.file {path!r} does not exist; write it with python -m mvgrpo_jax.enhance "
                "--prompts FILE --out FILE"
            )
        table = {}
        for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
            try:
                item = json.loads(line)
                table[item["prompt"]] = [c["text"] for c in item["captions"]]
            except (json.JSONDecodeError, KeyError, TypeError):
                raise UserError(
                    f'{path}, line {number}: expected {{"prompt": ..., "captions": [{{"text": ...}}]}}, found {line[:80]!r}'
                ) from None
        missing = [p for p in prompts if not table.get(p)]
        if missing:
            raise UserError(
                f"{path} has no captions for {len(missing)} of {len(prompts)} training prompts, such as {missing[0]!r}; "
                "run python -m mvgrpo_jax.enhance on the same prompts"
            )
        return cls(table, count, seed)

    def known(self) -> list[str]:
        return [text for texts in self.table.values() for text in texts]

    def enhance(self, iteration: int, prompts: list[str], images: np.ndarray) -> Captions:
        out: Captions = [[] for _ in range(self.count)]
        for p, prompt in enumerate(prompts):
            rng = np.random.default_rng([self.seed, 17, iteration, p])
            known = self.table[prompt]
            picks = [known[i] for i in rng.permutation(len(known))[: self.count]]
            for k in range(self.count):  # with fewer captions than K the rest of the views is masked
                out[k].append([picks[k] if k < len(picks) else None] * images.shape[1])
        return out

"""The prompts of an evaluation: of a file, or held-out ones of the embedded world, each with its number and its style."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.nano.prompts import EMBEDDED, embedded_prompts
from mvgrpo_jax.prompts import Prompt, loading, reading

COUNT = 64  # of the embedded world's prompts where no number is asked for


@dataclasses.dataclass(frozen=True)
class PromptSet:
    """name: the file's, or of EMBEDDED. numbers: of each prompt in the whole set, from 0, whatever part of it is taken.
    styles: '' where a prompt has none. records: what the file says of prompts beside their texts, by these."""

    name: str
    numbers: range
    texts: tuple[str, ...]
    styles: tuple[str, ...]
    records: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict, compare=False)

    @property
    def sha256(self) -> str:
        """Of the texts in their order."""
        return hashlib.sha256(json.dumps(self.texts).encode()).hexdigest()


def read(source: str, first: int = 0, count: int | None = None) -> PromptSet:
    """`count` prompts (None: all of a file, COUNT embedded ones) after the first `first`. UserError where none are left, and as
    prompts.read."""
    if source in EMBEDDED:
        texts = embedded_prompts(first + (count or COUNT), held_out=True, things=EMBEDDED[source])
        prompts = [Prompt(text) for text in texts]
    else:
        prompts = reading.read(source)
    chosen = prompts[first:][:count]
    if not chosen:
        raise UserError(f"--first {first}: {source} has no prompts after it, it has {len(prompts)}")
    styles = tuple(str(prompt.metadata.get("style") or "") for prompt in chosen)
    name = source if source in EMBEDDED else Path(source).name
    texts = tuple(prompt.text for prompt in chosen)
    return PromptSet(name, range(first, first + len(chosen)), texts, styles, loading.records(chosen))

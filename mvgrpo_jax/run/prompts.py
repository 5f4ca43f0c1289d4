"""Prompts: of a file, or the embedded world's, served by grain in an order that resumes exactly."""

from __future__ import annotations

from pathlib import Path

import grain.python as grain
import numpy as np

from mvgrpo_jax.core import seeds
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.nano.prompts import EMBEDDED, embedded_prompts
from mvgrpo_jax.run import prompt_files


def read_prompts(path: str | Path) -> list[str]:
    """The texts of a prompt file, in its order. UserError as prompt_files.read."""
    return [prompt.text for prompt in prompt_files.read(path)]


def load_prompts(source: str, count: int, *, held_out: bool) -> list[str]:
    """Prompts from a name of EMBEDDED (the embedded world) or from a file; at most `count` (0: all of a file).
    UserError: a negative count, or as prompt_files.read."""
    if count < 0:
        raise UserError(f"the number of prompts to take from {source} must be at least 0 (0: all), got {count}")
    if source in EMBEDDED:
        return embedded_prompts(count, held_out=held_out, things=EMBEDDED[source])
    texts = read_prompts(source)
    return texts[:count] if count else texts


def stream(texts: list[str], batch: int, seed: int) -> grain.DatasetIterator:
    """An endless iterator over shuffled batches [batch] of prompt texts; get_state and set_state resume it exactly.

    UserError: a batch that is not positive or larger than the number of texts, or a seed outside 64 bits.
    """
    if batch < 1:
        raise UserError(f"config.prompts_per_iteration must be at least 1, got {batch}")
    if len(texts) < batch:
        raise UserError(
            f"config.prompts_per_iteration is {batch}, but there are only {len(texts)} training prompts; "
            "lower it or give more prompts"
        )
    if not 0 <= seed < seeds.SEEDS:
        raise UserError(f"config.seed: expected a seed from 0 to {seeds.SEEDS - 1}, got {seed}")
    dataset = grain.MapDataset.source(texts).seed(seed).shuffle().repeat()
    # grain takes an endless dataset as sys.maxsize long and divides in floating point: by 1 that is 2^63, no length any more.
    dataset = dataset.map(lambda text: np.asarray([text])) if batch == 1 else dataset.batch(batch)
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)))

"""Batches of prompts, served by grain in an order that resumes exactly.

The order depends on the prompts and the seed alone: every process of a run draws the same batch of all its prompts, and the
devices share them out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import grain.python as grain
import numpy as np

from mvgrpo_jax.core import seeds
from mvgrpo_jax.errors import UserError


def stream(texts: list[str], batch: int, seed: int, shares: Sequence[tuple[int, float]] = ()) -> grain.DatasetIterator:
    """An endless iterator over shuffled batches [batch] of prompt texts; get_state and set_state resume it exactly.

    shares: of a mixture, (number of texts, weight) of each source in the order of texts; draws are spread evenly, so that any
    stretch of them has each source's part to within one draw, and each source is gone through by itself. Parts are kept to 1 %
    of the smallest weight. Empty: all texts are drawn alike.

    UserError: a batch that is not positive or larger than the number of texts (in a mixture, a source's part of it larger than
    the source), or a seed outside 64 bits.
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
    dataset = _mixture(texts, batch, seed, shares) if shares else _endless(texts, seed)
    # grain takes an endless dataset as sys.maxsize long and divides in floating point: by 1 that is 2^63, no length any more.
    dataset = dataset.map(lambda text: np.asarray([text])) if batch == 1 else dataset.batch(batch)
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)))


def _endless(texts: list[str], seed: int) -> grain.MapDataset:
    return grain.MapDataset.source(texts).seed(seed).shuffle().repeat()


def _mixture(texts: list[str], batch: int, seed: int, shares: Sequence[tuple[int, float]]) -> grain.MapDataset:
    weights, sources, first = [weight for _, weight in shares], [], 0
    for number, (size, weight) in enumerate(shares):
        drawn = math.ceil(batch * weight / sum(weights))
        if drawn > size:
            raise UserError(
                f"config.prompts.train: source {number + 1} of the mixture has {size} prompts, and its weight gives it {drawn} "
                f"of the {batch} of an iteration; lower its weight or config.prompts_per_iteration"
            )
        own = seed if number == 0 else int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0])
        sources.append(_endless(texts[first : first + size], own))
        first += size
    return grain.MapDataset.mix(sources, weights)

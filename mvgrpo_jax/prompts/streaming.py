"""Batches of prompts, served by grain in an order that resumes exactly.

The order depends on the prompts and the seed alone: every process of a run draws the same batch of all its prompts, and the
devices share them out.
"""

from __future__ import annotations

import hashlib
import math

import grain.python as grain
import numpy as np

from mvgrpo_jax.core import seeds
from mvgrpo_jax.errors import UserError

# Of a mixture: (number of prompts, weight) of each source, in the order of the prompts. Empty: all prompts are drawn alike.
Shares = tuple[tuple[int, float], ...]


def stream(texts: list[str], batch: int, seed: int, shares: Shares = ()) -> grain.DatasetIterator:
    """An endless iterator over shuffled batches [batch] of prompt texts; get_state and set_state resume it exactly.

    Of a mixture any stretch of draws has each source's part to within one draw, to 1 % of the smallest weight, and each source
    is gone through by itself. UserError: as `check`, or a seed outside 64 bits.
    """
    check(len(texts), batch, shares)
    if not 0 <= seed < seeds.SEEDS:
        raise UserError(f"config.seed: expected a seed from 0 to {seeds.SEEDS - 1}, got {seed}")
    dataset = _mixture(texts, seed, shares) if shares else _endless(texts, seed)
    # grain takes an endless dataset as sys.maxsize long and divides in floating point: by 1 that is 2^63, no length any more.
    dataset = dataset.map(lambda text: np.asarray([text])) if batch == 1 else dataset.batch(batch)
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)))


def check(count: int, batch: int, shares: Shares = ()) -> None:
    """UserError: a batch that is not positive or larger than the number of prompts, or whose part of a source is larger than
    the source."""
    if batch < 1:
        raise UserError(f"config.prompts_per_iteration must be at least 1, got {batch}")
    if count < batch:
        raise UserError(
            f"config.prompts_per_iteration is {batch}, but there are only {count} training prompts; lower it or give more "
            "prompts"
        )
    total = sum(weight for _, weight in shares)
    for number, (size, weight) in enumerate(shares, 1):
        if (drawn := math.ceil(batch * weight / total)) > size:
            raise UserError(
                f"config.prompts.train: source {number} of the mixture has {size} prompts, and by its weight gives {drawn} of "
                f"the {batch} of an iteration; lower its weight or config.prompts_per_iteration"
            )


def digest(texts: list[str]) -> str:
    """Tells lists of prompts apart: the order of a stream means nothing for another list."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def _endless(texts: list[str], seed: int) -> grain.MapDataset:
    return grain.MapDataset.source(texts).seed(seed).shuffle().repeat()


def _mixture(texts: list[str], seed: int, shares: Shares) -> grain.MapDataset:
    sources, first = [], 0
    for number, (size, _) in enumerate(shares):
        own = np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0]
        sources.append(_endless(texts[first : first + size], int(own)))
        first += size
    return grain.MapDataset.mix(sources, [weight for _, weight in shares])

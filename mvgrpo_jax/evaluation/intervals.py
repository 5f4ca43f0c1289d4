"""Means of scores over prompts, with bootstrap intervals. Scores that could not be had are not-a-number and do not count."""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import numpy as np
from scipy import stats

RESAMPLES, LEVEL = 9999, 0.95


class Estimate(NamedTuple):
    """mean; low, high: the percentile bootstrap's interval, not-a-number for fewer than two prompts. stderr: the deviation over
    the root of the number. prompts: how many have a value."""

    mean: float
    low: float
    high: float
    stderr: float
    prompts: int

    def scaled(self, factor: float) -> Estimate:
        return Estimate(*(factor * x for x in self[:4]), self.prompts)

    def as_json(self) -> dict[str, float | None]:
        """None for not-a-number, which JSON lacks."""
        return {name: None if math.isnan(value) else value for name, value in self._asdict().items()}


def of_prompts(values: np.ndarray) -> np.ndarray:
    """[P]: the mean of each prompt's values [P, S] over its seeds, not-a-number where it has none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of rows without a number
        return np.nanmean(np.asarray(values, np.float64), axis=1)


def estimate(values: np.ndarray) -> Estimate:
    """Of values [P, S] of P prompts under S seeds: the mean over prompts of their means over seeds, and what it varies by when
    other prompts are drawn. The resampling is the same in every call."""
    each = of_prompts(values)
    each = each[~np.isnan(each)]
    if not each.size:
        return Estimate(math.nan, math.nan, math.nan, math.nan, 0)
    mean, stderr = float(each.mean()), float(each.std() / len(each) ** 0.5)
    if each.size < 2 or not each.std():
        low = high = mean if each.size > 1 else math.nan
        return Estimate(mean, low, high, stderr, len(each))
    found = stats.bootstrap(
        (each,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=max(1, 2**22 // len(each)),
        confidence_level=LEVEL,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Estimate(mean, float(found.low), float(found.high), stderr, len(each))


def wins(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """[P, S]: 1 where ours is higher, 0 where theirs is, half where they are equal; not-a-number where either has none."""
    there = ~(np.isnan(ours) | np.isnan(theirs))
    return np.where(there, (np.sign(np.where(there, ours - theirs, 0)) + 1) / 2, np.nan)

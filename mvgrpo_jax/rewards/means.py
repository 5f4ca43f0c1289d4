"""Means and deviations of scores, among which those that a judge could not give are not-a-number and do not count."""

from __future__ import annotations

import math

import numpy as np


def mean(scores: np.ndarray) -> float:
    """Not-a-number where there are none."""
    there = scores[~np.isnan(scores)]
    return float(there.mean()) if there.size else math.nan


def deviations(scores: np.ndarray) -> np.ndarray:
    """The population deviation of each group: [...] of scores [..., S]."""
    return np.ma.filled(np.ma.masked_invalid(scores).std(-1), np.nan)

"""Sigma grids: from 1 (noise) to 0 (picture), float64 [steps + 1], computed on the host; and what grids are made of."""

from __future__ import annotations

import math

import numpy as np


def shifted(t: np.ndarray, shift: float) -> np.ndarray:
    """h t / (1 + (h - 1) t): time moved towards noise by a factor h."""
    return shift * t / (1.0 + (shift - 1.0) * t)


def static(steps: int, shift: float = 3.0) -> np.ndarray:
    """linspace(1, 0, steps + 1), shifted (DanceGRPO and its descendants, MV-GRPO)."""
    sigmas = shifted(np.linspace(1.0, 0.0, steps + 1), shift)
    sigmas[0] = 1.0  # to the last bit: noise levels divide by 1 - sigma elsewhere
    return sigmas


def shifted_odds(t: np.ndarray, shift: float) -> np.ndarray:
    """h / (h + 1/t - 1): `shifted`, in the order in which diffusers computes its dynamic shift, which counts in float32."""
    return shift / (shift + (1.0 / t - 1.0))


def level(tokens: int, base=0.5, maximum=1.15, low=256, high=4096) -> float:
    """diffusers' mu: linear in the image tokens, `base` at `low` of them and `maximum` at `high`."""
    return base + (maximum - base) * (tokens - low) / (high - low)


def dynamic(steps: int, tokens: int) -> np.ndarray:
    """diffusers' Flux schedule: linspace(1, 1/steps, steps) shifted by exp(mu), mu linear in the image tokens; then 0."""
    return np.append(shifted(np.linspace(1.0, 1.0 / steps, steps), math.exp(level(tokens))), 0.0)


def stretched(sigmas: np.ndarray, end: float) -> np.ndarray:
    """1 - (1 - s) (1 - end) / (1 - s_last): a grid that starts at 1 made to end at `end` (LTX-Video)."""
    return 1.0 - (1.0 - sigmas) * (1.0 - end) / (1.0 - sigmas[-1])


def karras(first: float, last: float, steps: int, rho: float = 7.0) -> np.ndarray:
    """[steps] from `first` to `last`, evenly spaced in their rho-th roots (Karras et al., arXiv 2206.00364, equation 5)."""
    return np.linspace(first ** (1 / rho), last ** (1 / rho), steps) ** rho


def exponential(first: float, last: float, steps: int) -> np.ndarray:
    """[steps] from `first` to `last`, evenly spaced in their logarithms."""
    return np.exp(np.linspace(math.log(first), math.log(last), steps))

"""Sigma grids: from 1 (noise) to 0 (picture), float64 [steps + 1], computed on the host."""

from __future__ import annotations

import math

import numpy as np


def shifted(t: np.ndarray, shift: float) -> np.ndarray:
    """h t / (1 + (h - 1) t): time moved towards noise by a factor h."""
    return shift * t / (1.0 + (shift - 1.0) * t)


def static(steps: int, shift: float = 3.0) -> np.ndarray:
    """linspace(1, 0, steps + 1), shifted (DanceGRPO and its descendants, MV-GRPO)."""
    return shifted(np.linspace(1.0, 0.0, steps + 1), shift)


def dynamic(steps: int, tokens: int, base=0.5, maximum=1.15, low=256, high=4096) -> np.ndarray:
    """diffusers' Flux schedule: linspace(1, 1/steps, steps) shifted by exp(mu), mu linear in the image tokens; then 0."""
    mu = base + (maximum - base) * (tokens - low) / (high - low)
    return np.append(shifted(np.linspace(1.0, 1.0 / steps, steps), math.exp(mu)), 0.0)


def diffusers_grid(steps: int, tokens: int, scheduler: dict) -> np.ndarray:
    """The grid that diffusers' FluxPipeline gives FlowMatchEulerDiscreteScheduler with this scheduler_config."""
    if scheduler.get("use_dynamic_shifting"):
        return dynamic(
            steps,
            tokens,
            scheduler.get("base_shift", 0.5),
            scheduler.get("max_shift", 1.15),
            scheduler.get("base_image_seq_len", 256),
            scheduler.get("max_image_seq_len", 4096),
        )
    return np.append(shifted(np.linspace(1.0, 1.0 / steps, steps), float(scheduler.get("shift", 1.0))), 0.0)

"""What distinguishes one algorithm from another."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from mvgrpo_jax.plans import Plan
from mvgrpo_jax.sde import Kernel


@dataclasses.dataclass(frozen=True)
class Algorithm:
    """plan: what is sampled. kernel: how a step is taken and judged. advantage(rewards): who gets credit, from
    {judge: [V, P, R, G]} to [V, P, R, G]. loss(ratio, advantage): what is minimised, one value per sample; clip: the
    ratio's distance from 1 beyond which it counts as clipped in the metrics.
    step_weight(s, s', g): the weight of each trained step, [B]."""

    plan: Plan
    kernel: Kernel
    advantage: Callable[[dict[str, jax.Array]], jax.Array]
    loss: Callable[[jax.Array, jax.Array], jax.Array]
    clip: float
    step_weight: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def equal_steps(s, s_next, g) -> np.ndarray:
    """Every trained step counts the same."""
    return np.ones_like(s)

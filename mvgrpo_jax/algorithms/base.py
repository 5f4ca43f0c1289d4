"""What distinguishes one algorithm from another."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import numpy as np

from mvgrpo_jax.core import advantages
from mvgrpo_jax.core.graph import RolloutGraph
from mvgrpo_jax.core.objectives import Objective
from mvgrpo_jax.core.sde import Kernel
from mvgrpo_jax.core.selection import Select, everything
from mvgrpo_jax.core.structs import Trajectory


class Moment(NamedTuple):
    """What changes from iteration to iteration. shift: by which the graph is displaced; stage: static, for `select`."""

    shift: int = 0
    stage: Hashable = None


@dataclasses.dataclass(frozen=True)
class Chooser:
    """A choice of prompts by their anchors. count: prompts that are drawn for each one that is kept. memory: what the choice
    remembers at the start, an array. choose(scores [P, count], memory) -> (index of the kept one [P], memory)."""

    count: int
    memory: np.ndarray
    choose: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Algorithm:
    """graph: what is sampled. kernel, eta: how a step is taken and judged. advantage(rewards, active, trajectory, memory): who
    gets credit, from {judge: [V, P, R, S]} to [V, P, R, G], or [V, P, B, G] for a tree; active: bool [V, P, R], False where a
    view is missing: its rewards mean nothing, and what it gets is not used; a reward that is missing, and an advantage that
    there is none for, are not-a-number (core/advantages.py). objective: what is minimised. select: which
    transitions train. schedule(iteration): what moves. follow(iteration): the share of itself that the sampling policy keeps
    after that iteration, None where the current policy samples. chooser: None where every prompt is kept. by_branch:
    whether a block's advantages and weights are those of its own branch's rewards, whatever the others' are."""

    graph: RolloutGraph
    kernel: Kernel
    eta: float
    advantage: Callable[[dict[str, jax.Array], jax.Array, Trajectory, Any], jax.Array]
    objective: Objective
    select: Select = dataclasses.field(default_factory=everything)
    schedule: Callable[[int], Moment] = lambda iteration: Moment()
    follow: Callable[[int], float] | None = None
    chooser: Chooser | None = None
    by_branch: bool = False


def options(**settings) -> dict[str, Any]:
    """The settings of an algorithm, config.algorithm.NAME: those that most share, and the given settings of its own."""
    shared = {
        "kernel": "flow",  # flow | dance | cps
        "eta": 0.7,  # noise level
        "clip": 1e-4,  # range of the ratio
        "bound": 5.0,  # of advantages
        "combine": "advantages",  # of several rewards: advantages | rewards (before normalisation) | whitened
        "std_floor": 0.0,  # added to a group's deviation: differences far below it do not become full advantages
        "kl": 0.0,  # weight of the divergence from the initial policy
        "divergence": "transition",  # transition | undivided | velocity
    }
    return shared | settings


def within(o, **ranges: tuple[float, float]) -> None:
    """ValueError unless each named setting of `o` lies in its range (low, high), both included."""
    for name, (low, high) in ranges.items():
        if not low <= getattr(o, name) <= high:
            raise ValueError(f"{name} must be from {low} to {high}, got {getattr(o, name)}")


def normalised(config, o, *, ddof: int, eps: float, global_std: bool = False) -> Callable:
    """advantage(rewards, active, trajectory, memory) by group, of the config's judges and the options `o`."""
    bounded = functools.partial(advantages.group_advantage, ddof=ddof, eps=eps + o.std_floor, bound=o.bound)

    def advantage(rewards, active, trajectory, memory):
        def of_judge(reward):
            return bounded(reward, deviation=advantages.batch_deviation(reward, active) if global_std else None)

        return advantages.combine(rewards, dict(config.rewards), o.combine, active, of_judge)

    return advantage

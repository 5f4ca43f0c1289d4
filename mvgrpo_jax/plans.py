"""What a rollout evaluates: segments of steps run by a growing set of lanes. No nodes, only repeat and reshape.

A lane is one latent per prompt. In a plan with an anchor, one ODE lane runs all steps first; SDE draws taken from its
states join later segments. Otherwise the lanes start from noise and stochastic segments record their transitions.
"""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Segment:
    """Steps start .. stop - 1. branch: each lane is repeated so often at the start. stochastic: SDE steps, else ODE.

    join: index into `trained` of the anchor draws that join the lanes at the start; None without one.
    """

    start: int
    stop: int
    branch: int = 1
    stochastic: bool = False
    join: int | None = None


@dataclasses.dataclass(frozen=True)
class Plan:
    """A rollout graph over `steps` steps. trained: the grid index of each recorded transition, ascending."""

    steps: int
    group: int
    trained: tuple[int, ...]
    segments: tuple[Segment, ...]
    anchor: bool = False
    noises: int = 1

    @property
    def branches(self) -> int:
        """R: how many sets of G pictures a prompt gets."""
        return len(self.trained) if self.anchor else 1

    @property
    def separable(self) -> bool:
        """Whether the branches can be finished one by one, so that the pictures of one are there before the others'."""
        return self.anchor and self.branches > 1

    @property
    def images(self) -> int:
        """Pictures that are rewarded, per prompt."""
        return self.branches * self.group

    def lanes(self) -> list[int]:
        """The number of lanes in each segment."""
        counts, lanes = [], 0 if self.anchor else self.noises
        for segment in self.segments:
            lanes = lanes * segment.branch + (self.group if segment.join is not None else 0)
            counts.append(lanes)
        return counts

    @property
    def evaluations(self) -> int:
        """Model evaluations of one prompt's rollout."""
        tails = sum(n * (s.stop - s.start) for n, s in zip(self.lanes(), self.segments))
        return tails + (self.steps if self.anchor else 0)

    @property
    def states(self) -> int:
        """M: distinct states a group has at a trained step, each of which costs one evaluation per view."""
        return 1 if self.anchor else self.group


def shared_anchor(steps: int, trained: tuple[int, ...], group: int) -> Plan:
    """One ODE anchor; at each trained step `group` SDE draws from its state, finished by ODE (MV-GRPO, Granular-GRPO).

    Draws of later steps join the earlier ones' tails, so that the tails are one growing batch. Raises ValueError unless
    `trained` ascends strictly within 0 .. steps - 1.
    """
    _check(steps, trained, group)
    stops = [k + 1 for k in trained[1:]] + [steps]
    segments = [Segment(k + 1, stop, join=i) for i, (k, stop) in enumerate(zip(trained, stops))]
    return Plan(steps, group, tuple(trained), tuple(segments), anchor=True)


def window(steps: int, start: int, stop: int, group: int, *, trained=None, same_noise: bool = False) -> Plan:
    """Independent samples, stochastic in steps start .. stop - 1 and ODE outside; `trained` defaults to the window."""
    trained = tuple(range(start, stop)) if trained is None else tuple(trained)
    _check(steps, trained, group)
    if not 0 <= start <= trained[0] and trained[-1] < stop <= steps:
        raise ValueError(f"trained steps {trained} must lie in the stochastic window {start} .. {stop - 1}")
    parts = [(0, start, False), (start, stop, True), (stop, steps, False)]
    segments = [Segment(a, b, stochastic=noisy) for a, b, noisy in parts if a < b]
    if same_noise:
        segments[0] = dataclasses.replace(segments[0], branch=group)
    return Plan(steps, group, trained, tuple(segments), noises=1 if same_noise else group)


def _check(steps: int, trained: tuple[int, ...], group: int) -> None:
    if not trained or list(trained) != sorted(set(trained)) or trained[0] < 0 or trained[-1] >= steps:
        raise ValueError(f"trained steps must ascend within 0 .. {steps - 1}, got {trained}")
    if group < 2:
        raise ValueError(f"a group needs at least 2 samples to be compared, got group_size {group}")


def trained_grid(plan: Plan, sigmas: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(s, s', g) of every trained step: float32 [B] each."""
    index = np.asarray(plan.trained)
    return tuple(np.asarray(a, np.float32) for a in (sigmas[index], sigmas[index + 1], g[index]))

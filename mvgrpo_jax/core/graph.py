"""What a rollout evaluates: segments of steps run by a growing set of lanes. No nodes, only repeat and reshape.

A lane is one latent per prompt. Without an anchor, lanes start from noise, run the segments and are finished by a tail of ODE
steps; a segment whose last step fans out draws several successors of each lane from one evaluation. With an anchor, ODE
lanes run all steps first, each trained step draws from their states, and the draws are finished together.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Segment:
    """Steps start .. stop - 1 of a graph that is not displaced. fan: successors that each lane draws at the last of them.
    grows: whether a displacement makes it longer; else it moves as a whole."""

    start: int
    stop: int
    fan: int = 1
    grows: bool = False

    def first(self, shift):
        """The step at which it begins when the graph is displaced by `shift`, which may be traced."""
        return self.start if self.grows else self.start + shift

    def count(self, shift):
        """How many steps it then has."""
        return self.stop - self.start + (shift if self.grows else 0)

    def last(self, shift):
        """Its last step then, at which lanes fan out."""
        return self.first(shift) + self.count(shift) - 1

    @property
    def walked(self) -> range:
        """Its steps, not displaced, but for one at which lanes fan out: each lane makes one of these by itself."""
        return range(self.start, self.stop - (self.fan > 1))

    def recorded(self, trained: tuple[int, ...]) -> np.ndarray:
        """Which of the trained steps are among those walked."""
        return np.asarray([k for k in trained if k in self.walked], int)


@dataclasses.dataclass(frozen=True)
class RolloutGraph:
    """A rollout graph over `steps` steps of the grid; `group` pictures end it (of each branch, with an anchor).

    trained: the grid index of each recorded transition, ascending; noisy: where noise is added. noises: lanes at the start.
    strides: with an anchor, each draw is finished once on every strides-th step of the grid. tail: the share of the steps
    after the last segment that the tail makes on a coarser grid, by `solver`. moving: interior boundaries, `trained` and
    `noisy` are displaced by the rollout's shift. fan_scale: by which noise is stretched where lanes fan out; fan_density:
    whether the recorded density knows it.
    """

    steps: int
    group: int
    trained: tuple[int, ...]
    segments: tuple[Segment, ...] = ()
    noisy: tuple[int, ...] = ()
    anchor: bool = False
    noises: int = 1
    strides: tuple[int, ...] = (1,)
    tail: float = 1.0
    solver: str = "euler"
    moving: bool = False
    fan_scale: float = 1.0
    fan_density: bool = True

    @property
    def branches(self) -> int:
        """R: how many sets of pictures a prompt gets."""
        return len(self.trained) if self.anchor else 1

    @property
    def pictures(self) -> int:
        """S: pictures of a branch."""
        return self.group * len(self.strides)

    @property
    def images(self) -> int:
        """Pictures that are rewarded, per prompt."""
        return self.branches * self.pictures

    @property
    def separable(self) -> bool:
        """Whether the branches can be finished one by one, so that the pictures of one are there before the others'."""
        return self.anchor and self.branches > 1

    @property
    def end(self) -> int:
        """The first step of the tail."""
        return self.segments[-1].stop if self.segments else 0

    def lanes(self) -> list[int]:
        """The number of lanes that each segment, and at last the tail, evaluates."""
        counts = [self.noises]
        for segment in self.segments:
            counts.append(counts[-1] * segment.fan)
        return counts

    @property
    def draws(self) -> tuple[int, ...]:
        """Recorded draws at each trained step: G, fewer where a tree has not yet grown to its leaves."""
        if self.anchor:
            return (self.group,) * len(self.trained)
        draws_at = {}
        for lanes, segment in zip(self.lanes(), self.segments):
            for k in range(segment.start, segment.stop):
                draws_at[k] = lanes * (segment.fan if k == segment.stop - 1 else 1)
        return tuple(draws_at[k] for k in self.trained)

    @property
    def states(self) -> int:
        """M: states of a recorded block, each of which costs one evaluation per view."""
        one = len(self.trained) == 1 and self.segments and self.segments[-1].fan > 1
        return self.noises if self.anchor or one else self.group

    @property
    def blocks(self) -> int:
        """B: recorded blocks of G draws; the trained steps, or as many as hold a tree's edges."""
        return math.ceil(sum(self.draws) / self.group)

    def tail_steps(self, shift: int = 0) -> int:
        left = self.steps - self.end - (shift if self.moving else 0)
        return max(int(left * self.tail + 1e-9), 1) if left else 0

    def evaluations_at(self, shift: int) -> int:
        """Model evaluations of one prompt's rollout displaced by `shift`."""
        if self.anchor:
            return self.noises * self.steps + self.group * sum(
                len(self.finish(k, stride)) - 1 for k in self.trained for stride in self.strides
            )
        lanes, moved = self.lanes(), shift if self.moving else 0
        walked = sum(n * segment.count(moved) for n, segment in zip(lanes, self.segments))
        return walked + lanes[-1] * self.tail_steps(shift)

    @property
    def evaluations(self) -> int:
        """Model evaluations of one prompt's rollout."""
        return self.evaluations_at(0)

    def finish(self, k: int, stride: int) -> tuple[int, ...]:
        """The grid indices on which a draw of step k is finished: k + 1, then every stride-th from k + 2, then the end."""
        points = (k + 1, *range(k + 2, self.steps, stride), self.steps)
        return tuple(dict.fromkeys(points))

    def staircase(self, branches: tuple[int, ...]) -> tuple[list[tuple[int, int]], list[Stage]]:
        """How the draws of some branches are finished with as few programs as possible: aligned at their ends, so that the
        longest start alone and the others join. Returns the order in which (branch, stride index) join, and the stages."""
        groups = [(self.finish(self.trained[b], f), b, i) for b in branches for i, f in enumerate(self.strides)]
        groups.sort(key=lambda group: -len(group[0]))
        lengths = sorted({len(grid) - 1 for grid, _, _ in groups} - {0}, reverse=True)
        stages, joined = [], 0
        for high, low in zip(lengths, [*lengths[1:], 0]):
            active = [grid for grid, _, _ in groups if len(grid) - 1 >= high]
            points = np.array([grid[len(grid) - 1 - high : len(grid) - low] for grid in active]).T  # [high - low + 1, groups]
            stages.append(Stage(points, len(active) - joined))
            joined = len(active)
        return [(b, i) for _, b, i in groups], stages


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """Steps that all groups of draws make together after `joining` more have joined. points: grid indices [steps + 1,
    groups]."""

    points: np.ndarray
    joining: int


def shared_anchor(
    steps: int, trained: tuple[int, ...], group: int, *, anchors: int = 1, strides: tuple[int, ...] = (1,)
) -> RolloutGraph:
    """`anchors` ODE trajectories; at each trained step `group` SDE draws from their states, each finished by ODE (MV-GRPO,
    Granular-GRPO, TempFlow-GRPO).

    Raises ValueError unless `trained` ascends strictly within 0 .. steps - 1 and anchors divide the group.
    """
    _check(steps, trained, group)
    if anchors < 1 or group % anchors or group == anchors:
        raise ValueError(f"the anchors must divide the group into parts of at least 2, got {anchors} for group_size {group}")
    if not strides or any(f < 1 for f in strides):
        raise ValueError(f"strides must be positive, got {strides}")
    trained = tuple(int(k) for k in trained)
    return RolloutGraph(steps, group, trained, noisy=trained, anchor=True, noises=anchors, strides=tuple(strides))


def window(
    steps: int,
    start: int,
    stop: int,
    group: int,
    *,
    trained=None,
    same_noise: bool = False,
    moving: bool = False,
    tail: float = 1.0,
    solver: str = "euler",
) -> RolloutGraph:
    """Independent samples, stochastic in steps start .. stop - 1 and ODE outside; `trained` defaults to the window.

    same_noise: all samples start from one noise and are one lane until the window's first step fans out.
    """
    trained = tuple(range(start, stop)) if trained is None else tuple(int(k) for k in trained)
    _check(steps, trained, group)
    if not 0 <= start <= trained[0] or not trained[-1] < stop <= steps:
        raise ValueError(f"trained steps {trained} must lie in the stochastic window {start} .. {stop - 1}")
    if not 0 < tail <= 1:
        raise ValueError(f"the share of steps after the window must be within (0, 1], got {tail}")
    if same_noise:
        parts = [(0, start + 1, group), (start + 1, stop, 1)]
    else:
        parts = [(0, start, 1), (start, stop, 1)]
    # Of a window that moves, the first segment stays although it may be empty where the window starts.
    kept = [p for p in parts if p[0] < p[1] or (moving and p is parts[0])]
    segments = tuple(Segment(*p, grows=p is kept[0]) for p in kept)
    noises = 1 if same_noise else group
    noisy = tuple(range(start, stop))
    return RolloutGraph(steps, group, trained, segments, noisy, noises=noises, tail=tail, solver=solver, moving=moving)


def tree(
    steps: int,
    splits: tuple[int, ...],
    fans: tuple[int, ...],
    *,
    trained: tuple[int, ...],
    fan_scale: float = 1.0,
    fan_density: bool = True,
) -> RolloutGraph:
    """One root; at step splits[i] each node draws fans[i] children; noise at the trained steps, ODE elsewhere."""
    if any(fan < 1 for fan in fans):
        raise ValueError(f"a node has at least 1 child, got {fans}")
    group = math.prod(fans)
    _check(steps, trained, group)
    _check(steps, splits, group)
    if len(splits) != len(fans) or not set(splits) <= set(trained):
        raise ValueError(
            f"each of the splits {splits} needs a number of children, got {fans}, and must be a trained step, {trained}"
        )
    bounds = [0, *(k + 1 for k in splits)]
    segments = [Segment(a, b, fan) for a, b, fan in zip(bounds, bounds[1:], fans)]
    if trained[-1] + 1 > bounds[-1]:
        segments.append(Segment(bounds[-1], trained[-1] + 1))
    return RolloutGraph(
        steps, group, tuple(trained), tuple(segments), tuple(trained), fan_scale=fan_scale, fan_density=fan_density
    )


def deterministic(steps: int, group: int, solver: str = "euler") -> RolloutGraph:
    """Independent samples by ODE; nothing is recorded but where they end (DiffusionNFT)."""
    return RolloutGraph(steps, group, (), noises=group, solver=solver)


def scaled(published: tuple[int, ...], of: int, steps: int) -> tuple[int, ...]:
    """Step indices given for a grid of `of` steps, at the same shares of a grid of `steps`; the last step is left out."""
    steps_there = sorted({min(k * steps // of, steps - 2) for k in published})
    return tuple(k for k in steps_there if k >= 0)


def factors(number: int, count: int) -> tuple[int, ...]:
    """The prime factors of a number, ascending; the smallest ones multiplied where there are more than `count`.

    Raises ValueError for a count below 1."""
    if count < 1:
        raise ValueError(f"a group of {number} needs at least one step to split at, and one after it")
    primes, prime = [], 2
    while number > 1:
        if number % prime:
            prime += 1
        else:
            primes.append(prime)
            number //= prime
    while len(primes) > count:
        primes = sorted([primes[0] * primes[1], *primes[2:]])
    return tuple(primes)


def _check(steps: int, trained: tuple[int, ...], group: int) -> None:
    if not len(trained) or list(trained) != sorted(set(trained)) or trained[0] < 0 or trained[-1] >= steps:
        raise ValueError(f"trained steps must ascend within 0 .. {steps - 1}, got {tuple(trained)}")
    if group < 2:
        raise ValueError(f"a group needs at least 2 samples to be compared, got group_size {group}")

"""MixGRPO (arXiv 2507.21802): SDE and training inside a window of steps that slides towards the picture, ODE outside.

How the window moves: 'progressive', one step every `dwell` iterations, back to 0 past the end; 'random', anew each iteration;
'decay', a dwell that falls linearly from `dwell_first` to 1; 'exp_decay', dwell exp(-k max(start - after, 0)). Flash: after the
window DPM-Solver++(2M) on `tail` x as many steps (0.4; a window that stays at 0 with tail 0.2 is the authors' Flash*).
Authors' on Flux: 25 steps, window of 4, eta 0.7, dwell 25, one initial noise, G 12, learning rate 1e-5, 720 px, 32 GPUs, three
accumulated rollouts. Here the group is one lane until its window, so that ODE steps before it are evaluated once.
"""

import math

import numpy as np

from mvgrpo_jax.algorithms.base import Algorithm, Moment, normalised, options, within
from mvgrpo_jax.core import objectives, sde, solvers
from mvgrpo_jax.core.graph import window

DEFAULTS = options(
    size=4,  # steps of the window
    movement="progressive",  # progressive | random | decay | exp_decay | fixed
    dwell=25,  # iterations at one place
    dwell_first=10,  # of 'decay'
    decay_rate=0.1,  # k of 'exp_decay', whose dwell falls from
    decay_after=13,  # this start on
    same_noise=True,
    tail=1.0,  # share of the steps after the window; below 1: Flash
    solver="euler",  # of the steps after the window: euler | dpm2
)


def dwells(o, starts: int) -> list[int]:
    """Iterations that the window stays at each start; all of 'decay' and 'exp_decay' are at least 1."""
    if o.movement == "progressive":
        return [o.dwell] * starts
    if o.movement == "decay":
        return [max(round(o.dwell_first + (1 - o.dwell_first) * i / max(starts - 1, 1)), 1) for i in range(starts)]
    return [max(round(o.dwell * math.exp(-o.decay_rate * max(i - o.decay_after, 0))), 1) for i in range(starts)]


def make(config, o):
    within(o, size=(1, 1000), dwell=(1, 1e6), dwell_first=(1, 1e6), decay_rate=(0, 1e6))
    solvers.solver(o.solver)
    steps, size = config.sampling.steps, min(o.size, config.sampling.steps - 1)
    starts = steps - size + 1
    if o.movement not in ("progressive", "random", "decay", "exp_decay", "fixed"):
        raise ValueError(f"unknown movement {o.movement!r}; there are: progressive, random, decay, exp_decay, fixed")
    stays = np.cumsum(dwells(o, starts))
    kernel = sde.kernel(o.kernel)

    def schedule(iteration):
        if o.movement == "fixed":
            return Moment()
        if o.movement == "random":
            return Moment(int(np.random.default_rng([config.seed, iteration]).integers(starts)))
        return Moment(int(np.searchsorted(stays, iteration % stays[-1], side="right")))

    return Algorithm(
        graph=window(
            steps,
            0,
            size,
            config.group_size,
            same_noise=o.same_noise,
            moving=o.movement != "fixed",
            tail=o.tail,
            solver=o.solver,
        ),
        kernel=kernel,
        eta=o.eta,
        advantage=normalised(config, o, ddof=1, eps=1e-8),
        objective=objectives.policy_gradient(kernel, clip=o.clip, kl=o.kl, divergence=o.divergence),
        schedule=schedule,
    )

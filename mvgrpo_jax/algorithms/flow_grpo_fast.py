"""Flow-GRPO-Fast (Flow-GRPO's authors; kernel of Flow-CPS, arXiv 2509.05952): a short stochastic window, the rest by ODE.

The window's start is drawn once an iteration from `first` .. `last` - `size`; only its steps train. Two forms:

    window  G noises; every sample is its own from the start (the authors' Flux script)
    branch  one noise and one ODE lane until the window, from whose state the group is drawn (the first description)

Authors' on Flux: 6 steps, window of 3 within the first half, CPS at level 0.8, clip 1e-5, deviation of the group.
"""

import numpy as np

from mvgrpo_jax.algorithms.base import Algorithm, Moment, normalised, options
from mvgrpo_jax.core import objectives, sde
from mvgrpo_jax.core.graph import window

DEFAULTS = options(
    kernel="cps",
    eta=0.8,
    clip=1e-5,
    combine="rewards",
    divergence="undivided",
    form="window",  # window | branch
    size=3,  # steps of the window; 0: all but the last
    first=0,  # where windows may start ...
    last=0,  # ... and the step before which they end; 0: half of the steps, or as many as the window has
)


def make(config, o):
    steps = config.sampling.steps
    size = o.size or steps - 1
    last = steps - 1 if not o.size else o.last or max(steps // 2, o.first + size)
    if o.form not in ("window", "branch"):
        raise ValueError(f"form must be 'window' or 'branch', got {o.form!r}")
    if not 0 <= o.first <= last - size or last > steps:
        raise ValueError(f"a window of {size} steps does not fit between steps {o.first} and {last} of {steps}")
    kernel = sde.kernel(o.kernel)

    def schedule(iteration):
        drawn = np.random.default_rng([config.seed, iteration]).integers(o.first, last - size + 1)
        return Moment(shift=int(drawn) - o.first)

    return Algorithm(
        graph=window(
            steps, o.first, o.first + size, config.group_size, same_noise=o.form == "branch", moving=last - size > o.first
        ),
        kernel=kernel,
        eta=o.eta,
        advantage=normalised(config, o, ddof=0, eps=1e-4),
        objective=objectives.policy_gradient(kernel, clip=o.clip, kl=o.kl, divergence=o.divergence),
        schedule=schedule,
    )

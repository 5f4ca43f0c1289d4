"""Granular-GRPO, G2RPO (arXiv 2510.01982): singular stochastic sampling, each draw judged at several granularities.

One ODE trajectory a prompt; at each trained step k G SDE draws from its state, each finished once for every stride g on every
g-th step of the grid from k + 2 on, and rewarded. The advantage is the sum over strides (and judges) of the group-normalised
reward, unbiased + 1e-8, then within +-bound. Each trained step has an optimiser step of its own in the authors' code:
config.train.update_per = timestep. Authors' on Flux: k = 0..7 of 16 steps, strides 1 and 2, G 12, learning rate 2e-6, 720 px,
16 GPUs.
"""

import jax.numpy as jnp

from mvgrpo_jax.algorithms.base import Algorithm, normalised, options
from mvgrpo_jax.core import advantages, objectives, sde
from mvgrpo_jax.core.graph import scaled, shared_anchor

DEFAULTS = options(
    trained_steps=(),  # empty: 0 .. 7 of 16, at the same shares of another number of steps
    strides=(1, 2),
)


def make(config, o):
    steps, group = config.sampling.steps, config.group_size
    trained = tuple(o.trained_steps) or scaled(tuple(range(8)), 16, steps)
    kernel = sde.kernel(o.kernel)
    one_stride = normalised(config, o, ddof=1, eps=1e-8)

    def advantage(rewards, active, trajectory, memory):
        parts = {n: r.reshape(*r.shape[:-1], len(o.strides), group) for n, r in rewards.items()}
        return jnp.clip(advantages.total(one_stride(parts, active, trajectory, memory), -2), -o.bound, o.bound)

    return Algorithm(
        graph=shared_anchor(steps, trained, group, strides=tuple(o.strides)),
        kernel=kernel,
        eta=o.eta,
        advantage=advantage,
        objective=objectives.policy_gradient(kernel, clip=o.clip, kl=o.kl, divergence=o.divergence),
    )

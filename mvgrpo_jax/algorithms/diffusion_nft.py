"""DiffusionNFT (arXiv 2509.16117): regression of positive and negative velocities on finished samples; no likelihoods.

The old policy samples by ODE. At times t of its own grid, fresh noise for each: x_t = (1 - t) x0 + t noise, and the loss of
`objectives.nft` with the optimality r = clip(A / 10 + 1/2, 0, 1), A = (R - mean of the prompt) / (deviation of the batch +
1e-4).
After iteration n = 1, 2, .. the old policy becomes d old + (1 - d) trained:

    decay 0: d = 0    decay 1: d = min(0.001 n, 0.5)    decay 2: d = 0 until n = 75, then min(0.0075 (n - 75), 0.999)

Authors' on SD3.5-M: 10 steps of DPM-Solver++(2M), 99 % of its times in random order, beta 1 (0.1 with several rewards), KL
weight 1e-4, G 24, learning rate 3e-4, adapters of rank 32, 8 GPUs, average of weights 0.9. For Flux, Flow-Factory: 8 Euler
steps at 384 px, 2 times from the first 70 % of the grid (`times`, `span`), G 16, no KL, deviation of the group.
"""

import jax
import jax.numpy as jnp

from mvgrpo_jax.algorithms.base import Algorithm, normalised, options, within
from mvgrpo_jax.core import objectives, sde, solvers
from mvgrpo_jax.core.graph import deterministic
from mvgrpo_jax.core.selection import Selection
from mvgrpo_jax.core.structs import Steps, Transitions

DEFAULTS = options(
    kl=1e-4,
    global_std=True,
    combine="rewards",
    beta=1.0,
    solver="dpm2",  # of the rollout: euler | dpm2
    times=0,  # trained times of each sample; 0: 99 % of the grid's
    span=1.0,  # the share of the grid, from noise on, that they are drawn from
    decay=1,  # of the old policy: 0 | 1 | 2
)

DECAYS = {
    0: lambda n: 0.0,
    1: lambda n: min(0.001 * n, 0.5),
    2: lambda n: 0.0 if n <= 75 else min(0.0075 * (n - 75), 0.999),
}


def make(config, o):
    within(o, span=(0, 1))
    steps = config.sampling.steps
    pool = max(round(steps * o.span), 1)
    count = o.times or max(int(pool * 0.99), 1)
    if count > pool:
        raise ValueError(f"times {o.times} is more than the {pool} times that span {o.span} of {steps} steps leaves")
    if o.decay not in DECAYS:
        raise ValueError(f"decay must be one of {tuple(DECAYS)}, got {o.decay}")
    if o.beta <= 0:
        raise ValueError(f"beta must be above 0, got {o.beta}")
    solvers.solver(o.solver)

    def select(key, trajectory, advantage, stage, sigmas):
        del stage
        x0 = jnp.broadcast_to(trajectory.x0, (trajectory.x0.shape[0], count, *trajectory.x0.shape[2:]))  # [P, B, G, L, C]
        shape, (for_times, for_noise) = x0.shape[:3], jax.random.split(key)
        orders = jax.vmap(lambda k: jax.random.permutation(k, pool)[:count])(jax.random.split(for_times, shape[0] * shape[2]))
        t = jnp.asarray(sigmas, jnp.float32)[orders].reshape(shape[0], shape[2], count).swapaxes(1, 2)
        column = t[..., None, None]
        x_t = (1.0 - column) * x0 + column * jax.random.normal(for_noise, x0.shape)
        still = Steps(t, t, jnp.zeros_like(t), jnp.ones_like(t))
        spread = jnp.broadcast_to(advantage, (advantage.shape[0], *shape))
        return Selection(Transitions(x_t, x0, jnp.zeros(shape), still), spread, jnp.ones(shape))

    return Algorithm(
        graph=deterministic(steps, config.group_size, o.solver),
        kernel=sde.kernel(o.kernel),
        eta=o.eta,
        advantage=normalised(config, o, ddof=0, eps=1e-4, global_std=o.global_std),
        objective=objectives.nft(beta=o.beta, bound=o.bound, kl=o.kl),
        select=select,
        follow=lambda iteration: DECAYS[o.decay](iteration + 1),
    )

"""Flow-GRPO (arXiv 2505.05470): G independent samples, every step stochastic, every step but the last trained.

    L = mean_i mean_t max(-A_i r, -A_i clip(r, 1 - eps, 1 + eps)),   A_i = (R_i - mean) / (std + 1e-4)

with the population deviation of the prompt's group, or one of the whole batch (config.algorithm.global_std; the
authors' Flux configuration). Rewards are weighted and summed before they are normalised. The authors' kernel is
Flow-SDE with level 0.9 on Flux and their schedule is diffusers' dynamic one; both are config values here.
"""

import functools

import jax.numpy as jnp

from mvgrpo_jax import credit, objectives, plans, sde
from mvgrpo_jax.algorithms.base import Algorithm, equal_steps


def make(config) -> Algorithm:
    steps = config.sampling.steps
    options = {"ddof": 0, "eps": 1e-4, "bound": config.algorithm.advantage_bound}

    def advantage(reward):
        # One deviation for the batch, separately for each view: views differ in scale.
        spread = jnp.std(reward, axis=tuple(range(1, reward.ndim)), keepdims=True) if config.algorithm.global_std else None
        return credit.group_advantage(reward, deviation=spread, **options)

    return Algorithm(
        plan=plans.window(steps, 0, steps, config.group_size, trained=range(steps - 1)),
        kernel=sde.kernel(config.sampling.kernel),
        advantage=lambda rewards: credit.combine(rewards, dict(config.rewards), "rewards", advantage),
        loss=functools.partial(objectives.clipped_surrogate, clip=config.algorithm.clip),
        clip=config.algorithm.clip,
        step_weight=equal_steps,
    )

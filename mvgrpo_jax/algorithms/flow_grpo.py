"""Flow-GRPO (arXiv 2505.05470): G independent samples, every step stochastic, every step but the last trained.

    L = mean_i mean_t max(-A_i r, -A_i clip(r, 1 - eps, 1 + eps)) + beta D,   A_i = (R_i - mean) / (std + 1e-4)

with the population deviation of the prompt's group, or one of the whole batch (global_std, the authors' Flux configuration).
Rewards are weighted and summed before they are normalised. D is the transitions' KL divergence; the authors' code leaves
out its factor -dt (divergence 'undivided', the default here as their weights beta were found with it). Authors' on Flux:
noise level 0.9, diffusers' dynamic schedule (config.sampling.shift = 0), two updates a rollout (config.train.minibatches = 2).
"""

from mvgrpo_jax.algorithms.base import Algorithm, normalised, options, within
from mvgrpo_jax.core import objectives, sde
from mvgrpo_jax.core.graph import window

DEFAULTS = options(
    eta=0.9,
    combine="rewards",
    divergence="undivided",
    global_std=True,  # one deviation for the batch instead of one a group
    fraction=0.99,  # of the steps that train, from the first one
    window=(),  # (start, stop) of the steps that are stochastic; empty: all
)


def make(config, o):
    within(o, fraction=(0, 1))
    if len(o.window) not in (0, 2):
        raise ValueError(f"window must be (start, stop), or empty for all steps; got {tuple(o.window)}")
    steps = config.sampling.steps
    start, stop = tuple(o.window) or (0, steps)
    trained = range(start, max(min(stop, int(steps * o.fraction)), start + 1))
    kernel = sde.kernel(o.kernel)
    return Algorithm(
        graph=window(steps, start, stop, config.group_size, trained=trained),
        kernel=kernel,
        eta=o.eta,
        advantage=normalised(config, o, ddof=0, eps=1e-4, global_std=o.global_std),
        objective=objectives.policy_gradient(kernel, clip=o.clip, kl=o.kl, divergence=o.divergence),
    )

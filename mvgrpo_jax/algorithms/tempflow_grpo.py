"""TempFlow-GRPO (arXiv 2508.04324): a branch at every step, so that a reward belongs to one step, weighted by its noise.

For each of `seeds` noises of a prompt one ODE trajectory; at every step but the last, G / seeds SDE draws from each
trajectory's state, finished by ODE and rewarded. A compares all G of a step (deviation of the population + 1e-4). Both sides of
the clipped surrogate are multiplied by q_t / mean q, q = g sqrt(-dt) the step's deviation. The authors multiply by kappa q with
kappa 1.73 on Flux, which is 1 / mean q of their schedule to 0.2 % (10 steps at 1024 px, level 0.9); kappa = 0 takes the mean of
this one. Authors' on Flux: 4 seeds x 6 draws, 10 steps, 1024 px, KL weight 0.004, clip 1e-4, 8 GPUs, HPSv3.
"""

from mvgrpo_jax.algorithms.base import Algorithm, normalised, options, within
from mvgrpo_jax.core import objectives, sde, selection
from mvgrpo_jax.core.graph import shared_anchor

DEFAULTS = options(
    eta=0.9,
    kl=0.004,
    divergence="undivided",
    seeds=0,  # noises of a prompt; 0: 4 of 24 samples, at the same share of another group
    trained_steps=(),  # empty: all but the last
    kappa=0.0,  # of the step's weight kappa q; 0: 1 / mean q
)


def make(config, o):
    within(o, kappa=(0, 1e6))
    steps, group = config.sampling.steps, config.group_size
    trained = tuple(o.trained_steps) or tuple(range(steps - 1))
    seeds = o.seeds or max(n for n in range(1, max(group // 6, 1) + 1) if group % n == 0)
    kernel = sde.kernel(o.kernel)

    def weigh(steps):
        q = steps.g * (steps.s - steps.s_next) ** 0.5
        return q * o.kappa if o.kappa else q / q.mean(1, keepdims=True)

    return Algorithm(
        graph=shared_anchor(steps, trained, group, anchors=seeds),
        kernel=kernel,
        eta=o.eta,
        advantage=normalised(config, o, ddof=0, eps=1e-4),
        objective=objectives.policy_gradient(kernel, clip=o.clip, kl=o.kl, divergence=o.divergence),
        select=selection.everything(weigh),
        by_branch=o.combine != "whitened",
    )

"""GRPO-Guard (arXiv 2510.22319): Flow-GRPO with a normalised ratio and gradients of one scale at all steps.

    rho = exp((lp - lp_old + b) q),   b = mean (mu - mu_old)^2 / (2 q^2),   q = g sqrt(-dt);   each step's loss / (-dt)

RatioNorm removes the bias of the ratio's mean and lets one clip range serve all steps. Only for Gaussian kernels: CPS's
log-probability has no 1 / (2 q^2), and the authors' issue tracker shows it collapse. Authors' on SD3.5-M: 16 GPUs, G 24,
learning rate 1e-4, clip 2e-6 (4e-6 for PickScore), deviation of the group, no KL, two updates a rollout
(config.train.minibatches = 2).
"""

import jax.numpy as jnp

from mvgrpo_jax.algorithms.base import Algorithm, normalised, options
from mvgrpo_jax.core import objectives, sde
from mvgrpo_jax.core.graph import window
from mvgrpo_jax.core.selection import everything, of_draws

DEFAULTS = options(clip=2e-6, combine="rewards")


def guarded_ratio(new, old_log_prob, old_mean):
    """exp((lp - lp_old + b) q) [Q, P, G] of a Density and the rollout's log_prob and mean."""
    bias = jnp.mean((new.mean - old_mean) ** 2, (-2, -1)) / (2.0 * new.std**2)  # [Q, P, M]
    draws = new.log_prob.shape[-1]
    return jnp.exp((new.log_prob - old_log_prob + of_draws(bias, draws)) * of_draws(new.std, draws))


def make(config, o):
    steps = config.sampling.steps
    if o.kernel == "cps":
        raise ValueError("the ratio of this method needs a Gaussian log-probability, which the kernel 'cps' does not have")
    kernel = sde.kernel(o.kernel)
    return Algorithm(
        graph=window(steps, 0, steps, config.group_size, trained=range(steps - 1)),
        kernel=kernel,
        eta=o.eta,
        advantage=normalised(config, o, ddof=0, eps=1e-4),
        objective=objectives.policy_gradient(
            kernel, clip=o.clip, ratio=guarded_ratio, keeps_mean=True, kl=o.kl, divergence=o.divergence
        ),
        select=everything(lambda steps: 1.0 / (steps.s - steps.s_next)),
    )

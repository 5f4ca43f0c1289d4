"""DanceGRPO (arXiv 2505.07818): SDE of constant noise, one initial noise a group, a random part of the steps trained.

    dx = (v - eta^2/2 score) dt + eta dw,   L = mean over each sample's own steps of max(-A r, -A clip(r, 1 - eps, 1 + eps))

The last step has no noise (the picture is decoded from its x0) and does not train; of the others each sample trains its own
random int((N - 1) x fraction). A_i = (R_i - mean) / (std + 1e-8), unbiased. Authors' on Flux: 16 steps, eta 0.3, G 12, learning
rate 1e-5, 720 px, 4 accumulated rollouts on 16 GPUs, and sigma truncated to thousandths (config.sampling.timestep).
"""

from mvgrpo_jax.algorithms.base import Algorithm, normalised, options, within
from mvgrpo_jax.core import objectives, sde, selection
from mvgrpo_jax.core.graph import window

DEFAULTS = options(
    kernel="dance",
    eta=0.3,
    same_noise=True,  # one initial noise for the group
    fraction=0.6,  # of the steps that train, each sample its own
)


def make(config, o):
    within(o, fraction=(0, 1))
    steps = config.sampling.steps
    count = int((steps - 1) * o.fraction)
    if not 1 <= count < steps:
        raise ValueError(f"fraction {o.fraction} of {steps - 1} steps leaves {count} to train; expected 1 to {steps - 1}")
    kernel = sde.kernel(o.kernel)
    return Algorithm(
        graph=window(steps, 0, steps - 1, config.group_size, same_noise=o.same_noise),
        kernel=kernel,
        eta=o.eta,
        advantage=normalised(config, o, ddof=1, eps=1e-8),
        objective=objectives.policy_gradient(kernel, clip=o.clip, kl=o.kl, divergence=o.divergence),
        select=selection.some_steps(count),
    )

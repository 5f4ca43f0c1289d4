"""MV-GRPO (Multi-View GRPO for flow models, arXiv 2603.12648).

One ODE anchor per prompt; at each trained step t in S, G samples drawn from the anchor's own state and finished by ODE.
Every sample is scored under the prompt c_0 and K further captions c_k, and

    A_i^k = (R(x0_i, c_k) - mean_i R(., c_k)) / std_i R(., c_k)
    r_t^{i,k} = p_theta(x_{t-1}^i | x_t, c_k) / p_old(x_{t-1}^i | x_t, c_k)
    J = E[ 1/G sum_i 1/|S| sum_{t in S} sum_k w_k min(r A, clip(r, 1 - eps, 1 + eps) A) ].

From the paper: the objective, both kinds of enhancer, shift 3, guidance 3.5, learning rate 2e-6. From the same authors'
later code (Bujiazi/GRPO-Series): S = {0, 2, 4, 6} of 16 steps, G = 12, noise level 0.7, unbiased deviation + 1e-8,
advantages clipped at 5, weight decay 1e-4. Ours: w_k = 1/(K + 1) unless config.views.aggregate says otherwise; clip range.
"""

from mvgrpo_jax.algorithms.base import Algorithm, normalised, options
from mvgrpo_jax.core import objectives, sde
from mvgrpo_jax.core.graph import scaled, shared_anchor

DEFAULTS = options(
    trained_steps=(),  # S; empty: 0, 2, 4, 6 of 16, at the same shares of another number of steps
)


def captions(config) -> int:
    """One of each sample of a group."""
    return config.group_size


def make(config, o):
    steps = config.sampling.steps
    trained = tuple(o.trained_steps) or scaled((0, 2, 4, 6), 16, steps)
    kernel = sde.kernel(o.kernel)
    return Algorithm(
        graph=shared_anchor(steps, trained, config.group_size),
        kernel=kernel,
        eta=o.eta,
        advantage=normalised(config, o, ddof=1, eps=1e-8),
        objective=objectives.policy_gradient(kernel, clip=o.clip, kl=o.kl, divergence=o.divergence),
        by_branch=o.combine != "whitened",
    )

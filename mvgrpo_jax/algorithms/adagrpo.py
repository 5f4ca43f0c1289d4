"""AdaGRPO (Bujiazi/GRPO-Series): prompts of middling difficulty, and credit against a running reward besides the group's.

Of `candidates` prompts a slot draws anchors, scores them, moves its running mean mu and variance by a share 1 - `memory`
towards these scores', and keeps the prompt whose anchor is nearest to the new mu. With the rollout and S of MV-GRPO's,

    A = clip(A_rel + A_ema),   z = (r - mu) / (sqrt(var) + 1e-8),
    A_ema = z+ / sum z+ where z > 0, z- / sum |z-| where z < 0, over the group; z - mean z if either sum is below 1e-6

and L = mean -A rho, rho = exp(lp - stop_gradient(lp)): plain policy gradient. A slot is a prompt of the iteration: the authors
keep the statistics of each of 8 devices, with a prompt each, apart. Authors' on Flux: 10 candidates, G 12, 16 steps, eta 0.7,
learning rate 2e-6, sigma in bfloat16; under DeepSpeed their code takes an optimiser step for each trained step
(config.train.update_per = timestep), without it one. Ours: the statistics start as those of the first scores.
"""

import jax.numpy as jnp
import numpy as np

from mvgrpo_jax.algorithms.base import Algorithm, Chooser, normalised, options, within
from mvgrpo_jax.core import objectives, sde
from mvgrpo_jax.core.graph import scaled, shared_anchor

DEFAULTS = options(
    trained_steps=(),  # empty: 0, 2, 4, 6 of 16, at the same shares of another number of steps
    candidates=10,  # prompts that are looked at for each one that is kept
    memory=0.8,  # what the running mean and variance keep of themselves
    clipped=False,  # with the clip and the old log-probabilities of the family instead of rho = 1
)


def choose(keep: float):
    def run(scores, memory):
        mean, var, seen = memory.T
        old = np.where(seen > 0, keep, 0.0)
        scores = np.ma.masked_invalid(scores)
        any_there = scores.count(1) > 0  # a slot without any score remembers what it did, and keeps its first prompt
        mean = np.where(any_there, old * mean + (1 - old) * scores.mean(1).filled(0.0), mean)
        var = np.where(any_there, old * var + (1 - old) * scores.var(1).filled(0.0), var)
        kept = np.abs(scores - mean[:, None]).filled(np.inf).argmin(1)
        return kept, np.stack([mean, var, seen + any_there], axis=1).astype(np.float32)

    return run


def running_advantage(reward, mean, var):
    """A_ema [..., G] of rewards [..., G] against a running mean and variance [..., 1]."""
    z = (reward - mean) / (jnp.sqrt(var) + 1e-8)
    there = ~jnp.isnan(z)
    up, down = (jnp.where(there, jnp.maximum(a, 0.0), 0.0).sum(-1, keepdims=True) for a in (z, -z))
    apart = jnp.where(z > 0, z / jnp.maximum(up, 1e-6), z / jnp.maximum(down, 1e-6))
    return jnp.where((up < 1e-6) | (down < 1e-6), z - z.mean(-1, keepdims=True, where=there), apart)


def make(config, o):
    within(o, candidates=(1, 1000), memory=(0, 1))
    steps = config.sampling.steps
    trained = tuple(o.trained_steps) or scaled((0, 2, 4, 6), 16, steps)
    kernel = sde.kernel(o.kernel)
    relative = normalised(config, o, ddof=1, eps=1e-8)

    def advantage(rewards, active, trajectory, memory):
        reward = sum(config.rewards[name] * r for name, r in rewards.items())
        mean, var = (jnp.asarray(memory)[:, i, None, None] for i in (0, 1))
        return jnp.clip(relative(rewards, active, trajectory, memory) + running_advantage(reward, mean, var), -o.bound, o.bound)

    return Algorithm(
        graph=shared_anchor(steps, trained, config.group_size),
        kernel=kernel,
        eta=o.eta,
        advantage=advantage,
        objective=objectives.policy_gradient(
            kernel,
            clip=o.clip,
            surrogate=objectives.clipped_surrogate if o.clipped else objectives.plain_surrogate,
            on_policy=not o.clipped,
            kl=o.kl,
            divergence=o.divergence,
        ),
        chooser=Chooser(o.candidates, np.zeros((config.prompts_per_iteration, 3), np.float32), choose(o.memory)),
    )

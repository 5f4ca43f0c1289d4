"""Pave-GRPO (Bujiazi/GRPO-Series): the log-probability of stored samples along several paths of the same step.

Rollout as MV-GRPO's. For each trained step from s to s' and each n of `segments`: n - 1 Euler substeps of size (s' - s) / n
with gradient, the first of which reuses v(x_k), then the kernel's mean and deviation for the last substep, judging the stored
x_next.

    L = L_1 + 1/|segments| sum_n L_n,   L_n = mean_i -A_i rho_i,  rho = exp(lp - stop_gradient(lp))

Substeps of equal number are evaluated together as lanes. Authors' on Flux: eta 0.8, segments 2 and 3, the same advantages for
all paths, one prompt a device on 8 GPUs, learning rate 2e-6, 512 px, sigma in bfloat16.
"""

import jax.numpy as jnp

from mvgrpo_jax.algorithms.base import Algorithm, normalised, options
from mvgrpo_jax.core import objectives, sde
from mvgrpo_jax.core.graph import scaled, shared_anchor

DEFAULTS = options(
    eta=0.8,
    trained_steps=(),  # empty: 0, 2, 4, 6 of 16, at the same shares of another number of steps
    segments=(2, 3),
    clipped=False,  # with the clip and the old log-probabilities of the family instead of rho = 1
)


def make(config, o):
    steps, cuts = config.sampling.steps, tuple(o.segments)
    if not cuts or min(cuts) < 2 or max(cuts) > 64:
        raise ValueError(f"segments must be numbers of substeps of at least 2, and at most 64, got {cuts}")
    trained = tuple(o.trained_steps) or scaled((0, 2, 4, 6), 16, steps)
    kernel = sde.kernel(o.kernel)

    def substeps(field, kernel, x_t, steps):
        v = field(x_t, steps.s)
        ends = {1: (x_t, v, steps.s, steps.g)}
        at = {n: x_t + v * ((steps.s_next - steps.s) / n)[..., None, None] for n in cuts}  # after the first substep
        for j in range(1, max(cuts)):
            going = [n for n in cuts if n > j]
            s = [steps.s + (steps.s_next - steps.s) * j / n for n in going]
            vs = field(jnp.concatenate([at[n] for n in going], 1), jnp.concatenate(s, 1))
            for n, start, velocity in zip(going, s, jnp.split(vs, len(going), 1)):
                if j == n - 1:
                    ends[n] = (at[n], velocity, start, kernel.level(start, steps.s_next, o.eta))
                at[n] = at[n] + velocity * ((steps.s_next - steps.s) / n)[..., None, None]
        wide = lambda a: a[..., None, None]
        moments = [kernel.moments(x, u, wide(s), wide(steps.s_next), wide(g)) for x, u, s, g in (ends[n] for n in (1, *cuts))]
        return jnp.stack([mean for mean, _ in moments]), jnp.stack([std[..., 0, 0] for _, std in moments]), v

    return Algorithm(
        graph=shared_anchor(steps, trained, config.group_size),
        kernel=kernel,
        eta=o.eta,
        advantage=normalised(config, o, ddof=1, eps=1e-8),
        objective=objectives.policy_gradient(
            kernel,
            clip=o.clip,
            surrogate=objectives.clipped_surrogate if o.clipped else objectives.plain_surrogate,
            on_policy=not o.clipped,
            move=substeps,
            paths=(1.0, *[1.0 / len(cuts)] * len(cuts)),
            evaluations=1 + sum(n - 1 for n in cuts),
            kl=o.kl,
            divergence=o.divergence,
        ),
    )

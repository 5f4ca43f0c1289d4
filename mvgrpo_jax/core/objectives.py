"""What an update minimises: functions of velocity fields and recorded transitions, a loss per draw out.

Averages over draws and the weights of steps and views are the update's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mvgrpo_jax.core.reductions import Max, Mean, Metric, Min
from mvgrpo_jax.core.rollout import log_density
from mvgrpo_jax.core.sde import Kernel
from mvgrpo_jax.core.structs import Density, Steps

# field(x [P, n, L, C], s [P, n]) -> velocity of the same shape, under one view
Field = Callable[[jax.Array, jax.Array], jax.Array]


class Fields(NamedTuple):
    """The velocity under the parameters that are trained, under those that sampled, and under the initial ones; the last two
    without gradient, None where there are none."""

    trained: Field
    sampler: Field | None
    reference: Field | None


class Transition(NamedTuple):
    """One step of every prompt and draw, as an objective sees it under one view.

    x_t: [P, M, L, C]; x_next: [P, G, L, C]; steps: [P, M]; advantage: [P, G]. old: densities of the rollout's parameters under
    this view, log_prob [P, Q, G] and mean [P, Q, M, L, C] (or None); None where they are the trained parameters' own.
    recorded: the rollout's log_prob [P, G], under the prompt. is_prompt: bool, whether this view is the prompt.
    """

    x_t: jax.Array
    x_next: jax.Array
    steps: Steps
    advantage: jax.Array
    old: tuple[jax.Array, jax.Array | None] | None
    recorded: jax.Array
    is_prompt: jax.Array


@dataclasses.dataclass(frozen=True)
class Objective:
    """loss(fields, transition) -> (loss [P, G], metrics by name); a Mean has one value a draw, [P, G].

    density(field, transition): what the ratio compares; None for a loss without one. keeps_mean: whether the ratio needs the
    old mean beside the old log-probability. reference: whether the loss needs the initial parameters. evaluations: of the
    network for each state, with gradient and without.
    """

    loss: Callable[[Fields, Transition], tuple[jax.Array, dict[str, Metric]]]
    density: Callable[[Field, Transition], Density] | None = None
    keeps_mean: bool = False
    reference: bool = False
    evaluations: tuple[int, int] = (1, 0)


# --- transitions and their densities -----------------------------------------------------------------------------------


def direct(field: Field, kernel: Kernel, x_t, steps: Steps) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(mean [1, P, M, L, C], std [1, P, M], velocity [P, M, L, C]) of one step along the grid."""
    v = field(x_t, steps.s)
    mean, std = kernel.moments(x_t, v, *(a[..., None, None] for a in steps[:3]))
    return mean[None], (std[..., 0, 0] * steps.stretch)[None], v


def density(field: Field, transition: Transition, kernel: Kernel, move=direct) -> Density:
    """The density of x_next on every path of `move`."""
    mean, std, v = move(field, kernel, transition.x_t, transition.steps)
    log_prob = jax.vmap(lambda m, d: log_density(kernel, transition.x_next, m, d))(mean, std)
    return Density(log_prob, mean, std, v)


# --- ratios ------------------------------------------------------------------------------------------------------------


def likelihood_ratio(new: Density, old_log_prob: jax.Array, old_mean: jax.Array | None) -> jax.Array:
    """p_theta / p_old [Q, P, G], of log-probabilities averaged over tokens and channels."""
    del old_mean
    return jnp.exp(new.log_prob - old_log_prob)


# --- surrogates --------------------------------------------------------------------------------------------------------


def clipped_surrogate(ratio: jax.Array, advantage: jax.Array, clip: float) -> jax.Array:
    """max(-A r, -A clip(r, 1 - clip, 1 + clip)): PPO's pessimistic loss, to be minimised; any broadcastable shapes."""
    return jnp.maximum(-advantage * ratio, -advantage * jnp.clip(ratio, 1.0 - clip, 1.0 + clip))


def plain_surrogate(ratio: jax.Array, advantage: jax.Array, clip: float) -> jax.Array:
    """-A r: without a clip."""
    del clip
    return -advantage * ratio


# --- divergences from the reference ------------------------------------------------------------------------------------


def gaussian_kl(mean: jax.Array, mean_ref: jax.Array, std: jax.Array) -> jax.Array:
    """(mean - mean_ref)^2 / (2 std^2), averaged over the last two axes: KL of two Gaussians of equal deviation [...]."""
    return jnp.mean((mean - mean_ref) ** 2 / (2.0 * std[..., None, None] ** 2), (-2, -1))


DIVERGENCES: dict[str, Callable[[Density, Density, Steps], jax.Array]] = {
    # the transitions' KL divergence
    "transition": lambda new, ref, steps: gaussian_kl(new.mean[0], ref.mean[0], new.std[0]),
    # Flow-GRPO's code: the same with g^2 for the variance, that is without its factor -dt
    "undivided": lambda new, ref, steps: gaussian_kl(new.mean[0], ref.mean[0], steps.g),
    # Flow-Factory: of the velocities
    "velocity": lambda new, ref, steps: jnp.mean((new.v - ref.v) ** 2, (-2, -1)),
}


def policy_gradient(
    kernel: Kernel,
    *,
    clip: float,
    surrogate: Callable = clipped_surrogate,
    ratio: Callable = likelihood_ratio,
    keeps_mean: bool = False,
    move: Callable = direct,
    paths: tuple[float, ...] = (1.0,),
    evaluations: int = 1,
    on_policy: bool = False,
    kl: float = 0.0,
    divergence: str = "transition",
) -> Objective:
    """sum_q paths[q] surrogate(ratio_q, A) + kl D(new || reference), one value per draw.

    keeps_mean: whether `ratio` needs the old mean. paths: the weight of each path of `move`, which makes so many
    evaluations for each state. on_policy: the ratio's denominator is always its own numerator without
    gradient. kl: weight of the divergence, a name of DIVERGENCES.
    """
    if divergence not in DIVERGENCES:
        raise ValueError(f"unknown divergence {divergence!r}; there are: {', '.join(DIVERGENCES)}")

    def judge(field: Field, transition: Transition) -> Density:
        return density(field, transition, kernel, move)

    def loss(fields: Fields, transition: Transition):
        new = judge(fields.trained, transition)
        if on_policy or transition.old is None:
            old_log_prob, old_mean = jax.lax.stop_gradient((new.log_prob, new.mean))
        else:
            old_log_prob, old_mean = (a if a is None else jnp.moveaxis(a, 1, 0) for a in transition.old)
        r = ratio(new, old_log_prob, old_mean)  # [Q, P, G]
        value = sum(w * s for w, s in zip(paths, surrogate(r, transition.advantage, clip), strict=True))
        away = jnp.zeros_like(value)
        if kl:
            per_state = DIVERGENCES[divergence](new, judge(fields.reference, transition), transition.steps)
            away = jnp.repeat(per_state, value.shape[1] // per_state.shape[1], axis=1)
        drift = jnp.abs(new.log_prob[0] - transition.recorded)
        low, high = (r < 1.0 - clip).mean(0), (r > 1.0 + clip).mean(0)
        return value + kl * away, {
            "ratio/mean": Mean.of(r.mean(0)),
            "ratio/min": Min(r.min()),
            "ratio/max": Max(r.max()),
            "clip/low": Mean.of(low),
            "clip/high": Mean.of(high),
            "kl": Mean.of(away),
            "drift/rollout": Max(jnp.where(transition.is_prompt, drift.max(), 0.0)),
        }

    return Objective(loss, None if on_policy else judge, keeps_mean, bool(kl), (evaluations, evaluations if kl else 0))


def nft(*, beta: float, bound: float, kl: float) -> Objective:
    """Regression of positive and negative velocities (DiffusionNFT, arXiv 2509.16117).

    x_next is the finished sample x0, x_t = (1 - t) x0 + t noise with t = steps.s, and the advantage, within +-bound, becomes
    the optimality r = clip(A / (2 bound) + 1/2, 0, 1). With v_old of the sampling policy,

        v+ = beta v + (1 - beta) v_old,   v- = (1 + beta) v_old - beta v,   x0+- = x_t - t v+-
        loss = bound [r l+ + (1 - r) l-] / beta + kl mean (v - v_ref)^2,
        l+- = mean (x0+- - x0)^2 / max(mean |x0+- - x0| without gradient, 1e-5).
    """

    def loss(fields: Fields, transition: Transition):
        t, x0 = transition.steps.s[..., None, None], transition.x_next
        v = fields.trained(transition.x_t, transition.steps.s)
        v_old = fields.sampler(transition.x_t, transition.steps.s)

        def distance(velocity):
            error = transition.x_t - t * velocity - x0
            size = jnp.maximum(jnp.mean(jnp.abs(jax.lax.stop_gradient(error)), (-2, -1)), 1e-5)
            return jnp.mean(error**2, (-2, -1)) / size

        positive, negative = beta * v + (1.0 - beta) * v_old, (1.0 + beta) * v_old - beta * v
        wanted = jnp.clip(transition.advantage / (2.0 * bound) + 0.5, 0.0, 1.0)
        value = bound * (wanted * distance(positive) + (1.0 - wanted) * distance(negative)) / beta
        away = jnp.zeros_like(value)
        if kl:
            away = jnp.mean((v - fields.reference(transition.x_t, transition.steps.s)) ** 2, (-2, -1))
        moved = jnp.mean((v - v_old) ** 2, (-2, -1))
        return value + kl * away, {
            "kl": Mean.of(away),
            "drift/velocity": Mean.of(moved),
            "optimality": Mean.of(wanted),
        }

    return Objective(loss, reference=bool(kl), evaluations=(1, 2 if kl else 1))


AGGREGATES = ("mean", "sum", "balanced")


def view_weights(active: jax.Array, aggregate: str, prompt_weight: float = 0.5) -> jax.Array:
    """The weight of each view in the multi-view objective (MV-GRPO, arXiv 2603.12648, w_k).

    active: bool [V, ...], the prompt's own view first, False where a caption is missing. 'mean': 1 / (number of active views);
    'sum': 1 each; 'balanced': prompt_weight, in (0, 1], for the prompt and the rest shared by the captions; what is missing on
    one side goes to the other.
    """
    active = active.astype(jnp.float32)
    if aggregate == "mean":
        return active / jnp.maximum(active.sum(0), 1.0)
    if aggregate == "sum":
        return active
    if aggregate == "balanced":
        prompt, captions = active[:1], active[1:]
        each = (1.0 - prompt_weight) * captions / jnp.maximum(captions.sum(0), 1.0)
        weights = jnp.concatenate([prompt_weight * prompt, each])
        return weights / jnp.maximum(weights.sum(0), 1e-9)
    raise ValueError(f"unknown aggregation of views {aggregate!r}; there are: {', '.join(AGGREGATES)}")

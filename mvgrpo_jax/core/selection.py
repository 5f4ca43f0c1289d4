"""Which transitions an update trains on, and how much each counts."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mvgrpo_jax.core.structs import Steps, Trajectory, Transitions


class Selection(NamedTuple):
    """Transitions with the advantage [V, P, B, G] and the weight [P, B, G] of each draw; weights are 1 on average unless an
    algorithm says otherwise."""

    transitions: Transitions
    advantage: jax.Array
    weight: jax.Array


# select(key, trajectory, advantage [V, P, R or B, G], stage, sigmas [N + 1]) -> Selection. stage: static, what changes between
# iterations.
Select = Callable[[jax.Array, Trajectory, jax.Array, Hashable, np.ndarray], Selection]
# weigh(steps [P, B, M]) -> weight of each state's draws, of the same shape
Weigh = Callable[[Steps], jax.Array]


def equally(steps: Steps) -> jax.Array:
    """Every transition counts the same."""
    return jnp.ones_like(steps.s)


def of_draws(per_state: jax.Array, draws: int) -> jax.Array:
    """[..., M] -> [..., G]: each state's value for all of its draws."""
    return jnp.repeat(per_state, draws // per_state.shape[-1], axis=-1)


def everything(weigh: Weigh = equally) -> Select:
    """All recorded transitions; a branch's advantage, or the only one, is that of each of its steps."""

    def select(key, trajectory, advantage, stage, sigmas):
        del key, stage, sigmas
        t = trajectory.transitions
        shape = (*advantage.shape[:2], *t.log_prob.shape[1:])
        return Selection(t, jnp.broadcast_to(advantage, shape), of_draws(weigh(t.steps), shape[-1]))

    return select


def some_steps(count: int) -> Select:
    """`count` steps of each sample, drawn at random and in random order (DanceGRPO, arXiv 2505.07818, timestep selection)."""

    def select(key, trajectory, advantage, stage, sigmas):
        del stage, sigmas
        prompts, steps, draws = trajectory.transitions.log_prob.shape
        order = jax.vmap(lambda k: jax.random.permutation(k, steps))(jax.random.split(key, prompts * draws))[:, :count]
        edges = order.reshape(prompts, draws, count).swapaxes(1, 2) * draws + jnp.arange(draws)  # [P, count, G]
        spread = jnp.broadcast_to(advantage, (*advantage.shape[:2], steps, draws))
        t, advantage = take(trajectory.transitions, spread, edges)
        return Selection(t, advantage, jnp.ones_like(t.log_prob))

    return select


def take(transitions: Transitions, advantage: jax.Array, edges: jax.Array) -> tuple[Transitions, jax.Array]:
    """The draws at edges [P, B', G'], indices into [B * G]; each with a state of its own."""
    draws = transitions.log_prob.shape[2]
    flat_edges = edges.reshape(edges.shape[0], -1)

    def pick(a, axis=1):  # [..., P, B, G, ...] -> [..., P, B', G', ...]
        flat = a.reshape(*a.shape[:axis], -1, *a.shape[axis + 2 :])
        index = flat_edges.reshape(*[1] * (axis - 1), *flat_edges.shape, *[1] * (flat.ndim - axis - 1))
        picked = jnp.take_along_axis(flat, index, axis=axis)
        return picked.reshape(*a.shape[:axis], *edges.shape[1:], *a.shape[axis + 2 :])

    def of_its_state(a):
        return pick(jnp.repeat(a, draws // a.shape[2], axis=2))

    chosen = Transitions(
        x_t=of_its_state(transitions.x_t),
        x_next=pick(transitions.x_next),
        log_prob=pick(transitions.log_prob),
        steps=Steps(*(of_its_state(a) for a in transitions.steps)),
    )
    return chosen, pick(advantage, axis=2)

"""Drawing the samples: a plan's segments as compiled scans over one body."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from mvgrpo_jax import plans
from mvgrpo_jax.sde import Kernel
from mvgrpo_jax.types import Trajectory

Velocity = Callable[[jax.Array, jax.Array], jax.Array]


def integrate(
    velocity: Velocity, kernel: Kernel, x: jax.Array, sigmas: np.ndarray, g: np.ndarray | None, key: jax.Array | None = None
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
    """Steps along sigmas [n + 1] from x [P, n_lanes, L, C].

    g: [n] noise coefficients, or None for the ODE. Returns the last state and, stacked over steps, (x_t, v, x_next).
    """

    def step(x, inputs):
        i, s, s_next, level = inputs
        v = velocity(x, s)
        if g is None:
            x_next = x + v * (s_next - s)
        else:
            mean, std = kernel.moments(x, v, s, s_next, level)
            x_next = mean + std * jax.random.normal(jax.random.fold_in(key, i), x.shape, x.dtype)
        return x_next, (x, v, x_next)

    n = len(sigmas) - 1
    level = np.zeros(n) if g is None else g
    inputs = (jnp.arange(n), *(jnp.asarray(a, jnp.float32) for a in (sigmas[:-1], sigmas[1:], level)))
    return jax.lax.scan(step, x, inputs)


def sample(velocity: Velocity, x: jax.Array, sigmas: np.ndarray) -> jax.Array:
    """The ODE from noise [P, n_lanes, L, C] to the final latents, of the same shape."""
    return integrate(velocity, None, x, sigmas, None)[0]


def anchor(
    velocity: Velocity, plan: plans.Plan, kernel: Kernel, sigmas: np.ndarray, g: np.ndarray, noise: jax.Array, key: jax.Array
) -> tuple[Trajectory, jax.Array]:
    """The first half of a plan with an anchor: the trajectory of `rollout` whose x0 are still the draws (x_next), each to
    be finished by `sample` from its step on, and the anchor's final latents."""
    trajectory, _, end = _draws(velocity, plan, kernel, sigmas, g, noise, jax.random.split(key)[0])
    return trajectory, end


def rollout(
    velocity: Velocity, plan: plans.Plan, kernel: Kernel, sigmas: np.ndarray, g: np.ndarray, noise: jax.Array, key: jax.Array
) -> tuple[Trajectory, jax.Array]:
    """Runs a plan.

    velocity(x [P, n, L, C], s []) -> [P, n, L, C]: under each prompt's own condition, float32. noise: [P, plan.noises,
    L, C] float32. Returns the trajectory and the anchor's final latents [P, 1, L, C] (of a plan without an anchor: the
    first sample's).
    """
    k_draw, k_path = jax.random.split(key)
    if plan.anchor:
        trajectory, tail_start, end = _draws(velocity, plan, kernel, sigmas, g, noise, k_draw)
        lanes = noise[:, :0]
    else:
        lanes, recorded = noise, []
    for number, segment in enumerate(plan.segments):
        if segment.join is not None:
            lanes = jnp.concatenate([lanes, tail_start[:, segment.join]], 1)
        lanes = jnp.repeat(lanes, segment.branch, axis=1)
        span = slice(segment.start, segment.stop)
        grid = sigmas[segment.start : segment.stop + 1]
        level = g[span] if segment.stochastic else None
        lanes, path = integrate(velocity, kernel, lanes, grid, level, jax.random.fold_in(k_path, number))
        if segment.stochastic:
            kept = np.asarray([k - segment.start for k in plan.trained if segment.start <= k < segment.stop])
            recorded.append(tuple(a[kept] for a in path))
    x0 = lanes.reshape(lanes.shape[0], plan.branches, plan.group, *lanes.shape[2:])
    if plan.anchor:
        return trajectory._replace(x0=x0), end
    x_t, v, x_next = (jnp.concatenate(parts).swapaxes(0, 1) for parts in zip(*recorded))
    return Trajectory(x_t, x_next, _log_prob(plan, kernel, sigmas, g, x_t, v, x_next), x0), lanes[:, :1]


def _draws(velocity, plan, kernel, sigmas, g, noise, key) -> tuple[Trajectory, jax.Array, jax.Array]:
    """The anchor, and G draws from its state at every trained step: no evaluation beyond the anchor's own."""
    end, (states, velocities, _) = integrate(velocity, kernel, noise, sigmas, None)
    index = np.asarray(plan.trained)
    x_t, v = states[index].swapaxes(0, 1), velocities[index].swapaxes(0, 1)  # [P, B, 1, L, C]
    mean, std = kernel.moments(x_t, v, *_columns(plan, sigmas, g))
    shape = (x_t.shape[0], len(index), plan.group, *x_t.shape[3:])
    x_next = mean + std * jax.random.normal(key, shape, x_t.dtype)
    trajectory = Trajectory(x_t, x_next, _log_prob(plan, kernel, sigmas, g, x_t, v, x_next), x_next)
    return trajectory, x_next, end


def _columns(plan, sigmas, g) -> tuple[jax.Array, ...]:
    """(s, s', g) of the trained steps, shaped [B, 1, 1, 1] against [P, B, M, L, C]."""
    return tuple(jnp.asarray(a)[:, None, None, None] for a in plans.trained_grid(plan, sigmas, g))


def _log_prob(plan, kernel, sigmas, g, x_t, v, x_next) -> jax.Array:
    return kernel.log_prob(x_next, *kernel.moments(x_t, v, *_columns(plan, sigmas, g)))

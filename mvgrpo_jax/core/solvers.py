"""Solvers of the probability-flow ODE dx/ds = v(x, s), from sigma s to s' < s. All make one evaluation a step."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

# step(x, v, s, s', previous x0, previous s, whether it is the first) -> x at s'
Solver = Callable[..., jax.Array]


def euler(x, v, s, s_next, x0_before, s_before, first) -> jax.Array:
    """x + v (s' - s): first order."""
    del x0_before, s_before, first
    return x + v * (s_next - s)


def dpm2(x, v, s, s_next, x0_before, s_before, first) -> jax.Array:
    """DPM-Solver++(2M), midpoint (arXiv 2211.01095, algorithm 2) with alpha = 1 - s, sigma = s and x0 = x - s v.

    First order, that is Euler, at the first step, after s = 1 (where log alpha/sigma is infinite) and into s' = 0.
    """
    x0 = x - s * v
    half_log = lambda s: jnp.log((1.0 - s) / s)
    h, before = half_log(s_next) - half_log(s), half_log(s) - half_log(s_before)
    plain = first | (s_next <= 0.0) | (s_before >= 1.0)
    # alpha' (1 - e^-h), written so that it is finite at s = 1 and s' = 0
    gain = (1.0 - s_next) - (1.0 - s) * s_next / s
    slope = jnp.where(plain, 0.0, 0.5 * h / jnp.where(plain, 1.0, before))
    return s_next / s * x + gain * (x0 + jnp.where(plain, 0.0, slope) * (x0 - x0_before))


SOLVERS: dict[str, Solver] = {"euler": euler, "dpm2": dpm2}


def solver(name: str) -> Solver:
    if name not in SOLVERS:
        raise ValueError(f"unknown solver {name!r}; there are: {', '.join(SOLVERS)}")
    return SOLVERS[name]


def solve(velocity, method: Solver, x: jax.Array, grid: jax.Array, count: int | jax.Array) -> jax.Array:
    """`count` steps along grid [>= count + 1] from x [P, n, L, C]; count may be traced."""

    def body(i, carry):
        x, x0_before, s_before = carry
        s, s_next = grid[i], grid[i + 1]
        v = velocity(x, s)
        return method(x, v, s, s_next, x0_before, s_before, i == 0), x - s * v, s

    grid = jnp.asarray(grid, jnp.float32)
    return jax.lax.fori_loop(0, count, body, (x, x, jnp.ones(())))[0]

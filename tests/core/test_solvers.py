"""ODE solvers on a flow whose path is known: one Gaussian to another, and order of convergence."""

import jax.numpy as jnp
import numpy as np
import pytest

from mvgrpo_jax.core import schedules, solvers

MEAN, SPREAD = 0.7, 0.3


def velocity(x, s):
    """The flow from N(0, 1) at s = 1 to N(MEAN, SPREAD^2) at s = 0: E[x1 - x0 | x_s = x]."""
    s = jnp.asarray(s)[..., None, None]
    variance = (1 - s) ** 2 * SPREAD**2 + s**2
    away = x - (1 - s) * MEAN
    return s / variance * away - (MEAN + (1 - s) * SPREAD**2 / variance * away)


def error(name, steps):
    """Largest distance from the exact end MEAN + SPREAD x: the flow keeps quantiles."""
    x = jnp.asarray(np.linspace(-2, 2, 9), jnp.float32).reshape(1, 1, 9, 1)
    got = solvers.solve(velocity, solvers.solver(name), x, schedules.static(steps, 3.0), steps)
    return float(jnp.abs(got - (MEAN + SPREAD * x)).max())


def test_both_reach_the_end_and_dpm2_is_of_higher_order():
    first = [error("euler", n) for n in (10, 20, 40)]
    second = [error("dpm2", n) for n in (10, 20, 40)]
    assert first[2] < 0.1 and second[2] < 0.02
    assert 1.6 < first[0] / first[1] < 2.6 and 1.6 < first[1] / first[2] < 2.6  # first order halves
    assert second[1] / second[2] > 2.6 and all(b < a for a, b in zip(first, second))


def test_one_step_of_dpm2_is_euler():
    assert error("dpm2", 1) == pytest.approx(error("euler", 1), abs=1e-6)


def test_unknown_solvers_are_listed():
    with pytest.raises(ValueError, match="there are: euler, dpm2"):
        solvers.solver("heun")

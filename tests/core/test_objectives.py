"""Losses by hand and against scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvgrpo_jax.core import objectives


def test_clipped_surrogate_by_hand():
    ratio = jnp.asarray([1.5, 0.5, 1.5, 0.5, 1.05])
    advantage = jnp.asarray([1.0, 1.0, -1.0, -1.0, 2.0])
    # gains are capped at 1.1, losses are not: the pessimistic side of each pair
    np.testing.assert_allclose(objectives.clipped_surrogate(ratio, advantage, 0.1), [-1.1, -0.5, 1.5, 0.9, -2.1], rtol=1e-6)


def test_surrogate_gradient_is_the_policy_gradient_at_ratio_one():
    grad = jax.grad(lambda x: objectives.clipped_surrogate(jnp.exp(x), 0.7, 1e-4))(0.0)
    assert grad == pytest.approx(-0.7)


def test_clipped_side_has_no_gradient():
    assert jax.grad(lambda x: objectives.clipped_surrogate(jnp.exp(x), 1.0, 0.1))(0.2) == 0.0
    assert jax.grad(lambda x: objectives.clipped_surrogate(jnp.exp(x), -1.0, 0.1))(0.2) > 0.0


def test_kl_of_two_gaussians():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 1, 3, 4))
    # KL(N(a, s) || N(b, s)) by its definition, integrated numerically
    s, grid = 0.4, np.linspace(-12, 12, 40_001)
    p = np.exp(-0.5 * ((grid[:, None, None, None] - a) / s) ** 2) / (s * np.sqrt(2 * np.pi))
    log = -0.5 * ((grid[:, None, None, None] - a) / s) ** 2 + 0.5 * ((grid[:, None, None, None] - b) / s) ** 2
    want = (p * log).sum(0) * (grid[1] - grid[0])
    np.testing.assert_allclose(
        objectives.gaussian_kl(jnp.asarray(a), jnp.asarray(b), jnp.asarray([s])), want.mean((-2, -1)), rtol=1e-4
    )


def test_view_weights():
    active = np.array([[True, True], [True, False], [True, False]])
    np.testing.assert_allclose(objectives.view_weights(active, "mean"), [[1 / 3, 1], [1 / 3, 0], [1 / 3, 0]], rtol=1e-6)
    np.testing.assert_allclose(objectives.view_weights(active, "sum"), active)
    np.testing.assert_allclose(
        objectives.view_weights(active, "balanced", 0.25), [[0.25, 1], [0.375, 0], [0.375, 0]], rtol=1e-6
    )
    no_prompt = np.array([[False, False], [True, False], [True, False]])
    np.testing.assert_allclose(objectives.view_weights(no_prompt, "balanced"), [[0, 0], [0.5, 0], [0.5, 0]], rtol=1e-6)
    with pytest.raises(ValueError, match="mean, sum, balanced"):
        objectives.view_weights(active, "median")

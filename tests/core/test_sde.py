"""The kernels against the published formulas, written out as the papers' code has them, and scipy."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from mvgrpo_jax.core import schedules, sde

RNG = np.random.default_rng(0)
X, V, NEXT = RNG.normal(size=(3, 2, 5, 4)).astype(np.float32)
SIGMAS = schedules.static(8, 3.0)


@pytest.mark.parametrize("step", [0, 3, 7])
def test_flow_kernel_is_flow_grpos_formula(step):
    level, s, s_next = 0.7, SIGMAS[step], SIGMAS[step + 1]
    guarded = SIGMAS[1] if s == 1 else s
    std, dt = level * np.sqrt(s / (1 - guarded)), s_next - s
    want_mean = X * (1 + std**2 / (2 * s) * dt) + V * (1 + std**2 * (1 - s) / (2 * s)) * dt
    want = stats.norm(want_mean, std * np.sqrt(-dt)).logpdf(NEXT).mean((-2, -1))
    kernel = sde.kernel("flow")
    mean, deviation = kernel.moments(X, V, s, s_next, kernel.noise(SIGMAS, level)[step])
    np.testing.assert_allclose(mean, want_mean, rtol=1e-5)
    np.testing.assert_allclose(kernel.log_prob(NEXT, mean, deviation), want, rtol=1e-5)


@pytest.mark.parametrize("step", [0, 3, 7])
def test_dance_kernel_is_dancegrpos_formula(step):
    eta, s, s_next = 0.3, SIGMAS[step], SIGMAS[step + 1]
    dt = s_next - s
    x0 = X - s * V
    score = -(X - (1 - s) * x0) / s**2
    want_mean = X + V * dt - 0.5 * eta**2 * score * dt
    want = stats.norm(want_mean, eta * np.sqrt(-dt)).logpdf(NEXT).mean((-2, -1))
    kernel = sde.kernel("dance")
    mean, deviation = kernel.moments(X, V, s, s_next, kernel.noise(SIGMAS, eta)[step])
    np.testing.assert_allclose(mean, want_mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(kernel.log_prob(NEXT, mean, deviation), want, rtol=1e-4)


@pytest.mark.parametrize("step", [0, 3])
def test_cps_kernel_is_flow_cps_formula(step):
    level, s, s_next = 0.8, SIGMAS[step], SIGMAS[step + 1]
    std = s_next * np.sin(level * np.pi / 2)
    want_mean = (1 - s_next) * (X - s * V) + np.sqrt(s_next**2 - std**2) * (X + (1 - s) * V)
    kernel = sde.kernel("cps")
    mean, deviation = kernel.moments(X, V, s, s_next, kernel.noise(SIGMAS, level)[step])
    np.testing.assert_allclose(deviation, std, rtol=1e-6)
    np.testing.assert_allclose(mean, want_mean, rtol=1e-4, atol=1e-6)
    want = (-((NEXT - want_mean) ** 2)).mean((-2, -1))
    np.testing.assert_allclose(kernel.log_prob(NEXT, mean, deviation), want, rtol=1e-4)


@pytest.mark.parametrize("name", sde.KERNELS)
def test_without_noise_every_kernel_is_the_euler_step(name):
    mean, std = sde.kernel(name).moments(X, V, 0.6, 0.45, 0.0)
    np.testing.assert_allclose(mean, X + V * (0.45 - 0.6), atol=1e-6)
    assert float(std) == 0.0


def test_the_marginals_are_the_flows():
    """For Gaussian data the velocity is known: SDE steps must keep the flow's variance (1-s)^2 d^2 + s^2."""
    d, n = 0.5, 400
    sigmas = schedules.static(n, 1.0)
    kernel = sde.kernel("flow")
    g = kernel.noise(sigmas, 0.7)
    x = RNG.normal(size=(20_000,)).astype(np.float64)
    for i in range(n // 2):
        s, s_next = sigmas[i], sigmas[i + 1]
        v = x * (s - (1 - s) * d**2) / ((1 - s) ** 2 * d**2 + s**2)
        mean, std = kernel.moments(x, v, s, s_next, g[i])
        x = np.asarray(mean) + float(std) * RNG.normal(size=x.shape)
    s = sigmas[n // 2]
    assert x.std() == pytest.approx(np.sqrt((1 - s) ** 2 * d**2 + s**2), rel=0.03)


def test_noise_is_finite_at_the_first_step():
    g = sde.kernel("flow").noise(SIGMAS, 0.7)
    assert np.isfinite(g).all() and g[0] == pytest.approx(0.7 * np.sqrt(1 / (1 - SIGMAS[1])))
    assert sde.kernel("flow").noise(np.array([1.0, 0.0]), 0.7) == pytest.approx(0.7)  # a grid of one step


def test_unknown_kernel_lists_what_exists():
    with pytest.raises(ValueError, match="flow, dance, cps"):
        sde.kernel("euler")


def test_log_prob_is_float32_whatever_comes_in():
    kernel = sde.kernel("flow")
    assert kernel.log_prob(jnp.asarray(NEXT), jnp.asarray(X), jnp.float32(0.3)).dtype == jnp.float32

"""The transition kernel: one function gives mean and deviation to the sampler and to the log-probability.

A step goes from sigma s to s' (dt = s' - s < 0) with velocity v = dx/ds. Kernels differ in their noise schedule
g(s), in `moments` and in `log_prob`; g = 0 is the Euler step of the probability-flow ODE in every kernel.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Kernel:
    """level(s, s_next, eta) -> g of a step; moments(x, v, s, s_next, g) -> (mean, std);
    log_prob(x_next, mean, std)."""

    level: Callable[..., jax.Array]
    moments: Callable[..., tuple[jax.Array, jax.Array]]
    log_prob: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]

    def noise(self, sigmas: np.ndarray, eta: float) -> np.ndarray:
        """g [N] of the steps of a grid [N + 1], float64."""
        s, s_next = np.asarray(sigmas[:-1], np.float64), np.asarray(sigmas[1:], np.float64)
        return np.asarray(self.level(s, s_next, eta), np.float64)


def score_moments(x, v, s, s_next, g) -> tuple[jax.Array, jax.Array]:
    """mean = x + [v + g^2/(2s) (x + (1-s) v)] dt, std = g sqrt(-dt): the SDE with the flow's marginals.

    x, v: [..., L, C] float32; s, s_next, g broadcast against them. Flow-GRPO (arXiv 2505.05470) section 4, DanceGRPO
    (arXiv 2505.07818) section 3; both are this with their own g.
    """
    dt = s_next - s
    drift = v + g**2 / (2.0 * s) * (x + (1.0 - s) * v)
    return x + drift * dt, g * jnp.sqrt(-dt)


def cps_moments(x, v, s, s_next, g) -> tuple[jax.Array, jax.Array]:
    """mean = (1-s') x0 + sqrt(s'^2 - g^2) x1, std = g: coefficients preserved (Flow-CPS, arXiv 2509.05952)."""
    x0, x1 = x - s * v, x + (1.0 - s) * v
    return (1.0 - s_next) * x0 + jnp.sqrt(s_next**2 - g**2) * x1, jnp.asarray(g)


def gaussian_log_prob(x_next, mean, std) -> jax.Array:
    """Log-density of N(mean, std^2) at x_next, averaged over the last two axes (tokens, channels): [...]."""
    z = (x_next - mean) / std
    return jnp.mean(-0.5 * z**2 - jnp.log(std) - 0.5 * jnp.log(2.0 * jnp.pi), (-2, -1))


def squared_error_log_prob(x_next, mean, std) -> jax.Array:
    """-(x_next - mean)^2 averaged over the last two axes: Flow-CPS's choice, without the variance. Ratios have another
    scale at each step, so clip ranges do not carry over from the Gaussian kernels."""
    del std
    return jnp.mean(-((x_next - mean) ** 2), (-2, -1))


def flow_level(s, s_next, eta):
    """g = eta sqrt(s / (1 - s)) (Flow-GRPO). Infinite at s = 1, where 1 - s is taken at s': g = eta sqrt(1 / (1 - s'))."""
    return eta * (s / (1.0 - s + (s == 1.0) * (1.0 - s_next))) ** 0.5


def constant_level(s, s_next, eta):
    """g = eta at every step (DanceGRPO)."""
    del s_next
    return eta + 0.0 * s


def cps_level(s, s_next, eta):
    """g = s' sin(eta pi / 2): the step's deviation itself (Flow-CPS)."""
    del s
    return s_next * np.sin(eta * np.pi / 2)


KERNELS = {
    "flow": Kernel(flow_level, score_moments, gaussian_log_prob),
    "dance": Kernel(constant_level, score_moments, gaussian_log_prob),
    "cps": Kernel(cps_level, cps_moments, squared_error_log_prob),
}


def kernel(name: str) -> Kernel:
    if name not in KERNELS:
        raise ValueError(f"unknown kernel {name!r}; there are: {', '.join(KERNELS)}")
    return KERNELS[name]

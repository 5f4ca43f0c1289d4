"""The algorithms written out plainly: torch in float64, one sample at a time, loops; nothing of the package under test.

A small random network stands for the velocity. Formulas are those of the papers and their authors' code.
"""

import math

import numpy as np
import torch

PROMPTS, TOKENS, CHANNELS, WIDTH, POOLED = 2, 3, 4, 6, 5


def weights(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"a": (CHANNELS, WIDTH), "s": (WIDTH,), "c": (POOLED, WIDTH), "b": (WIDTH, CHANNELS)}
    return {n: (rng.normal(size=s) * 0.6).astype(np.float32) for n, s in shapes.items()}


class Net:
    """v(x, s, c) = tanh(x a + s w + c C) b - 0.3 x of x [tokens, channels]; counts its calls."""

    def __init__(self, values, gradient=False):
        self.w = {n: torch.tensor(a, dtype=torch.float64, requires_grad=gradient) for n, a in values.items()}
        self.calls = 0

    def __call__(self, x, s, c):
        self.calls += 1
        hidden = torch.tanh(x @ self.w["a"] + s * self.w["s"] + torch.as_tensor(c, dtype=torch.float64) @ self.w["c"])
        return hidden @ self.w["b"] - 0.3 * x


def tensor(a):
    return torch.as_tensor(np.array(a), dtype=torch.float64)


def static(steps, h=3.0):
    return [h * (1 - i / steps) / (1 + (h - 1) * (1 - i / steps)) for i in range(steps + 1)]


def flow_std(sigmas, k, eta):
    """Flow-GRPO's std_t, without sqrt(-dt)."""
    s = sigmas[k]
    return eta * math.sqrt(s / (1 - (sigmas[1] if s == 1 else s)))


def moments(kernel, x, v, sigmas, k, eta):
    """(mean, deviation) of x_{k+1} given x_k, as the authors' code has them."""
    s, s_next = sigmas[k], sigmas[k + 1]
    dt = s_next - s
    if kernel == "flow":
        std = flow_std(sigmas, k, eta)
        return x * (1 + std**2 / (2 * s) * dt) + v * (1 + std**2 * (1 - s) / (2 * s)) * dt, std * math.sqrt(-dt)
    if kernel == "dance":
        x0 = x - s * v
        score = -(x - (1 - s) * x0) / s**2
        return x + v * dt - 0.5 * eta**2 * score * dt, eta * math.sqrt(-dt)
    std = s_next * math.sin(eta * math.pi / 2)
    return (1 - s_next) * (x - s * v) + math.sqrt(s_next**2 - std**2) * (x + (1 - s) * v), std


def log_prob(kernel, x_next, mean, std):
    if kernel == "cps":
        return -((x_next - mean) ** 2).mean()
    return (-((x_next - mean) ** 2) / (2 * std**2) - math.log(std) - 0.5 * math.log(2 * math.pi)).mean()


def euler(net, x, c, sigmas, start, stop):
    for k in range(start, stop):
        x = x + net(x, sigmas[k], c) * (sigmas[k + 1] - sigmas[k])
    return x


def ppo(ratio, advantage, clip):
    return torch.maximum(-advantage * ratio, -advantage * torch.clamp(ratio, 1 - clip, 1 + clip))


def normalised(rewards, ddof, eps, bound=5.0, std=None):
    """Group advantages of a list of numbers."""
    r = np.asarray(rewards, np.float64)
    return np.clip((r - r.mean()) / ((r.std(ddof=ddof) if std is None else std) + eps), -bound, bound)


def reward(x0, view):
    """What the test's judge thinks of final latents under a view."""
    x = np.asarray(x0, np.float64)
    return float(np.sin(3 * x + view).mean() + 0.1 * view * x[0, 0])

"""Rollouts against plain loops over samples, and their number of model evaluations counted in the program."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from mvgrpo_jax.core import rollout, schedules, sde
from mvgrpo_jax.core.graph import shared_anchor, window
from mvgrpo_jax.models import flux
from mvgrpo_jax.planning import flops
from tests import tiny

KERNEL, PROMPTS, TOKENS, CHANNELS = sde.kernel("flow"), 2, 3, 2
Drawn = collections.namedtuple("Drawn", "x_t x_next log_prob steps x0")
W = jnp.asarray(np.random.default_rng(0).normal(size=(CHANNELS, CHANNELS)), jnp.float32)


def velocity(x, s):
    """Nonlinear, with a batch of lanes."""
    return jnp.tanh(x @ W) * (0.5 + jnp.asarray(s)[..., None, None]) - 0.3 * x


def run(graph, seed=0):
    sigmas = schedules.static(graph.steps, 3.0)
    g = KERNEL.noise(sigmas, 0.7)
    noise = jax.random.normal(jax.random.key(seed), (PROMPTS, graph.noises, TOKENS, CHANNELS))
    out, end = rollout.rollout(velocity, graph, KERNEL, sigmas, g, noise, rollout.normals(jax.random.key(1)))
    out = jax.tree.map(np.asarray, out)
    return Drawn(*out.transitions, out.x0), np.asarray(end), sigmas, g, np.asarray(noise)


def euler(x, sigmas, start, stop):
    for i in range(start, stop):
        x = x + np.asarray(velocity(x, sigmas[i])) * (sigmas[i + 1] - sigmas[i])
    return x


@pytest.mark.parametrize("trained", [(0, 2, 3), (1,), (0, 4)])
def test_shared_anchor_against_loops(trained):
    graph = shared_anchor(5, trained, 4)
    out, end, sigmas, g, noise = run(graph)
    for p in range(PROMPTS):
        np.testing.assert_allclose(end[p, 0], euler(noise[p, 0], sigmas, 0, 5), atol=1e-5)
        for b, k in enumerate(trained):
            x = euler(noise[p, 0], sigmas, 0, k)
            np.testing.assert_allclose(out.x_t[p, b, 0], x, atol=1e-5)
            mean, std = KERNEL.moments(x, np.asarray(velocity(x, sigmas[k])), sigmas[k], sigmas[k + 1], g[k])
            for i in range(4):
                drawn = out.x_next[p, b, i]
                np.testing.assert_allclose(out.x0[p, b, i], euler(drawn, sigmas, k + 1, 5), atol=1e-5)
                want = stats.norm(np.asarray(mean), float(std)).logpdf(drawn).mean()
                np.testing.assert_allclose(out.log_prob[p, b, i], want, rtol=1e-4, atol=1e-5)


def test_draws_have_the_kernels_distribution():
    graph = shared_anchor(3, (1,), 4000)
    out, _, sigmas, g, _ = run(graph)
    x = out.x_t[0, 0, 0]
    mean, std = KERNEL.moments(x, np.asarray(velocity(x, sigmas[1])), sigmas[1], sigmas[2], g[1])
    z = (out.x_next[0, 0] - np.asarray(mean)) / float(std)
    assert stats.kstest(z.ravel(), "norm").pvalue > 1e-3


def test_independent_samples_against_loops():
    graph = window(5, 1, 4, 3, trained=(1, 3))
    out, _, sigmas, g, noise = run(graph)
    assert out.x_t.shape == (PROMPTS, 2, 3, TOKENS, CHANNELS) and out.x0.shape[:3] == (PROMPTS, 1, 3)
    for p in range(PROMPTS):
        for i in range(3):
            np.testing.assert_allclose(out.x_t[p, 0, i], euler(noise[p, i], sigmas, 0, 1), atol=1e-5)
            np.testing.assert_allclose(out.x0[p, 0, i], euler(out.x_next[p, 1, i], sigmas, 4, 5), atol=1e-5)
            for b, k in enumerate((1, 3)):
                x = out.x_t[p, b, i]
                mean, std = KERNEL.moments(x, np.asarray(velocity(x, sigmas[k])), sigmas[k], sigmas[k + 1], g[k])
                want = stats.norm(np.asarray(mean), float(std)).logpdf(out.x_next[p, b, i]).mean()
                np.testing.assert_allclose(out.log_prob[p, b, i], want, rtol=1e-4, atol=1e-5)


def test_same_noise_gives_one_start():
    out, *_ = run(window(4, 0, 4, 3, trained=(0, 1), same_noise=True))
    np.testing.assert_array_equal(out.x_t[:, 0, 0], out.x_t[:, 0, 1])
    assert np.abs(out.x_t[:, 1, 0] - out.x_t[:, 1, 1]).max() > 0.01


@pytest.mark.parametrize(
    "graph, evaluations, calls",
    [(shared_anchor(16, (0, 2, 4, 6), 12), 592, 16 + 15), (window(6, 0, 6, 4, trained=range(5)), 24, 6)],
    ids=["mvgrpo", "all steps"],
)
def test_the_program_holds_exactly_the_stated_evaluations(graph, evaluations, calls):
    """calls: of the network, each of all lanes; a text is embedded once in each."""
    net, params = tiny.policy_and_params()
    sigmas = schedules.static(graph.steps, 3.0)
    prompt = tiny.conditions(jax.random.key(0), PROMPTS)
    noise = jnp.zeros((PROMPTS, graph.noises, tiny.TOKENS, tiny.CONFIG.in_channels))

    def program(params):
        field = lambda x, s: net.velocity(params, x, s, prompt)
        return rollout.rollout(
            field, graph, KERNEL, sigmas, KERNEL.noise(sigmas, 0.7), noise, rollout.normals(jax.random.key(0))
        )

    one, text = flux.forward_flops(tiny.CONFIG, tiny.TOKENS, tiny.TEXT), flux.text_flops(tiny.CONFIG, tiny.TEXT)
    assert flops.count(program, params) == PROMPTS * (evaluations * (one - text) + calls * text)
    assert graph.evaluations == evaluations

"""DiffusionNFT against a plain implementation of its formulas."""

import numpy as np
import pytest

from mvgrpo_jax import algorithms
from tests.algorithms import harness, plain
from tests.algorithms.expected import judged, pictures_match
from tests.algorithms.plain import PROMPTS


@pytest.mark.parametrize("beta, kl", [(1.0, 1e-4), (0.1, 0.0)])
def test_diffusion_nft(beta, kl):
    config = harness.settings("diffusion_nft", steps=6, group=3, beta=beta, kl=kl, solver="euler", times=2, span=0.7)
    run = harness.run(config, views=2, off_policy=0.05)
    sampler, pictures = plain.Net(run.params), []
    for p in range(PROMPTS):
        c = run.pooled[0, p, 0]
        pictures.append([[plain.euler(sampler, plain.tensor(run.start[p, i]), c, run.sigmas, 0, 6) for i in range(3)]])
    pictures_match(run, pictures)
    net, reference, total, noises = plain.Net(run.moved, True), plain.Net(plain.weights(1)), 0.0, []
    t_all = run.chosen.transitions.steps.s.astype(np.float64)
    assert t_all.shape == (PROMPTS, 2, 3) and set(np.round(t_all.ravel(), 5)) <= set(np.round(run.sigmas[:4], 5))
    assert all(t_all[p, 0, i] != t_all[p, 1, i] for p in range(PROMPTS) for i in range(3))
    for p in range(PROMPTS):
        for b in range(2):
            for i in range(3):
                t, x0 = float(t_all[p, b, i]), pictures[p][0][i]
                x_t = plain.tensor(run.chosen.transitions.x_t[p, b, i])
                noises.append(((x_t - (1 - t) * x0) / t).numpy())
                for v in range(2):
                    c = run.pooled[v, p, 0]
                    spread = np.std([judged(pictures, q, 0, v) for q in range(PROMPTS)])
                    advantage = plain.normalised(judged(pictures, p, 0, v), 0, 1e-4, std=spread)[i]
                    wish = min(max(advantage / 10 + 0.5, 0), 1)
                    new, old = net(x_t, t, c), sampler(x_t, t, c).detach()
                    parts = []
                    for velocity in (beta * new + (1 - beta) * old, (1 + beta) * old - beta * new):
                        error = (x_t - t * velocity) - x0
                        parts.append((error**2).mean() / max(error.detach().abs().mean().item(), 1e-5))
                    loss = 5 * (wish * parts[0] / beta + (1 - wish) * parts[1] / beta)
                    loss = loss + kl * ((new - reference(x_t, t, c).detach()) ** 2).mean()
                    total = total + loss / (PROMPTS * 2 * 3 * 2)
    harness.same(run, total, net)
    assert abs(np.mean(noises)) < 0.4 and 0.6 < np.std(noises) < 1.4  # fresh standard normal noise


def test_diffusion_nfts_old_policy_follows_as_published():
    follow = lambda kind: algorithms.make(harness.settings("diffusion_nft", steps=6, group=3, decay=kind)).follow
    assert [follow(0)(i) for i in (0, 99)] == [0.0, 0.0]
    assert [follow(1)(i) for i in (0, 99, 999)] == pytest.approx([0.001, 0.1, 0.5])
    assert [follow(2)(i) for i in (74, 75, 174, 999)] == pytest.approx([0.0, 0.0075, 0.75, 0.999])

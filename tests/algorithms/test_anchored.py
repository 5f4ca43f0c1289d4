"""Algorithms whose samples leave a trajectory that the group shares, against a plain implementation of their formulas."""

import math

import numpy as np
import pytest
import torch

from mvgrpo_jax import algorithms
from mvgrpo_jax.core import schedules
from tests.algorithms import harness, plain
from tests.algorithms.expected import Record, judged, pictures_match, surrogate_loss
from tests.algorithms.plain import PROMPTS


def anchored(run, eta, trained, *, anchors=1, strides=(1,)):
    """Samples of anchors and their draws. Returns (pictures [p][branch], {(p, branch, i): (x, x_next)}, model calls a
    prompt)."""
    net, pictures, steps = plain.Net(run.params), [], {}
    n, group = len(run.sigmas) - 1, run.config.group_size
    each = group // anchors
    for p in range(PROMPTS):
        c, states = run.pooled[0, p, 0], []
        for a in range(anchors):
            x, path = plain.tensor(run.start[p, a]), []
            for k in range(n):
                v = net(x, run.sigmas[k], c)
                path.append((x, v))
                x = x + v * (run.sigmas[k + 1] - run.sigmas[k])
            states.append(path)
        rows = []
        for b, k in enumerate(trained):
            drawn = []
            for i in range(group):
                x, v = states[i // each][k]
                mean, std = plain.moments("flow", x, v, run.sigmas, k, eta)
                drawn.append(mean + std * run.noise(k, p, i))
                steps[p, b, i] = (x, drawn[-1])
            finished = []
            for stride in strides:
                grid = [run.sigmas[k + 1], *(run.sigmas[j] for j in range(k + 2, n, stride))] + [0.0] * (k + 1 < n)
                finished += [plain.euler(net, x, c, grid, 0, len(grid) - 1) for x in drawn]
            rows.append(finished)
        pictures.append(rows)
    return pictures, steps, net.calls / PROMPTS


@pytest.mark.parametrize("off, clip", [(0.0, 1e-4), (0.02, 2e-3)], ids=["on-policy", "off-policy"])
def test_mvgrpo(off, clip):
    config = harness.settings("mvgrpo", steps=6, group=4, trained_steps=(0, 2), clip=clip)
    run = harness.run(config, views=3, off_policy=off)
    pictures, steps, calls = anchored(run, 0.7, (0, 2))
    pictures_match(run, pictures)
    assert run.algorithm.graph.evaluations == calls == 6 + 4 * (5 + 3)
    records = [Record(p, x, (0, 2)[b], x_next, b) for (p, b, i), (x, x_next) in steps.items()]
    for r, (p, b, i) in zip(records, steps):
        r.advantage = [plain.normalised(judged(pictures, p, b, v), 1, 1e-8)[i] for v in range(3)]
    loss, net = surrogate_loss(run, records, "flow", 0.7, clip)
    harness.same(run, loss, net)
    ratios = np.array([run.metrics["ratio/min"], run.metrics["ratio/max"]])
    assert (ratios == 1).all() if not off else ratios[0] < 1 - clip and ratios[1] > 1 + clip


@pytest.mark.parametrize("kappa", [0.0, 1.73])
def test_tempflow_grpo(kappa):
    config = harness.settings("tempflow_grpo", steps=4, group=6, seeds=2, kappa=kappa, kl=0.0, clip=2e-3)
    run = harness.run(config, views=2, off_policy=0.02)
    pictures, steps, calls = anchored(run, 0.9, (0, 1, 2), anchors=2)
    pictures_match(run, pictures)
    assert run.algorithm.graph.evaluations == calls == 2 * 4 + 6 * (3 + 2 + 1)
    q = [plain.flow_std(run.sigmas, k, 0.9) * math.sqrt(run.sigmas[k] - run.sigmas[k + 1]) for k in range(3)]
    scale = kappa or 1 / np.mean(q)
    records = [Record(p, x, b, x_next, b, weight=scale * q[b]) for (p, b, i), (x, x_next) in steps.items()]
    for r, (p, b, i) in zip(records, steps):
        r.advantage = [plain.normalised(judged(pictures, p, b, v), 0, 1e-4)[i] for v in range(2)]
    harness.same(run, *surrogate_loss(run, records, "flow", 0.9, 2e-3))


def test_tempflows_kappa_is_the_mean_of_its_schedule():
    """1.73 on Flux: 10 steps at 1024 px, diffusers' schedule, level 0.9, all steps but the last."""
    sigmas = schedules.dynamic(10, 4096)
    q = [plain.flow_std(list(sigmas), k, 0.9) * math.sqrt(sigmas[k] - sigmas[k + 1]) for k in range(9)]
    assert 1 / np.mean(q) == pytest.approx(1.73, rel=3e-3)
    counted = algorithms.make(harness.settings("tempflow_grpo", steps=10, group=24)).graph
    assert counted.noises == 4 and counted.evaluations == 4 * 10 + 24 * sum(range(1, 10))


@pytest.mark.parametrize("strides", [(1, 2), (1, 3)])
def test_granular_grpo(strides):
    config = harness.settings("granular_grpo", steps=8, group=3, trained_steps=(0, 1, 3), strides=strides, clip=2e-3)
    run = harness.run(config, views=2, off_policy=0.02)
    pictures, steps, calls = anchored(run, 0.7, (0, 1, 3), strides=strides)
    pictures_match(run, pictures)
    assert run.algorithm.graph.evaluations == calls
    records = [Record(p, x, (0, 1, 3)[b], x_next, b) for (p, b, i), (x, x_next) in steps.items()]
    for r, (p, b, i) in zip(records, steps):
        r.advantage = []
        for v in range(2):
            found = judged(pictures, p, b, v)
            parts = [plain.normalised(found[3 * s : 3 * s + 3], 1, 1e-8)[i] for s in range(2)]
            r.advantage.append(np.clip(sum(parts), -5, 5))
    harness.same(run, *surrogate_loss(run, records, "flow", 0.7, 2e-3))


def test_granular_grpos_published_counts():
    graph = algorithms.make(harness.settings("granular_grpo", steps=16, group=12)).graph
    assert graph.trained == tuple(range(8)) and graph.images == 8 * 12 * 2
    assert graph.finish(0, 2) == (1, 2, 4, 6, 8, 10, 12, 14, 16) and graph.finish(1, 2) == (2, 3, 5, 7, 9, 11, 13, 15, 16)


def test_pave_grpo():
    config = harness.settings("pave_grpo", steps=6, group=3, trained_steps=(0, 2))
    run = harness.run(config, views=2, off_policy=0.02)
    pictures, steps, _ = anchored(run, 0.8, (0, 2))
    pictures_match(run, pictures)
    net, total = plain.Net(run.moved, True), 0.0
    for (p, b, i), (x0, x_next) in steps.items():
        k = (0, 2)[b]
        s, s_next = run.sigmas[k], run.sigmas[k + 1]
        for v in range(2):
            c, advantage = run.pooled[v, p, b], plain.normalised(judged(pictures, p, b, v), 1, 1e-8)[i]
            for n, share in ((1, 1.0), (2, 0.5), (3, 0.5)):
                x, at = x0, s
                for j in range(n - 1):  # Euler substeps with gradient
                    x = x + net(x, at, c) * (s_next - s) / n
                    at = s + (s_next - s) * (j + 1) / n
                mean, std = plain.moments("flow", x, net(x, at, c), [at, s_next if at < 1 else run.sigmas[1]], 0, 0.8)
                lp = plain.log_prob("flow", x_next, mean, std)
                total = total - share * advantage * torch.exp(lp - lp.detach()) / (len(steps) * 2)
    harness.same(run, total, net)
    assert run.algorithm.objective.evaluations == (1 + 1 + 2, 0)


def test_adagrpo():
    config = harness.settings("adagrpo", steps=6, group=4, trained_steps=(0, 2))
    memory = np.array([[0.02, 0.01, 3], [-0.03, 0.02, 3]], np.float32)
    run = harness.run(config, views=2, off_policy=0.02, memory=memory)
    pictures, steps, _ = anchored(run, 0.7, (0, 2))
    records = [Record(p, x, (0, 2)[b], x_next, b) for (p, b, i), (x, x_next) in steps.items()]
    for r, (p, b, i) in zip(records, steps):
        r.advantage = []
        for v in range(2):
            found = np.array(judged(pictures, p, b, v))
            z = (found - memory[p, 0]) / (math.sqrt(memory[p, 1]) + 1e-8)
            up, down = z[z > 0].sum(), -z[z < 0].sum()
            own = np.where(z > 0, z / max(up, 1e-6), z / max(down, 1e-6)) if min(up, down) >= 1e-6 else z - z.mean()
            r.advantage.append(np.clip(plain.normalised(found, 1, 1e-8) + own, -5, 5)[i])
    plainly = lambda ratio, advantage, clip: -advantage * ratio
    harness.same(run, *surrogate_loss(run, records, "flow", 0.7, None, on_policy=True, surrogate=plainly))


def test_adagrpos_choice_of_prompts():
    chooser = algorithms.make(harness.settings("adagrpo", steps=6, group=4, candidates=3)).chooser
    scores = np.array([[0.1, 0.5, 0.9], [0.0, 0.2, 0.1]])
    kept, memory = chooser.choose(scores, chooser.memory)
    np.testing.assert_allclose(memory, [[0.5, scores[0].var(), 1], [0.1, scores[1].var(), 1]], rtol=1e-5)
    assert kept.tolist() == [1, 2]  # nearest to the mean
    later = scores + 1.0
    kept, after = chooser.choose(later, memory)
    np.testing.assert_allclose(after[:, 0], 0.8 * memory[:, 0] + 0.2 * later.mean(1), rtol=1e-5)
    np.testing.assert_allclose(after[:, 1], 0.8 * memory[:, 1] + 0.2 * later.var(1), rtol=1e-5)
    assert kept.tolist() == [0, 0]  # all lie above the running mean

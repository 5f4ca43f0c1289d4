"""Every algorithm against a plain implementation of its formulas: pictures, advantages, loss, gradient, evaluations.

The plain versions sample with the same given noise, keep explicit trees and lists, and call the network once a sample.
"""

import dataclasses
import math

import numpy as np
import pytest
import torch

from mvgrpo_jax import algorithms, schedules
from tests.algorithms import harness, plain
from tests.algorithms.plain import PROMPTS


@dataclasses.dataclass
class Record:
    """A trained transition of prompt p: its state, grid step, result, rewarded pictures (indices), and advantage a view."""

    p: int
    x: torch.Tensor
    k: int
    x_next: torch.Tensor
    branch: int = 0
    advantage: object = None  # of each view
    weight: float = 1.0
    stretch: float = 1.0


def surrogate_loss(run, records, kernel, eta, clip, *, ratio=None, on_policy=False, surrogate=plain.ppo, kl=None):
    """(loss with gradients, network) of 1/P 1/V sum over records and views, each record weighing weight / records of a
    prompt."""
    views = run.pooled.shape[0]
    net, old, reference = plain.Net(run.moved, True), plain.Net(run.params), plain.Net(plain.weights(1))
    total, count = 0.0, len(records) / PROMPTS
    for r in records:
        for v in range(views):
            c = run.pooled[v, r.p, r.branch]
            new, before = (
                plain.moments(kernel, r.x, n(r.x, run.sigmas[r.k], c), run.sigmas, r.k, eta)
                for n in (net, net if on_policy else old)
            )
            lp, lp_old = (plain.log_prob(kernel, r.x_next, m, s * r.stretch) for m, s in (new, before))
            rho = (
                torch.exp(lp - lp_old.detach())
                if ratio is None
                else ratio(lp, lp_old.detach(), new[0], before[0].detach(), new[1])
            )
            loss = surrogate(rho, float(r.advantage[v]), clip)
            if kl:
                other = plain.moments(kernel, r.x, reference(r.x, run.sigmas[r.k], c), run.sigmas, r.k, eta)
                loss = loss + kl(new[0], other[0].detach(), new[1], r.k)
            total = total + r.weight * loss / (PROMPTS * views * count)
    return total, net


def pictures_match(run, pictures):
    """pictures[p][r][i] are the run's."""
    got = run.trajectory.x0
    want = np.stack([np.stack([np.stack([x.numpy() for x in r]) for r in p]) for p in pictures])
    np.testing.assert_allclose(got, want, atol=1e-5)


def judged(pictures, p, r, v):
    return [plain.reward(x, v) for x in pictures[p][r]]


# --- rollouts, plainly ---------------------------------------------------------------------------------------------------


def independent(run, kernel, eta, noisy, same_noise):
    """Samples of a window plan. Returns (pictures, {(p, i, k): (x, x_next)}, calls with what is shared counted once)."""
    net, pictures, steps = plain.Net(run.params), [], {}
    n, group = len(run.sigmas) - 1, run.config.group_size
    for p in range(PROMPTS):
        c, row = run.pooled[0, p, 0], []
        for i in range(group):
            x = plain.tensor(run.start[p, 0 if same_noise else i])
            for k in range(n):
                v = net(x, run.sigmas[k], c)
                if k in noisy:
                    mean, std = plain.moments(kernel, x, v, run.sigmas, k, eta)
                    x_next = mean + std * run.noise(k, p, i)
                    steps[p, i, k] = (x, x_next)
                else:
                    x_next = x + v * (run.sigmas[k + 1] - run.sigmas[k])
                x = x_next
            row.append(x)
        pictures.append([row])
    return pictures, steps


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


# --- algorithms ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("off, clip", [(0.0, 1e-4), (0.02, 2e-3)], ids=["on-policy", "off-policy"])
def test_mvgrpo(off, clip):
    config = harness.settings("mvgrpo", steps=6, group=4, trained_steps=(0, 2), clip=clip)
    run = harness.run(config, views=3, off_policy=off)
    pictures, steps, calls = anchored(run, 0.7, (0, 2))
    pictures_match(run, pictures)
    assert run.algorithm.plan.evaluations == calls == 6 + 4 * (5 + 3)
    records = [Record(p, x, (0, 2)[b], x_next, b) for (p, b, i), (x, x_next) in steps.items()]
    for r, (p, b, i) in zip(records, steps):
        r.advantage = [plain.normalised(judged(pictures, p, b, v), 1, 1e-8)[i] for v in range(3)]
    loss, net = surrogate_loss(run, records, "flow", 0.7, clip)
    harness.same(run, loss, net)
    ratios = np.array([run.metrics["min/ratio/min"].min(), run.metrics["max/ratio/max"].max()])
    assert (ratios == 1).all() if not off else ratios[0] < 1 - clip and ratios[1] > 1 + clip


def flow_kl(with_dt):
    def kl(mean, other, std, k):
        sigmas = plain.static(5)
        wide = std if with_dt else plain.flow_std(sigmas, k, 0.9)
        return 0.04 * ((mean - other) ** 2).mean() / (2 * wide**2)

    return kl


@pytest.mark.parametrize("global_std", [True, False])
@pytest.mark.parametrize("divergence", ["undivided", "transition"])
def test_flow_grpo(global_std, divergence):
    config = harness.settings("flow_grpo", steps=5, group=3, clip=2e-3, global_std=global_std, kl=0.04, divergence=divergence)
    run = harness.run(config, views=2, off_policy=0.02)
    pictures, steps = independent(run, "flow", 0.9, range(5), False)
    pictures_match(run, pictures)
    assert run.algorithm.plan.evaluations == 5 * 3
    spread = [np.std([judged(pictures, p, 0, v) for p in range(PROMPTS)]) if global_std else None for v in range(2)]
    records = [Record(p, x, k, x_next) for (p, i, k), (x, x_next) in steps.items() if k < 4]
    for r, (p, i, _k) in zip(records, [key for key in steps if key[2] < 4]):
        r.advantage = [plain.normalised(judged(pictures, p, 0, v), 0, 1e-4, std=spread[v])[i] for v in range(2)]
    loss, net = surrogate_loss(run, records, "flow", 0.9, 2e-3, kl=flow_kl(divergence == "transition"))
    harness.same(run, loss, net)


def test_flow_grpo_trains_a_window_or_a_fraction():
    plan = lambda **own: algorithms.make(harness.settings("flow_grpo", steps=10, group=3, **own)).plan
    assert plan().trained == tuple(range(9)) and plan().noisy == tuple(range(10))
    assert plan(fraction=0.5).trained == tuple(range(5))
    assert plan(window=(2, 5)).trained == plan(window=(2, 5)).noisy == (2, 3, 4)


@pytest.mark.parametrize("form", ["window", "branch"])
def test_flow_grpo_fast(form):
    config = harness.settings("flow_grpo_fast", steps=8, group=3, form=form, size=2, first=1, last=6, clip=1e-3)
    starts = set()
    for iteration in (0, 3):
        run = harness.run(config, iteration=iteration, off_policy=0.01)
        start = 1 + run.shift
        starts.add(start)
        pictures, steps = independent(run, "cps", 0.8, (start, start + 1), form == "branch")
        pictures_match(run, pictures)
        records = [Record(p, x, k, x_next) for (p, i, k), (x, x_next) in steps.items()]
        for r, (p, i, _k) in zip(records, steps):
            r.advantage = [plain.normalised(judged(pictures, p, 0, 0), 0, 1e-4)[i]]
        harness.same(run, *surrogate_loss(run, records, "cps", 0.8, 1e-3))
        shared = start + 1 if form == "branch" else 0  # steps that the group makes as one lane
        assert run.algorithm.plan.evaluations_at(run.shift) == shared + 3 * (8 - shared)
    assert len(starts) == 2
    drawn = {run.algorithm.schedule(i).shift for i in range(200)}
    assert drawn == set(range(4))  # windows start at 1 .. 4


def test_flow_grpo_fast_in_the_authors_setting():
    method = algorithms.make(harness.settings("flow_grpo_fast", steps=6, group=3))
    assert method.plan.trained == (0, 1, 2) and not method.plan.moving  # with 6 steps the draw has one outcome
    whole = algorithms.make(harness.settings("flow_grpo_fast", steps=6, group=3, size=0))
    assert whole.plan.trained == (0, 1, 2, 3, 4)


@pytest.mark.parametrize("same_noise", [True, False])
def test_dancegrpo(same_noise):
    config = harness.settings("dancegrpo", steps=6, group=4, same_noise=same_noise, clip=5e-2)
    run = harness.run(config, views=2, off_policy=0.02)
    pictures, steps = independent(run, "dance", 0.3, range(5), same_noise)
    pictures_match(run, pictures)
    assert run.algorithm.plan.evaluations == (1 + 5 * 4 if same_noise else 6 * 4)
    chosen = run.chosen.transitions
    assert chosen.x_t.shape[1] == int(5 * 0.6) == 3
    at = {round(s, 6): k for k, s in enumerate(run.sigmas)}
    records, seen = [], []
    for p in range(PROMPTS):
        for i in range(4):
            trained = [at[round(float(s), 6)] for s in chosen.steps.s[p, :, i]]
            assert len(set(trained)) == 3 and max(trained) < 5
            seen.append(tuple(trained))
            advantage = [plain.normalised(judged(pictures, p, 0, v), 1, 1e-8)[i] for v in range(2)]
            records += [Record(p, steps[p, i, k][0], k, steps[p, i, k][1], advantage=advantage) for k in trained]
    assert len(set(seen)) > 2  # each sample has steps of its own
    harness.same(run, *surrogate_loss(run, records, "dance", 0.3, 5e-2))


def test_dancegrpos_picture_is_the_last_steps_x0():
    """Without noise the last step ends in x - s v."""
    run = harness.run(harness.settings("dancegrpo", steps=4, group=2))
    _, steps = independent(run, "dance", 0.3, range(3), True)
    net = plain.Net(run.params)
    for p in range(PROMPTS):
        x = steps[p, 1, 2][1]
        np.testing.assert_allclose(
            run.trajectory.x0[p, 0, 1], x - run.sigmas[3] * net(x, run.sigmas[3], run.pooled[0, p, 0]), atol=1e-5
        )


@pytest.mark.parametrize("iteration", [0, 5])
def test_mixgrpo(iteration):
    config = harness.settings("mixgrpo", steps=7, group=3, size=2, dwell=2, clip=2e-3)
    run = harness.run(config, iteration=iteration, off_policy=0.02)
    assert run.shift == iteration // 2
    window = (run.shift, run.shift + 1)
    pictures, steps = independent(run, "flow", 0.7, window, True)
    pictures_match(run, pictures)
    records = [Record(p, x, k, x_next) for (p, i, k), (x, x_next) in steps.items()]
    for r, (p, i, _k) in zip(records, steps):
        r.advantage = [plain.normalised(judged(pictures, p, 0, 0), 1, 1e-8)[i]]
    harness.same(run, *surrogate_loss(run, records, "flow", 0.7, 2e-3))
    assert run.algorithm.plan.evaluations_at(run.shift) == (run.shift + 1) + 3 * (7 - run.shift - 1)


def test_mixgrpos_windows_move_as_the_paper_says():
    def starts(n, **own):
        method = algorithms.make(harness.settings("mixgrpo", steps=25, group=3, **own))
        return [method.schedule(i).shift for i in range(n)]

    assert starts(75)[::25] == [0, 1, 2] and starts(25 * 22 + 1)[-2:] == [21, 0]  # a step each 25 iterations, and back
    assert set(starts(400, movement="random")) == set(range(22))
    assert starts(60, movement="fixed") == [0] * 60
    stays = lambda shifts: [shifts.count(s) for s in range(22)]
    linear = stays(starts(121, movement="decay"))
    assert linear[0] == 10 and linear[21] == 1 and all(a >= b for a, b in zip(linear, linear[1:]))
    falling = [round(25 * math.exp(-0.1 * j)) for j in range(1, 9)]
    assert stays(starts(25 * 14 + sum(falling), movement="exp_decay")) == [25] * 14 + falling


def test_mixgrpo_flash_finishes_on_a_coarser_grid_with_dpm_solver():
    config = harness.settings("mixgrpo", steps=12, group=3, size=2, dwell=1, tail=0.4, solver="dpm2")
    run = harness.run(config, iteration=2)
    first = 2 + 2
    assert run.algorithm.plan.tail_steps(run.shift) == int((12 - first) * 0.4) == 3
    assert run.algorithm.plan.evaluations_at(2) == 3 + 3 * (1 + 3)
    scheduler = pytest.importorskip("diffusers").DPMSolverMultistepScheduler(
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        solver_order=2,
        solver_type="midpoint",
        final_sigmas_type="zero",
    )
    places = first + np.arange(4) * (12 - first) / 3
    grid = np.interp(places, np.arange(13), run.sigmas)
    scheduler.set_timesteps(3)
    scheduler.sigmas = torch.tensor(grid, dtype=torch.float64)
    scheduler.timesteps = torch.tensor(grid[:-1] * 1000)
    _, steps = independent(run, "flow", 0.7, (2, 3), True)
    net = plain.Net(run.params)
    for p in range(PROMPTS):
        for i in range(3):
            x = steps[p, i, 3][1]
            scheduler.model_outputs, scheduler.lower_order_nums, scheduler._step_index = [None, None], 0, None
            for s, t in zip(grid[:-1], scheduler.timesteps):
                x = scheduler.step(net(x, float(s), run.pooled[0, p, 0]), t, x).prev_sample
            np.testing.assert_allclose(run.trajectory.x0[p, 0, i], x, atol=2e-5)


@pytest.mark.parametrize("kappa", [0.0, 1.73])
def test_tempflow_grpo(kappa):
    config = harness.settings("tempflow_grpo", steps=4, group=6, seeds=2, kappa=kappa, kl=0.0, clip=2e-3)
    run = harness.run(config, views=2, off_policy=0.02)
    pictures, steps, calls = anchored(run, 0.9, (0, 1, 2), anchors=2)
    pictures_match(run, pictures)
    assert run.algorithm.plan.evaluations == calls == 2 * 4 + 6 * (3 + 2 + 1)
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
    counted = algorithms.make(harness.settings("tempflow_grpo", steps=10, group=24)).plan
    assert counted.noises == 4 and counted.evaluations == 4 * 10 + 24 * sum(range(1, 10))


@pytest.mark.parametrize("strides", [(1, 2), (1, 3)])
def test_granular_grpo(strides):
    config = harness.settings("granular_grpo", steps=8, group=3, trained_steps=(0, 1, 3), strides=strides, clip=2e-3)
    run = harness.run(config, views=2, off_policy=0.02)
    pictures, steps, calls = anchored(run, 0.7, (0, 1, 3), strides=strides)
    pictures_match(run, pictures)
    assert run.algorithm.plan.evaluations == calls
    records = [Record(p, x, (0, 1, 3)[b], x_next, b) for (p, b, i), (x, x_next) in steps.items()]
    for r, (p, b, i) in zip(records, steps):
        r.advantage = []
        for v in range(2):
            found = judged(pictures, p, b, v)
            parts = [plain.normalised(found[3 * s : 3 * s + 3], 1, 1e-8)[i] for s in range(2)]
            r.advantage.append(np.clip(sum(parts), -5, 5))
    harness.same(run, *surrogate_loss(run, records, "flow", 0.7, 2e-3))


def test_granular_grpos_published_counts():
    plan = algorithms.make(harness.settings("granular_grpo", steps=16, group=12)).plan
    assert plan.trained == tuple(range(8)) and plan.images == 8 * 12 * 2
    assert plan.finish(0, 2) == (1, 2, 4, 6, 8, 10, 12, 14, 16) and plan.finish(1, 2) == (2, 3, 5, 7, 9, 11, 13, 15, 16)


def test_grpo_guard():
    config = harness.settings("grpo_guard", steps=5, group=3, clip=2e-4)
    run = harness.run(config, views=2, off_policy=0.02)
    pictures, steps = independent(run, "flow", 0.7, range(5), False)
    pictures_match(run, pictures)
    records = [Record(p, x, k, x_next) for (p, i, k), (x, x_next) in steps.items() if k < 4]
    for r, (p, i, k) in zip(records, [key for key in steps if key[2] < 4]):
        r.advantage = [plain.normalised(judged(pictures, p, 0, v), 0, 1e-4)[i] for v in range(2)]
        r.weight = 1 / (run.sigmas[k] - run.sigmas[k + 1])

    def guarded(lp, lp_old, mean, mean_old, q):
        bias = ((mean - mean_old) ** 2).mean() / (2 * q**2)
        return torch.exp((lp - lp_old + bias) * q)

    harness.same(run, *surrogate_loss(run, records, "flow", 0.7, 2e-4, ratio=guarded))


def test_grpo_guard_refuses_cps():
    with pytest.raises(Exception, match="needs a Gaussian log-probability"):
        algorithms.make(harness.settings("grpo_guard", steps=5, group=3, kernel="cps"))


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


class Node:
    """An explicit tree: state, depth, log-probability of the edge that leads here, children."""

    def __init__(self, x, depth, log_prob=0.0):
        self.x, self.depth, self.log_prob, self.children = x, depth, log_prob, []

    def paths(self):
        """(leaf, log-probability of the way there)"""
        return [(leaf, child.log_prob + lp) for child in self.children for leaf, lp in child.paths()] or [(self, 0.0)]

    def leaves(self):
        return [leaf for leaf, _ in self.paths()]

    def all(self):
        return [self, *(n for child in self.children for n in child.all())]


def grown(run, net, p, splits, fans, scale, sde, steps, density=False):
    """The tree of a prompt, level by level, its nodes in the order of their leaves. Counts model calls once a node."""
    root = Node(plain.tensor(run.start[p, 0]), 0)
    level, c = [root], run.pooled[0, p, 0]
    for k in range(steps):
        nxt = []
        for node in level:
            v = net(node.x, run.sigmas[k], c)
            mean, std = plain.moments("dance", node.x, v, run.sigmas, k, 0.3)
            for _ in range(fans[splits.index(k)] if k in splits else 1):
                wide, lp = scale if k in splits else 1.0, 0.0
                if k in sde:
                    x = mean + std * wide * run.noise(k, p, len(nxt))
                    lp = float(plain.log_prob("dance", x, mean, std * (wide if density else 1.0)))
                else:
                    x = node.x + v * (run.sigmas[k + 1] - run.sigmas[k])
                node.children.append(Node(x, k + 1, lp))
                nxt.append(node.children[-1])
        level = nxt
    return root


def edges_of(root, p, view_rewards, sde, fusion=0.0):
    """(parent, child, advantages a view) of every stochastic edge; views' rewards by leaf."""
    out = []
    by_depth = {}
    for node in root.all()[1:]:
        by_depth.setdefault(node.depth, []).append(node)
    for node in root.all():
        for child in node.children:
            if node.depth not in sde:
                continue
            peers, advantages = by_depth[child.depth], []
            for rewards in view_rewards:
                values = []
                for peer in peers:
                    weights = [math.exp(fusion * lp) for _, lp in peer.paths()]
                    values.append(np.average([rewards[id(leaf)] for leaf in peer.leaves()], weights=weights))
                advantages.append(plain.normalised(values, 1, 1e-8)[peers.index(child)] if len(peers) > 1 else 0.0)
            out.append((node, child, advantages))
    return out


@pytest.mark.parametrize(
    "own, density",
    [
        ({}, False),
        ({"fan_density": True, "fusion": 0.7}, True),
        ({"fusion": 0.7}, False),
        ({"stochastic": (0, 1, 2, 4)}, False),
    ],
    ids=["authors'", "unbiased", "fused", "mixed"],
)
def test_branchgrpo(own, density):
    config = harness.settings("branchgrpo", steps=6, group=6, splits=(0, 2), fans=(2, 3), clip=5e-2, **own)
    run = harness.run(config, views=2, off_policy=0.02)
    sde = own.get("stochastic", tuple(range(5)))
    net, pictures, records = plain.Net(run.params), [], []
    for p in range(PROMPTS):
        root = grown(run, net, p, (0, 2), (2, 3), 4.0, sde, 6, density)
        leaves = root.leaves()
        pictures.append([[leaf.x for leaf in leaves]])
        judged_by = [{id(leaf): plain.reward(leaf.x, v) for leaf in leaves} for v in range(2)]
        for node, child, advantage in edges_of(root, p, judged_by, sde, own.get("fusion", 0.0)):
            stretch = 4.0 if density and node.depth in (0, 2) else 1.0
            records.append(Record(p, node.x, node.depth, child.x, advantage=advantage, stretch=stretch))
    pictures_match(run, pictures)
    assert run.algorithm.plan.evaluations == net.calls / PROMPTS == 1 + 2 + 2 + 6 * 3
    assert len(records) / PROMPTS == sum(run.algorithm.plan.draws)
    harness.same(run, *surrogate_loss(run, records, "dance", 0.3, 5e-2))


def test_branchgrpos_published_tree():
    plan = algorithms.make(harness.settings("branchgrpo", steps=20, group=16)).plan
    assert plan.lanes() == [1, 2, 4, 8, 16, 16] and plan.evaluations == 1 + 2 * 3 + 4 * 3 + 8 * 3 + 16 * 10
    assert plan.draws == (2, 2, 2, 4, 4, 4, 8, 8, 8, *[16] * 10)


@pytest.mark.parametrize("width", ["best", "extremes"])
def test_branchgrpos_pruning(width):
    config = harness.settings(
        "branchgrpo",
        steps=6,
        group=8,
        splits=(0, 1, 2),
        fans=(2, 2, 2),
        prune_width=width,
        prune_depths=2,
        prune_every=10,
        prune_stop=4,
    )
    run = harness.run(config, iteration=10)  # depths 1 and 2 are left out
    assert (
        run.algorithm.schedule(0).stage == 0
        and run.algorithm.schedule(10).stage == 1
        and run.algorithm.schedule(999).stage == 2
    )
    t, kept = run.chosen.transitions, run.chosen.weight > 0
    at = {round(s, 6): k for k, s in enumerate(run.sigmas)}
    for p in range(PROMPTS):
        depths = [at[round(float(s), 6)] for s, keep in zip(t.steps.s[p].ravel(), kept[p].ravel()) if keep]
        assert sorted(depths) == [0] * 2 + [3] * 4 + [4] * 4
        order = np.argsort([-plain.reward(x, 0) for x in run.trajectory.x0[p, 0]])
        wanted = order[:4] if width == "best" else np.r_[order[:2], order[-2:]]
        leaves = run.trajectory.transitions.x_next[p].reshape(-1, plain.TOKENS, plain.CHANNELS)
        last = leaves[2 + 4 + 8 + 8 : 2 + 4 + 8 + 8 + 8]  # results of step 4, a row a leaf
        got = t.x_next[p].reshape(-1, plain.TOKENS, plain.CHANNELS)[kept[p].ravel()][-4:]
        for row in got:
            assert min(np.abs(row - last[w]).max() for w in wanted) == 0
    assert run.chosen.weight.sum() == pytest.approx(run.chosen.weight.size)  # the loss is the mean over what is kept


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


@pytest.mark.parametrize("name", [n for n in algorithms.names() if n != "diffusion_nft"])
def test_the_ratio_is_one_before_the_first_update(name):
    """Exactly, where it is its own denominator; to rounding, where old densities are computed beforehand."""
    config = harness.settings(name, steps=6, group=6)
    memory = np.array([[0.0, 0.01, 1]] * PROMPTS, np.float32)
    for moved, tolerance in ((0.0, 0.0), (1e-30, 1e-5)):  # too little to change a parameter, but old densities are kept
        run = harness.run(config, views=2, off_policy=moved, memory=memory)
        for metric in ("min/ratio/min", "max/ratio/max"):
            assert np.abs(run.metrics[metric] - 1).max() <= tolerance
    assert np.isfinite(run.loss)

"""Algorithms whose samples of a group run side by side, against a plain implementation of their formulas: pictures, advantages,
loss, gradient, evaluations. The plain versions are given the same noise and call the network once a sample."""

import math

import numpy as np
import pytest
import torch

from mvgrpo_jax import algorithms
from tests.algorithms import harness, plain
from tests.algorithms.expected import Record, flow_kl, judged, pictures_match, surrogate_loss
from tests.algorithms.plain import PROMPTS


def independent(run, kernel, eta, noisy, same_noise):
    """Samples of a window graph. Returns (pictures, {(p, i, k): (x, x_next)}, calls with what is shared counted once)."""
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


@pytest.mark.parametrize("global_std", [True, False])
@pytest.mark.parametrize("divergence", ["undivided", "transition"])
def test_flow_grpo(global_std, divergence):
    config = harness.settings("flow_grpo", steps=5, group=3, clip=2e-3, global_std=global_std, kl=0.04, divergence=divergence)
    run = harness.run(config, views=2, off_policy=0.02)
    pictures, steps = independent(run, "flow", 0.9, range(5), False)
    pictures_match(run, pictures)
    assert run.algorithm.graph.evaluations == 5 * 3
    spread = [np.std([judged(pictures, p, 0, v) for p in range(PROMPTS)]) if global_std else None for v in range(2)]
    records = [Record(p, x, k, x_next) for (p, i, k), (x, x_next) in steps.items() if k < 4]
    for r, (p, i, _k) in zip(records, [key for key in steps if key[2] < 4]):
        r.advantage = [plain.normalised(judged(pictures, p, 0, v), 0, 1e-4, std=spread[v])[i] for v in range(2)]
    loss, net = surrogate_loss(run, records, "flow", 0.9, 2e-3, kl=flow_kl(divergence == "transition"))
    harness.same(run, loss, net)


def test_flow_grpo_trains_a_window_or_a_fraction():
    graph = lambda **own: algorithms.make(harness.settings("flow_grpo", steps=10, group=3, **own)).graph
    assert graph().trained == tuple(range(9)) and graph().noisy == tuple(range(10))
    assert graph(fraction=0.5).trained == tuple(range(5))
    assert graph(window=(2, 5)).trained == graph(window=(2, 5)).noisy == (2, 3, 4)


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
        assert run.algorithm.graph.evaluations_at(run.shift) == shared + 3 * (8 - shared)
    assert len(starts) == 2
    drawn = {run.algorithm.schedule(i).shift for i in range(200)}
    assert drawn == set(range(4))  # windows start at 1 .. 4


def test_flow_grpo_fast_in_the_authors_setting():
    method = algorithms.make(harness.settings("flow_grpo_fast", steps=6, group=3))
    assert method.graph.trained == (0, 1, 2) and not method.graph.moving  # with 6 steps the draw has one outcome
    whole = algorithms.make(harness.settings("flow_grpo_fast", steps=6, group=3, size=0))
    assert whole.graph.trained == (0, 1, 2, 3, 4)


@pytest.mark.parametrize("same_noise", [True, False])
def test_dancegrpo(same_noise):
    config = harness.settings("dancegrpo", steps=6, group=4, same_noise=same_noise, clip=5e-2)
    run = harness.run(config, views=2, off_policy=0.02)
    pictures, steps = independent(run, "dance", 0.3, range(5), same_noise)
    pictures_match(run, pictures)
    assert run.algorithm.graph.evaluations == (1 + 5 * 4 if same_noise else 6 * 4)
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
    assert run.algorithm.graph.evaluations_at(run.shift) == (run.shift + 1) + 3 * (7 - run.shift - 1)


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
    assert run.algorithm.graph.tail_steps(run.shift) == int((12 - first) * 0.4) == 3
    assert run.algorithm.graph.evaluations_at(2) == 3 + 3 * (1 + 3)
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

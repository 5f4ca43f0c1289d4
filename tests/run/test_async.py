"""One step off-policy: what is drawn ahead is drawn with the parameters of before the update, and judged by their densities."""

import jax
import numpy as np
import pytest

from mvgrpo_jax.configuration import checks
from mvgrpo_jax.core.policy import assemble
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.prompts import stream
from mvgrpo_jax.run import drawing, iteration, loop, metrics
from mvgrpo_jax.run.build import build
from mvgrpo_jax.run.metrics import Clock
from tests.runs import leaves, numbers, small_config


def config_of(**changes):
    c = small_config(**{"iterations": 4} | changes)
    c.eval.every = c.log.images_every = 0
    c.rewards.clip, c.rewards.scene = 0.0, 1.0
    c.train.async_steps = 1
    return c


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("async")
    loop.train(config_of(), workdir)
    return workdir


@pytest.mark.nightly
def test_each_rollout_is_drawn_with_the_parameters_before_the_update(whole):
    """By hand, one stage after another: batch n of policy n - 1 (the first two of policy 0) updates policy n."""
    config = config_of()
    run, initial = build(config)
    programs, clock, policies, losses = run.programs, Clock(), [], []
    with jax.set_mesh(run.mesh):
        state, prompts = programs.init(initial), stream(run.prompts, config.prompts_per_iteration, config.seed, run.shares)
        copy = lambda tree: jax.tree.map(jax.numpy.copy, tree)
        for number in range(config.iterations):
            policies.append(copy(state.params))
            drew = policies[max(number - 1, 0)]
            samples = drawing.sample(run, number, drew, [str(p) for p in next(prompts)], None, clock)
            views, scores = iteration.judge(run, number, samples, clock)
            batch, _ = iteration.make_batch(run, number, samples, views, scores, clock)
            batch = batch._replace(old=programs.old_densities(assemble(drew, None), batch))
            state = programs.remember(state)
            state, log = programs.update(state, None, batch, None)
            losses.append({k: float(v) for k, v in log.items()})
        last = [np.asarray(x) for x in jax.tree.leaves(state)]
    run.close()
    for a, b in zip(leaves(whole, 4, config)[0], last, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    for row, log in zip(metrics.read(whole), losses, strict=True):
        assert row["loss"] == pytest.approx(log["loss"], abs=1e-6) and row["ratio/max"] == pytest.approx(
            log["ratio/max"], abs=1e-5
        )


@pytest.mark.nightly
def test_the_ratio_leaves_one_with_the_second_batch(whole):
    rows = metrics.read(whole)
    away = [max(row["ratio/max"] - 1, 1 - row["ratio/min"]) for row in rows]
    assert away[0] < 2e-6 and min(away[1:]) > 20 * away[0] + 1e-5, away


@pytest.mark.nightly
def test_a_run_that_goes_on_draws_again_what_was_drawn_ahead(whole, tmp_path):
    loop.train(config_of(iterations=2), tmp_path)
    loop.train(config_of(), tmp_path)
    (got, got_cursor), (want, want_cursor) = leaves(tmp_path, 4, config_of()), leaves(whole, 4, config_of())
    assert got_cursor["stream"] == want_cursor["stream"]
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)
    assert numbers(tmp_path) == numbers(whole)


@pytest.mark.nightly
def test_without_a_step_it_is_the_run_that_waits(tmp_path):
    """At a learning rate of 0 nothing depends on which parameters drew: the same prompts, pictures and scores."""
    for name, steps in (("ahead", 1), ("waits", 0)):
        config = config_of(iterations=3)
        config.optimizer.learning_rate, config.train.async_steps = 0.0, steps
        loop.train(config, tmp_path / name)
    for a, b in zip(numbers(tmp_path / "ahead"), numbers(tmp_path / "waits"), strict=True):
        for key in ("reward/scene", "reward_views/scene", "reward/clip", "advantage/abs", "views/active"):
            assert a[key] == pytest.approx(b[key], abs=1e-6), key


@pytest.mark.parametrize("name, why", [("diffusion_nft", "keeps a sampling policy"), ("adagrpo", "chooses prompts")])
def test_algorithms_that_decide_by_more_than_parameters_are_refused(name, why):
    config = config_of()
    config.algorithm.name = name
    with pytest.raises(UserError, match=f"async_steps=1 does not go with {name}, which {why}"):
        checks.check(config)

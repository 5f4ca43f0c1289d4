"""Two prompts on eight devices: the devices of a prompt share its lanes and its views, and the numbers are those of one
device."""

import jax
import numpy as np
import optax
import pytest

from mvgrpo_jax.core.policy import assemble
from mvgrpo_jax.parallel import rules
from mvgrpo_jax.planning.abstract import AbstractRun
from mvgrpo_jax.run import drawing
from mvgrpo_jax.run import iteration as stages
from mvgrpo_jax.run import programs as programs_of_run
from mvgrpo_jax.run.build import build
from mvgrpo_jax.run.conditions import ENCODERS
from mvgrpo_jax.run.metrics import Clock
from tests.runs import small_config

pytestmark = pytest.mark.slow


def config_of(chunk=0, **mesh):
    config = small_config(group_size=12)
    config.views.count, config.train.prompt_chunk = 3, chunk
    config.eval.every = 0
    config.mesh.update(mesh)
    return config


def one_iteration(judged=None, **settings):
    """(run, samples, scores, batch, state before and after, metrics) of the first iteration. judged: the scores that it trains
    with in the place of its own: a picture that rounds to another of 256 values has another score."""
    config = config_of(**settings)
    run, initial = build(config)
    with jax.set_mesh(run.mesh):
        before = run.programs.init(initial)
        prompts = run.prompts[: config.prompts_per_iteration]
        clock = Clock()
        samples = drawing.sample(run, 0, assemble(before.params, run.frozen), prompts, None, clock)
        views, scores = stages.judge(run, 0, samples, clock)

        batch, _ = stages.make_batch(run, 0, samples, views, judged or scores, clock)
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), before)
        after, (metrics,) = stages.update(run, before, batch, 0)
    run.close()
    return run, samples, scores, batch, shapes, after, metrics


@pytest.fixture(scope="module")
def both():
    one = one_iteration()
    return one, one_iteration(judged=one[2], fsdp=8)


def test_every_device_has_its_share(both):
    _, (run, samples, _, batch, *_) = both
    assert (rules.parts("prompts", run.mesh), rules.parts("lanes", run.mesh)) == (2, 4)
    for pictures in samples.pictures:
        assert pictures.items.sharding.shard_shape(pictures.items.shape)[:2] == (1, 3)
    assert run.programs.updater.spread_views and batch.views.txt.shape[0] == 4
    assert {s.data.shape[:2] for s in batch.views.txt.addressable_shards} == {(1, 1)}


def test_the_numbers_are_those_of_one_device(both):
    agree(*both)


def agree(one, eight):
    (_, samples, scores, _, _, state, metrics), (_, samples8, scores8, _, _, state8, metrics8) = one, eight
    for here, there in zip(samples.pictures, samples8.pictures, strict=True):
        assert here.mine.keys() == there.mine.keys()
        assert max(np.abs(here.mine[k].astype(int) - there.mine[k].astype(int)).max() for k in here.mine) <= 1
    for name, values in scores.by_judge.items():
        np.testing.assert_allclose(scores8.by_judge[name], values, atol=1e-3)
    moments = [jax.tree.leaves(optax.tree_utils.tree_get(s.opt_state, "mu")) for s in (state, state8)]
    largest = max(float(np.abs(a).max()) for a in moments[0])
    for a, b in zip(*moments, strict=True):
        np.testing.assert_allclose(np.asarray(b), np.asarray(a), rtol=0, atol=1e-5 * largest)
    for key in ("grad_norm", "ratio/mean", "ratio/max"):
        assert float(metrics8[key]) == pytest.approx(float(metrics[key]), rel=1e-5), key


@pytest.mark.nightly
def test_chunks_of_fewer_prompts_than_devices():
    """Eight devices share each of two prompts, one after the other. Of its 12 pictures a branch none has an eighth: 4 are
    decoded twice."""
    one = one_iteration(chunk=1)
    eight = one_iteration(judged=one[2], chunk=1, fsdp=8)
    assert [p.items.shape[:2] for p in eight[1].pictures] == [(2, 16)] * 2
    agree(one, eight)


def test_pictures_that_a_group_of_devices_cannot_share_evenly_are_planned():
    """24 pictures divide over eight devices, the 12 of a prompt do not."""
    run = AbstractRun(config_of(chunk=1, fsdp=8), [jax.devices()])
    with jax.set_mesh(run.mesh):
        calls = run.calls()
        shown = calls["judge clip"].arguments[1]
    assert rules.parts("lanes", run.mesh) == 8 and shown.shape[:2] == (2, 16)
    assert shown.sharding.shard_shape(shown.shape)[:2] == (2, 2)


@pytest.mark.nightly
def test_a_device_computes_its_share_alone(both, monkeypatch):
    """Operations of a device on eight, against an eighth of those of one alone; loops count once for each of their steps."""

    monkeypatch.setattr(programs_of_run, "ENCODED", 64)  # all at once: a loop's body would count once

    def operations(run, batch, state):
        programs, graph = run.programs, run.programs.algorithm.graph
        params = assemble(state.params, run.frozen)
        condition = jax.tree.map(lambda a: a[0, :, 0], batch.views)
        keys = programs.key(0, 0), programs.key(0, 1)
        with jax.set_mesh(run.mesh):
            draws = jax.eval_shape(programs.anchor, params, condition, *keys, 0)[0].x0
            draws = jax.ShapeDtypeStruct(draws.shape, draws.dtype, sharding=programs.place("prompts"))
            flops = lambda program, *a: program.lower(*a).compile().cost_analysis()["flops"]
            rollout = graph.steps * flops(programs.anchor, params, condition, *keys, 0)
            for branch, step in enumerate(graph.trained):
                rollout += (graph.steps - step - 1) * flops(programs.tail(branch), params, condition, draws)
            latents = jax.ShapeDtypeStruct((2, 12, *programs.latent_shape), draws.dtype, sharding=programs.place("prompts"))
            encoders = {name: run.pipeline.params[name] for name in ENCODERS}
            ids = [jax.ShapeDtypeStruct((4, 2, 2, n), np.int32, sharding=programs.of_views) for n in (16, programs.text_length)]
            return {
                "rollout": rollout,
                "update": flops(programs.update, state, None, batch, None),
                "decode": flops(programs.decode, run.pipeline.params["vae"], latents),
                "views": flops(programs.encode_views, encoders, *ids),
            }

    (one, _, _, batch, state, *_), (eight, _, _, batch8, state8, *_) = both
    whole, share = operations(one, batch, state), operations(eight, batch8, state8)
    assert {name: ops / (whole[name] / 8) for name, ops in share.items() if ops > 1.3 * whole[name] / 8} == {}

"""The multi-view update: against a plain loop per sample and view, by its counted cost, and its edge cases."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from mvgrpo_jax.core import advantages, objectives, schedules
from mvgrpo_jax.core.graph import shared_anchor, window
from mvgrpo_jax.core.structs import Condition
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.models import flux
from mvgrpo_jax.parallel import rules
from mvgrpo_jax.parallel.mesh import make_mesh
from mvgrpo_jax.planning import flops
from tests import tiny

pytestmark = pytest.mark.slow

PLAN = shared_anchor(5, (0, 2), 4)
FULL = window(4, 0, 4, 3, trained=(0, 1, 2))


@pytest.fixture(scope="module")
def shared():
    up, params = tiny.updater()
    return up, params, tiny.draw(up, params, PLAN, views=3)


def plain_gradient(up, params, graph, batch, old, clip):
    """(loss, gradient) of the objective as printed: a sum over views, prompts, steps and samples, a model call each."""
    trajectory, sigmas = batch.transitions, schedules.static(graph.steps, 3.0)
    g = tiny.KERNEL.noise(sigmas, 0.7)
    views, prompts = batch.weight.shape[:2]

    @jax.jit
    @jax.value_and_grad
    def term(params, x, x_next, condition, grid, old, advantage):
        s, s_next, g = grid
        velocity = up.policy.velocity(params, x[None, None], s, condition)[0, 0]
        dt = s_next - s
        mean = x + (velocity + g**2 / (2 * s) * (x + (1 - s) * velocity)) * dt
        std = g * jnp.sqrt(-dt)
        z = (x_next - mean) / std
        log_prob = jnp.mean(-0.5 * z**2 - jnp.log(std) - 0.5 * jnp.log(2 * jnp.pi))
        ratio = jnp.exp(log_prob - (jax.lax.stop_gradient(log_prob) if old is None else old))
        return -jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip, 1 + clip) * advantage)

    total, grads = 0.0, jax.tree.map(jnp.zeros_like, params)
    for v, p, (b, k), i in itertools.product(range(views), range(prompts), enumerate(graph.trained), range(graph.group)):
        r = b if graph.branches > 1 else 0
        loss, grad = term(
            params,
            trajectory.x_t[p, b, 0 if graph.anchor else i],
            trajectory.x_next[p, b, i],
            Condition(batch.views.txt[v, p, r][None], batch.views.pooled[v, p, r][None]),
            tuple(jnp.float32(a) for a in (sigmas[k], sigmas[k + 1], g[k])),
            None if old is None else old[v, p, b, 0, i],
            batch.advantage[v, p, b, i],
        )
        weight = batch.weight[v, p, b, i] / (prompts * len(graph.trained) * graph.group)
        total, grads = total + weight * loss, jax.tree.map(lambda a, d, w=weight: a + w * d, grads, grad)
    return total, grads


@pytest.mark.parametrize(
    "graph, clip",
    [
        pytest.param(PLAN, 1e-4, id="shared"),
        pytest.param(PLAN, 1e-3, id="off-policy", marks=pytest.mark.nightly),
        pytest.param(FULL, 1e-4, id="full", marks=pytest.mark.nightly),
    ],
)
def test_gradient_equals_a_loop_without_sharing(graph, clip):
    up, params = tiny.updater(clip)
    batch = tiny.draw(up, params, graph, views=2)
    if clip > 1e-4:  # away from the rollout's parameters, so that ratios differ from 1 and some are clipped
        batch = batch._replace(old=jax.jit(up.old_densities)(params, batch))
        params = jax.tree.map(lambda x: x + 0.05 * jnp.sin(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), params)
    loss, grads, metrics = tiny.gradients(up, params, batch)
    want_loss, want = plain_gradient(up, params, graph, batch, batch.old and batch.old.log_prob, clip)
    if clip > 1e-4:
        assert metrics["clip/low"] > 0 and metrics["clip/high"] > 0
    np.testing.assert_allclose(loss, want_loss, rtol=1e-4, atol=1e-6)
    tiny.close(grads, want, 2e-4)


@pytest.mark.nightly
def test_blocks_add_up_to_the_update(shared):
    """Each block by itself, in another order, with what belongs to the others spoilt: the same parameters and metrics."""
    up, params, batch = shared
    want_state, want = jax.jit(up.update)(up.init(params), None, batch)
    state, total, metrics = up.init(params), jax.jit(up.nothing)(params), []
    add = jax.jit(up.add)
    for block in (1, 0):
        mine = np.arange(2) == block
        spoilt = batch._replace(
            transitions=batch.transitions._replace(
                x_next=jnp.where(mine[:, None, None, None], batch.transitions.x_next, jnp.nan)
            ),
            views=jax.tree.map(lambda a, b=block: a[:, :, b : b + 1], batch.views),
            advantage=jnp.where(mine[:, None], batch.advantage, jnp.nan),
        )
        total, found = add(total, state, None, spoilt, jnp.int32(block))
        metrics.append(found)
    got_state, got = jax.jit(up.finish)(state, total, metrics)
    assert got.keys() == want.keys()
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=1e-7, err_msg=name)
    tiny.close(got_state.params, want_state.params, 1e-5)
    assert got_state.step == 1


def test_ratio_is_exactly_one_before_the_first_update(shared):
    up, params, batch = shared
    _, metrics = jax.jit(up.update)(up.init(params), None, batch)
    assert metrics["ratio/min"] == metrics["ratio/max"] == metrics["ratio/mean"] == 1.0


def test_every_views_own_denominator_gives_ratio_one(shared):
    """With old log-probabilities computed beforehand, under each view; the rollout's own would be off by far."""
    up, params, batch = shared
    old = jax.jit(up.old_densities)(params, batch)
    assert old.log_prob.shape == (3, 2, 2, 1, 4) and old.mean is None
    _, metrics = jax.jit(up.update)(up.init(params), None, batch._replace(old=old))
    assert abs(metrics["ratio/min"] - 1) < 2e-6 and abs(metrics["ratio/max"] - 1) < 2e-6
    rollouts = batch.transitions.log_prob
    np.testing.assert_allclose(old.log_prob[0, :, :, 0], rollouts, atol=2e-6)
    assert np.abs(old.log_prob[1:, :, :, 0] - rollouts).max() > 1e-4


def test_the_second_update_of_a_rollout_is_off_policy(shared):
    up, params, batch = shared
    batch = batch._replace(old=jax.jit(up.old_densities)(params, batch))
    step = jax.jit(up.update)
    state, first = step(up.init(params), None, batch)
    _, second = step(state, None, batch)
    assert first["clip/low"] + first["clip/high"] == 0 < second["clip/low"] + second["clip/high"]


def test_no_further_view_is_single_view_grpo(shared):
    """K = 0, and K = 2 with the other views masked, are the same update."""
    up, params, batch = shared
    alone = batch._replace(
        views=jax.tree.map(lambda a: a[:1], batch.views), advantage=batch.advantage[:1], weight=jnp.ones((1, 2, 2, 4))
    )
    active = np.zeros((3, 2, 2), bool)
    active[0] = True
    masked = batch._replace(weight=batch.weight * 0 + objectives.view_weights(active, "mean")[..., None])
    one, want, _ = tiny.gradients(up, params, alone)
    two, got, _ = tiny.gradients(up, params, masked)
    np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-8)
    tiny.close(got, want, 1e-5)


def test_a_view_of_equal_rewards_contributes_nothing(shared):
    up, params, batch = shared
    reward = jax.random.normal(jax.random.key(0), batch.advantage.shape).at[1].set(0.1)
    advantage = advantages.group_advantage(reward)
    np.testing.assert_array_equal(advantage[1], 0.0)
    _, got, _ = tiny.gradients(up, params, batch._replace(advantage=advantage))
    without = batch._replace(advantage=advantage, weight=batch.weight.at[1].set(0.0))
    _, want, _ = tiny.gradients(up, params, without)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(got))
    tiny.close(got, want, 1e-6)


def test_cost_is_one_evaluation_per_view_and_step(shared):
    """Forward and backward of one evaluation for each (view, prompt, trained step), whatever the group's size."""
    one = flux.forward_flops(tiny.CONFIG, tiny.TOKENS, tiny.TEXT)
    counted = {}
    for group in (4, 16):
        up, params = tiny.updater()
        batch = tiny.draw(up, params, shared_anchor(5, (0, 2), group), views=3)
        counted[group] = flops.count(up.update, up.init(params), None, batch)
    assert counted[4] == counted[16]
    passes = counted[4] / (one * 3 * 2 * 2)
    # forward, and a backward of twice that less what has no gradient: the latents, the text and the sinusoids
    assert 2.6 < passes <= 3.0


def test_unshared_states_cost_one_evaluation_per_sample():
    up, params = tiny.updater()
    batch = tiny.draw(up, params, FULL, views=1)
    one = flux.forward_flops(tiny.CONFIG, tiny.TOKENS, tiny.TEXT)
    assert 2.6 < flops.count(up.update, up.init(params), None, batch) / (one * 2 * 3 * 3) <= 3.0


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param({"view_chunk": 1}, id="views", marks=pytest.mark.nightly),
        pytest.param({"prompt_chunk": 1}, id="prompts", marks=pytest.mark.nightly),
        pytest.param({"view_chunk": 3, "prompt_chunk": 1}, id="both"),
    ],
)
def test_accumulating_over_chunks_changes_nothing(shared, chunks):
    up, params, batch = shared
    loss, want, _ = tiny.gradients(up, params, batch)
    chunked = dataclasses.replace(up, **chunks)
    got_loss, got, _ = tiny.gradients(chunked, params, batch)
    np.testing.assert_allclose(got_loss, loss, rtol=1e-4, atol=1e-7)
    tiny.close(got, want, 1e-5)


@pytest.mark.nightly
def test_states_of_a_step_in_chunks_change_nothing():
    up, params = tiny.updater()
    batch = tiny.draw(up, params, window(4, 0, 4, 4, trained=(0, 1)), views=2)
    loss, want, _ = tiny.gradients(up, params, batch)
    for size in (1, 2):
        got_loss, got, _ = tiny.gradients(dataclasses.replace(up, state_chunk=size, view_chunk=1), params, batch)
        np.testing.assert_allclose(got_loss, loss, rtol=1e-4, atol=1e-7)
        tiny.close(got, want, 1e-5)


def test_minibatches_are_updates_of_their_own_prompts(shared):
    """Two optimiser steps, each with the mean over its half; the same as two updates, the second off-policy."""
    up, params, _ = shared
    batch = tiny.draw(up, params, PLAN, views=2, prompts=4)
    batch = batch._replace(old=jax.jit(up.old_densities)(params, batch))
    state, metrics = jax.jit(dataclasses.replace(up, minibatches=2).update)(up.init(params), None, batch)

    def half(i):
        of = lambda tree, axis: jax.tree.map(lambda a: jnp.take(a, jnp.arange(i, 4, 2), axis), tree)
        return batch._replace(
            transitions=of(batch.transitions, 0),
            views=of(batch.views, 1),
            advantage=of(batch.advantage, 1),
            weight=of(batch.weight, 1),
            old=of(batch.old, 1),
        )

    step = jax.jit(up.update)
    want, first = step(up.init(params), None, half(0))
    want, second = step(want, None, half(1))
    assert state.step == 2 and second["ratio/max"] > 1 == first["ratio/max"] // 1
    tiny.close(state.params, want.params, 1e-5)
    np.testing.assert_allclose(metrics["loss"], (first["loss"] + second["loss"]) / 2, rtol=1e-3, atol=1e-6)
    with pytest.raises(UserError, match="minibatches 3 must divide the number of prompts of an iteration, 4"):
        dataclasses.replace(up, minibatches=3).counts(batch)


def test_a_chunk_that_does_not_divide_is_a_clear_error(shared):
    up, params, batch = shared
    with pytest.raises(UserError, match="view_chunk 2 must divide the number of views, 3"):
        dataclasses.replace(up, view_chunk=2).counts(batch)


def test_an_optimiser_step_for_each_trained_step(shared):
    up, params, batch = shared
    batch = batch._replace(old=jax.jit(up.old_densities)(params, batch))
    state, metrics = jax.jit(dataclasses.replace(up, per_step=True).update)(up.init(params), None, batch)
    assert state.step == 2 and metrics["ratio/max"] > 1.0


@pytest.mark.nightly
def test_old_densities_obey_the_chunks():
    """The same numbers; on shapes, temporaries a chunk's share of the whole, and no more than the update has."""
    up, params = tiny.updater()
    batch = tiny.draw(up, params, window(4, 0, 4, 4, trained=(0, 1)), views=4, prompts=4)
    cut = dataclasses.replace(up, view_chunk=1, prompt_chunk=1, state_chunk=2, minibatches=2)
    want, got = (jax.jit(u.old_densities)(params, batch).log_prob for u in (up, cut))
    np.testing.assert_allclose(got, want, atol=1e-6)

    def temporaries(function, *arguments):
        return jax.jit(function).lower(*arguments).compile().memory_analysis().temp_size_in_bytes

    chunked = temporaries(cut.old_densities, params, batch)
    assert chunked < temporaries(up.old_densities, params, batch) / 8
    assert chunked <= temporaries(cut.update, jax.eval_shape(cut.init, params), None, batch._replace(old=None))


@pytest.mark.nightly
@pytest.mark.parametrize("divergence", sorted(objectives.DIVERGENCES))
def test_kl_pulls_towards_the_reference(shared, divergence):
    up, params, batch = shared
    objective = objectives.policy_gradient(tiny.KERNEL, clip=1e-4, kl=1.0, divergence=divergence)
    with_kl = jax.jit(dataclasses.replace(up, objective=objective).update)
    moved = jax.tree.map(lambda x: x * 1.05, params)
    quiet = batch._replace(advantage=jnp.zeros_like(batch.advantage))
    _, metrics = with_kl(up.init(moved), params, quiet)
    assert metrics["kl"] > 0 and metrics["loss"] == pytest.approx(float(metrics["kl"]), rel=1e-4)
    _, metrics = with_kl(up.init(params), params, quiet)
    assert metrics["kl"] == 0.0
    _, metrics = jax.jit(up.update)(up.init(moved), None, quiet)
    assert metrics["loss"] == 0.0


def test_the_average_follows(shared):
    up, params, batch = shared
    up = dataclasses.replace(up, ema=lambda step: 0.9)
    state, _ = jax.jit(up.update)(up.init(params), None, batch)
    want = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, params, state.params)
    tiny.close(state.ema, want, 1e-6)


def test_a_non_finite_update_is_not_applied(shared):
    up, params, batch = shared
    before = up.init(params)
    state, metrics = jax.jit(up.update)(before, None, batch._replace(advantage=batch.advantage.at[0, 0, 0, 0].set(jnp.nan)))
    assert metrics["non_finite"] == 1.0
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(before)):
        np.testing.assert_array_equal(a, b)


@pytest.mark.nightly
@pytest.mark.parametrize("sizes", [(8, 1, 1), (1, 8, 1), (2, 2, 2)], ids=["data", "fsdp", "mixed"])
def test_eight_devices_give_the_update_of_one(sizes):
    up, params = tiny.updater()
    batch = tiny.draw(up, params, PLAN, views=3, prompts=8)
    want, want_metrics = jax.jit(up.update)(up.init(params), None, batch)

    mesh = make_mesh(*sizes)
    shapes, stacks = up.policy.network.shapes, tuple(up.policy.network.stacks)
    state_shapes = jax.eval_shape(up.init, shapes)
    shardings = rules.like_parameters(state_shapes, shapes, rules.parameter_shardings(shapes, mesh, stacks), mesh)
    of_views = rules.sharding(mesh, None, "prompts")
    with jax.set_mesh(mesh):
        state = jax.device_put(up.init(params), shardings)
        spread = batch._replace(
            transitions=jax.device_put(batch.transitions, rules.sharding(mesh, "prompts")),
            views=jax.device_put(batch.views, of_views),
            advantage=jax.device_put(batch.advantage, of_views),
            weight=jax.device_put(batch.weight, of_views),
        )
        got, metrics = jax.jit(up.update, out_shardings=(shardings, None))(state, None, spread)
    if sizes[1] > 1:
        assert got.params["x_embedder"]["kernel"].sharding.spec == P("fsdp", None)
    np.testing.assert_allclose(metrics["grad_norm"], want_metrics["grad_norm"], rtol=1e-5)
    # Adam's first step is the gradient's sign: where a gradient is zero up to rounding, signs may differ.
    moments = lambda state: state.opt_state[0].mu
    tiny.close(moments(got), moments(want), 1e-5)
    for a, b, m in zip(*(jax.tree.leaves(t) for t in (got.params, want.params, moments(want)))):
        clear = np.abs(m) > 1e-5 * np.abs(m).max()
        np.testing.assert_allclose(np.asarray(a)[clear], np.asarray(b)[clear], atol=1e-5)

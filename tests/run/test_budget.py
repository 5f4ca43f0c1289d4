"""The budget of an iteration: by hand, and against the operations counted in the update that runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvgrpo_jax import algorithms, pipelines
from mvgrpo_jax.core import rollout
from mvgrpo_jax.core.structs import Batch, Condition
from mvgrpo_jax.models import flux
from mvgrpo_jax.parallel.mesh import make_mesh
from mvgrpo_jax.planning import flops
from mvgrpo_jax.run import budget
from mvgrpo_jax.run.programs import Programs
from tests.runs import small_config


def built(name="mvgrpo", **train):
    config = small_config()
    config.algorithm.name = name
    config.train.update(train)
    return config, Programs.build(config, pipelines.describe(config.pipeline), make_mesh())


def test_mvgrpos_by_hand():
    config, programs = built(passes=2)
    b = budget.of(config, programs)  # 2 prompts, 4 steps, S = {0, 1}, G = 3, K = 2
    assert (b.prompts, b.pictures, b.views) == (2, 6, 3)
    assert b.sampled == 2 * (4 + 3 * (3 + 2)) and b.transitions == 2 * 2 * 3 and b.states == 2 * 2
    assert b.trained == 2 * (2 * 2 * 3) and b.backward == 3
    assert b.untrained == 2 * 2 * 3  # the old densities, which two passes need
    assert b.steps == 2 and b.evaluations == b.sampled + 3 * b.trained + b.untrained


@pytest.mark.parametrize(
    "train, steps",
    [
        ({}, 1),
        ({"minibatches": 2}, 2),
        ({"update_per": "timestep"}, 2),
        ({"passes": 3, "minibatches": 2, "update_per": "timestep"}, 12),
    ],
)
def test_optimiser_steps(train, steps):
    config, programs = built(**train)
    assert budget.of(config, programs).steps == steps


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[] if n in ("mvgrpo", "branchgrpo", "diffusion_nft", "adagrpo") else pytest.mark.nightly)
        for n in algorithms.names()
        if n not in ("flow_grpo", "grpo_guard", "flow_grpo_fast")
    ],
)
def test_the_rollout_and_the_update_hold_what_the_budget_says(name):
    """Operations counted in the jaxprs of sampling and of the update, in units of one evaluation."""
    config, programs = built(name)
    config.views.count = 1
    if name == "adagrpo":
        config.algorithm.adagrpo.candidates = 2
        programs = Programs.build(config, programs.pipeline, programs.mesh)
    b, graph, policy = budget.of(config, programs), programs.algorithm.graph, programs.policy
    one = flux.forward_flops(programs.pipeline.flux_config, policy.tokens, programs.text_length)
    wide = programs.pipeline.flux_config
    lead = lambda *n: Condition(
        jnp.zeros((*n, programs.text_length, wide.joint_attention_dim)), jnp.zeros((*n, wide.pooled_projection_dim))
    )
    params = jax.tree.map(lambda x: jnp.zeros(x.shape), programs.trained_shapes)
    prompts = config.prompts_per_iteration
    # A graph that moves is counted where it stands at the first iteration.
    shift = programs.algorithm.schedule(0).shift

    def sample(params):
        velocity = lambda x, s: policy.velocity(params, x, s, lead(prompts))
        start = jnp.zeros((prompts, graph.noises, *programs.latent_shape))
        noise = rollout.normals(jax.random.key(0))
        return rollout.rollout(velocity, graph, programs.algorithm.kernel, programs.sigmas, programs.g, start, noise, shift)

    extra = prompts * graph.noises * graph.steps if name == "adagrpo" else 0  # the anchors of prompts that are not kept
    # But for texts that were embedded once for several samples.
    spared, rest = divmod((b.sampled - extra) * one - flops.count(sample, params), flux.text_flops(wide, programs.text_length))
    assert rest == 0 and 0 <= spared < b.sampled - extra
    chosen = jax.eval_shape(lambda: programs.selected(config, programs.algorithm.schedule(0).stage))
    each = jax.ShapeDtypeStruct((2, *chosen.transitions.log_prob.shape), jnp.float32)
    views = jax.eval_shape(lambda: lead(2, prompts, graph.branches))
    batch = Batch(chosen.transitions, views, each, each)
    up = programs.updater
    reference = params if programs.algorithm.objective.reference else None
    counted = flops.count(up.update, jax.eval_shape(up.init, params), reference, batch) / one
    assert b.trained * 2.6 + b.untrained < counted <= b.trained * 3 + b.untrained


def test_what_is_printed():
    config, programs = built()
    b = budget.of(config, programs)
    text = b.describe("mvgrpo", jax.devices())
    for words in (
        "2 prompts x 6 pictures = 12 samples",
        f"rollout {b.sampled} model evaluations",
        "12 transitions from 4 states",
    ):
        assert words in text
    seconds, source = b.seconds(jax.devices())
    assert seconds > 0 and "measured" in source and f"{np.round(b.flops / 1e9, 3):.3g} GFLOP" in text

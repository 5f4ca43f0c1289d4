"""Adapters inside the network and the update: same function as merged weights, and nothing else is trained."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mvgrpo_jax.core import objectives, policy, update
from mvgrpo_jax.core.graph import shared_anchor
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.models import flux, lora
from mvgrpo_jax.models.module import count
from tests import tiny

TARGETS = (r".*\.attn\.to_[qkv]", r"single_transformer_blocks\.proj_out=2", r"proj_out")
CONFIG = lora.LoraConfig.parse(3, 6.0, TARGETS)


@pytest.fixture
def setting():
    """(base policy, base parameters, adapted policy, random adapters)."""
    base, params = tiny.policy_and_params()
    adapted = policy.Policy(lora.adapt(base.network, CONFIG), tiny.GRID, 3.5)
    fresh = lora.init(adapted.network, jax.random.key(1))
    random = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(2), x.shape), fresh)
    return base, params, adapted, random


def test_merged_equals_unmerged(setting):
    base, params, adapted, random = setting
    x = jax.random.normal(jax.random.key(3), (2, 3, tiny.TOKENS, 8))
    condition = tiny.conditions(jax.random.key(4), 2)
    run = lambda p, tree: np.asarray(p.velocity(tree, x, jnp.float32(0.5), condition))
    beside = run(adapted, lora.join(params, random))
    merged = run(base, lora.merge(params, random, CONFIG))
    np.testing.assert_allclose(beside, merged, atol=3e-6)
    assert np.abs(beside - run(base, params)).max() > 0.1
    fresh = lora.init(adapted.network, jax.random.key(1))
    np.testing.assert_array_equal(run(adapted, lora.join(params, fresh)), run(base, params))


@pytest.mark.nightly
def test_the_update_trains_adapters_alone(setting):
    """State and gradients hold adapters only; their gradient is the merged network's by the chain rule."""
    base, params, adapted, random = setting
    objective = objectives.policy_gradient(tiny.KERNEL, clip=1e-4, kl=0.1)
    up, _ = tiny.updater(objective=objective)
    batch = tiny.draw(up, params, shared_anchor(3, (0, 1), 2), views=2)
    tuned = update.Updater(adapted, objective, optax.adamw(1e-3))
    state = tuned.init(random)
    assert count(state.params) == count(random) < count(params) // 4
    moments = [x.shape for x in jax.tree.leaves(state.opt_state) if x.ndim]
    assert sorted(moments) == sorted([x.shape for x in jax.tree.leaves(random)] * 2)
    reference = jax.tree.map(jnp.zeros_like, random)  # the base policy: zero adapters, no second copy of the base
    _, grads, metrics = tiny.gradients(tuned, random, batch, frozen=params, reference=reference)
    assert jax.tree.structure(grads) == jax.tree.structure(random)
    whole = dataclasses.replace(up)
    merged = lora.merge(params, random, CONFIG)
    _, full, _ = tiny.gradients(whole, merged, batch, reference=params)
    node, inner = full["proj_out"]["kernel"], random["proj_out"]
    scale = CONFIG.scale(3)
    want = {"lora_a": scale * node @ inner["lora_b"].T, "lora_b": scale * inner["lora_a"].T @ node}
    tiny.close(grads["proj_out"], want, 1e-4)
    new, _ = jax.jit(tuned.update)(state, reference, batch, params)
    assert jax.tree.structure(new.params) == jax.tree.structure(random)
    assert float(metrics["kl"]) > 0


def test_full_size_targets():
    """FLUX.1-dev with the default targets at rank 64: 261.5 M adapter parameters, counted by hand."""
    from configs import common

    config = lora.LoraConfig.parse(64, 128.0, common.get_config().lora.targets)
    shapes = lora.adapters(lora.adapt(flux.flux(flux.FluxConfig()), config).shapes)
    d, r = 3072, 64
    attention, up, down = 2 * d * r, (d + 4 * d) * r, (5 * d + d) * r
    assert count(shapes) == 19 * (8 * attention + 4 * up) + 38 * (3 * attention + up + down)


@pytest.mark.parametrize(
    "rank, alpha, targets, message",
    [
        (4, 8.0, (r"transformer_blocks\.attn\.to_x",), "matches no layer of the transformer; its layers are: context_embedder"),
        (4, -1.0, TARGETS, "alpha must be a positive number"),
        (4, 8.0, ("(",), "is not PATTERN"),
        (4, 8.0, ("x_embedder=two",), "is not PATTERN"),
        (64, 8.0, (r"x_embedder",), "rank 64 is larger than layer x_embedder of 8 x 16"),
    ],
)
def test_bad_adapter_configs(rank, alpha, targets, message):
    with pytest.raises(UserError, match=message):
        lora.adapt(flux.flux(tiny.CONFIG), lora.LoraConfig.parse(rank, alpha, targets))

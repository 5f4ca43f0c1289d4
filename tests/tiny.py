"""A small velocity field and updater for the tests of rollout and update."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mvgrpo_jax.core import objectives, policy, rollout, schedules, sde, update
from mvgrpo_jax.core.graph import RolloutGraph
from mvgrpo_jax.core.microbatches import cut
from mvgrpo_jax.core.structs import Batch, Condition
from mvgrpo_jax.models import flux

CONFIG = flux.FluxConfig(
    in_channels=8,
    num_layers=1,
    num_single_layers=1,
    attention_head_dim=8,
    num_attention_heads=2,
    joint_attention_dim=8,
    pooled_projection_dim=8,
    axes_dims_rope=(2, 2, 4),
)
GRID, TEXT = (2, 2), 3
TOKENS = GRID[0] * GRID[1]


def policy_and_params(seed: int = 0) -> tuple[policy.Policy, dict]:
    """Flux at toy size with random values everywhere, also where training starts from zero."""
    net = flux.flux(CONFIG)
    shapes, key = net.shapes, jax.random.key(seed)
    leaves, tree = jax.tree.flatten(shapes)
    keys = jax.random.split(key, len(leaves))
    values = [
        0.3 * jax.random.normal(k, x.shape) / max(x.shape[-2] if x.ndim > 1 else 1, 1) ** 0.5 for k, x in zip(keys, leaves)
    ]
    return policy.Policy(net, GRID, 3.5), jax.tree.unflatten(tree, values)


KERNEL = sde.kernel("flow")


def conditions(key: jax.Array, *lead: int) -> Condition:
    a, b = jax.random.split(key)
    return Condition(jax.random.normal(a, (*lead, TEXT, 8)), jax.random.normal(b, (*lead, 8)))


def updater(clip: float = 1e-4, learning_rate: float = 1e-3, objective=None, **options) -> tuple[update.Updater, dict]:
    net, params = policy_and_params()
    objective = objective or objectives.policy_gradient(KERNEL, clip=clip)
    return update.Updater(net, objective, optax.adamw(learning_rate), **options), params


def draw(up: update.Updater, params: dict, graph: RolloutGraph, views: int, prompts: int = 2, seed: int = 1) -> Batch:
    """A rollout under random prompts, and random advantages under `views` conditions, view 0 being the prompt's."""
    keys = jax.random.split(jax.random.key(seed), 5)
    prompt = conditions(keys[0], prompts)
    start = jax.random.normal(keys[1], (prompts, graph.noises, TOKENS, CONFIG.in_channels))
    sigmas = schedules.static(graph.steps, 3.0)

    @jax.jit
    def run(params):
        velocity = lambda x, s: up.policy.velocity(params, x, s, prompt)
        return rollout.rollout(velocity, graph, KERNEL, sigmas, KERNEL.noise(sigmas, 0.7), start, rollout.normals(keys[2]))[0]

    others = conditions(keys[3], views - 1, prompts, graph.branches)
    first = jax.tree.map(lambda a, b: jnp.broadcast_to(a[None, :, None], (1, *b.shape[1:])), prompt, others)
    transitions = run(params).transitions
    shape = (views, *transitions.log_prob.shape)
    advantage = jax.random.normal(keys[4], (views, prompts, graph.branches, graph.group))
    return Batch(
        transitions=transitions,
        views=jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, others),
        advantage=jnp.broadcast_to(advantage, shape),
        weight=jnp.full(shape, 1.0 / views),
    )


def gradients(up: update.Updater, params, batch: Batch, *, frozen=None, sampler=None, reference=None):
    """(loss, gradient, metrics) of a whole batch, as one optimiser step sees them."""

    @jax.jit
    def run(params, frozen, sampler, reference, batch):
        return up.gradients(params, frozen, sampler, reference, cut(batch, up.counts(batch)), up.scale(batch))

    loss, grads, metrics = run(params, frozen, sampler, reference, batch)
    return loss, grads, {name: metric.value() for name, metric in metrics.items()}


def close(got, want, tolerance: float) -> None:
    """Trees equal to `tolerance` relative to each leaf's largest value."""
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(np.abs(b).max(), 1e-8))

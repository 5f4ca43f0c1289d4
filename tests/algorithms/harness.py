"""Runs an algorithm of the package on the plain tests' network, with given noise."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from configs import common
from mvgrpo_jax import algorithms
from mvgrpo_jax.core import rollout, schedules
from mvgrpo_jax.core.structs import Batch, Condition
from mvgrpo_jax.core.update import Updater
from tests import tiny
from tests.algorithms import plain

PROMPTS = plain.PROMPTS


class Velocity:
    """The plain network as the sampler and the update see a policy."""

    def velocity(self, params, x, sigma, condition):
        s = jnp.broadcast_to(jnp.asarray(sigma), x.shape[:2])[..., None, None]
        c = condition.pooled[:, None, None]
        return jnp.tanh(x @ params["a"] + s * params["s"] + c @ params["c"]) @ params["b"] - 0.3 * x


def conditions(views, branches):
    """pooled [V, P, R, E]; view 0, the prompt, is the same for all branches."""
    rng = np.random.default_rng(5)
    pooled = rng.normal(size=(views, PROMPTS, branches, plain.POOLED)).astype(np.float32)
    pooled[0] = pooled[0, :, :1]
    return pooled


@dataclasses.dataclass
class Run:
    """Everything that went in and came out. noise(k): the numbers of grid step k, [P, lanes, tokens, channels]."""

    algorithm: object
    config: object
    sigmas: list
    start: np.ndarray
    table: np.ndarray
    pooled: np.ndarray
    trajectory: object
    advantage: np.ndarray
    chosen: object
    loss: float
    grads: dict
    metrics: dict
    params: dict
    moved: dict
    shift: int

    def noise(self, k, p, lane):
        return plain.tensor(self.table[k, p, lane])


def settings(name, *, steps, group, **own):
    c = common.get_config()
    c.algorithm.name, c.sampling.steps, c.group_size, c.prompts_per_iteration = name, steps, group, PROMPTS
    c.rewards = {"judge": 1.0}
    c.algorithm[name].update(own)
    return c


def rewards(x0, views):
    """[V, P, R, S] of final latents [P, R, S, tokens, channels]."""
    x0 = np.asarray(x0)
    shape = x0.shape[:3]
    return np.asarray(
        [
            [[[plain.reward(x0[p, r, i], v) for i in range(shape[2])] for r in range(shape[1])] for p in range(shape[0])]
            for v in range(views)
        ],
        np.float32,
    )


def run(config, *, views=1, iteration=0, off_policy=0.0, memory=None, clip=None) -> Run:
    """A rollout and one gradient. off_policy: how far parameters have moved since the rollout."""
    algorithm = algorithms.make(config)
    graph, policy = algorithm.graph, Velocity()
    sigmas = schedules.static(graph.steps, 3.0)
    moment = algorithm.schedule(iteration)
    rng = np.random.default_rng(9)
    start = rng.normal(size=(PROMPTS, graph.noises, plain.TOKENS, plain.CHANNELS)).astype(np.float32)
    table = rng.normal(size=(graph.steps, PROMPTS, graph.group, plain.TOKENS, plain.CHANNELS)).astype(np.float32)
    params = plain.weights()
    pooled = conditions(views, graph.branches)
    prompt = Condition(None, jnp.asarray(pooled[0, :, 0]))
    g = algorithm.kernel.noise(sigmas, algorithm.eta)

    @jax.jit
    def sample(params, shift):
        velocity = lambda x, s: policy.velocity(params, x, s, prompt)
        given = lambda i, shape: jnp.asarray(table)[i][:, : shape[1]]
        shift = shift if graph.moving else 0
        return rollout.rollout(velocity, graph, algorithm.kernel, sigmas, g, jnp.asarray(start), given, shift)[0]

    trajectory = sample(params, moment.shift)
    judged = {"judge": jnp.asarray(rewards(trajectory.x0, views))}
    found = algorithm.advantage(judged, jnp.ones(pooled.shape[:3], bool), trajectory, memory)
    chosen = algorithm.select(jax.random.key(3), trajectory, found, moment.stage, sigmas)
    weight = np.full((views, 1, 1, 1), 1.0 / views, np.float32) * np.asarray(chosen.weight)
    batch = Batch(
        chosen.transitions, Condition(jnp.zeros(pooled.shape), jnp.asarray(pooled)), chosen.advantage, jnp.asarray(weight)
    )
    up = Updater(policy, algorithm.objective, optax.sgd(1.0), follows=algorithm.follow is not None)
    rng = np.random.default_rng(11)
    moved = {n: (a + off_policy * rng.normal(size=a.shape)).astype(np.float32) for n, a in params.items()}
    if off_policy and algorithm.objective.density:
        batch = batch._replace(old=jax.jit(up.old_densities)(params, batch))
    reference = plain.weights(1) if algorithm.objective.reference else None
    sampler = params if algorithm.follow else None
    loss, grads, metrics = tiny.gradients(up, moved, batch, sampler=sampler, reference=reference)
    return Run(
        algorithm,
        config,
        plain.static(graph.steps),
        start,
        table,
        pooled,
        jax.tree.map(np.asarray, trajectory),
        np.asarray(found),
        jax.tree.map(np.asarray, chosen),
        float(loss),
        grads,
        metrics,
        params,
        moved,
        moment.shift,
    )


def same(run: Run, loss, net: plain.Net, tolerance=1e-5):
    """The run's loss and gradient are those of a plain loss, whose network has gradients."""
    loss.backward()
    np.testing.assert_allclose(run.loss, loss.item(), rtol=1e-4, atol=tolerance)
    tiny.close(run.grads, {n: net.w[n].grad.numpy() for n in run.grads}, tolerance)

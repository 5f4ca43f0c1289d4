"""One policy update: log-probabilities under every view, loss, gradients, optimiser.

Work is split into units of one trained step, one chunk of views and one chunk of prompts; units run in a scan that
accumulates gradients, so memory holds one unit's activations. A state that a group shares is evaluated once per view.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mvgrpo_jax import objectives, plans
from mvgrpo_jax.algorithms.base import Algorithm
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.policy import Policy, assemble
from mvgrpo_jax.types import Batch, Condition, TrainState


@dataclasses.dataclass(frozen=True, eq=False)
class Updater:
    """Everything static about an update.

    kl: weight of the KL divergence to the reference parameters. ema: decay of the weight average, 0 for none.
    view_chunk, prompt_chunk: how many views and prompts a unit holds (0: all). per_step: an optimiser step after each
    trained step instead of one for all.
    """

    policy: Policy
    algorithm: Algorithm
    optimizer: optax.GradientTransformation
    sigmas: np.ndarray
    g: np.ndarray
    kl: float = 0.0
    ema: float = 0.0
    view_chunk: int = 0
    prompt_chunk: int = 0
    per_step: bool = False

    def grid(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        return tuple(jnp.asarray(a) for a in plans.trained_grid(self.algorithm.plan, self.sigmas, self.g))

    def init(self, params) -> TrainState:
        ema = jax.tree.map(jnp.copy, params) if self.ema else None
        return TrainState(jnp.zeros((), jnp.int32), params, self.optimizer.init(params), ema)

    def moments(self, params, x_t, condition: Condition, step) -> tuple[jax.Array, jax.Array]:
        """Transition mean [P, M, L, C] and deviation [] under one view. x_t: [P, M, L, C]; step: (s, s', g), each []."""
        s, s_next, g = step
        v = self.policy.velocity(params, x_t, s, condition)
        return self.algorithm.kernel.moments(x_t, v, s, s_next, g)

    def log_prob(self, params, x_t, x_next, views: Condition, step) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(log-probability [V, P, G], mean [V, P, M, L, C], std) of one trained step under views [V, P, ...]."""

        def one_view(condition):
            mean, std = self.moments(params, x_t, condition, step)
            return self.algorithm.kernel.log_prob(x_next, mean, std), mean, std

        log_prob, mean, std = jax.vmap(one_view, out_axes=(0, 0, None))(views)
        return log_prob, mean, std

    def old_log_probs(self, params, batch: Batch) -> jax.Array:
        """[V, P, B, G]: each view's denominator, under the rollout's parameters."""
        trajectory, views = batch.trajectory, batch.views

        def step(b):
            at = lambda a: jax.lax.dynamic_index_in_dim(a, b, 1, False)
            step_views = branch(views, b)
            grid = tuple(a[b] for a in self.grid())
            return self.log_prob(params, at(trajectory.x_t), at(trajectory.x_next), step_views, grid)[0]

        return jnp.moveaxis(jax.lax.map(step, jnp.arange(trajectory.x_t.shape[1])), 0, 2)

    def unit_loss(self, params, frozen, reference, unit: Unit) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The loss of one unit, already weighted so that units add up to the whole, and what to log of it."""
        new, mean, std = self.log_prob(assemble(params, frozen), unit.x_t, unit.x_next, unit.views, unit.grid)
        old = jax.lax.stop_gradient(new) if unit.old is None else unit.old
        ratio = jnp.exp(new - old)
        loss = self.algorithm.loss(ratio, unit.advantage).mean(-1)
        divergence = jnp.zeros_like(loss)
        if self.kl:
            _, mean_ref, _ = self.log_prob(assemble(reference, frozen), unit.x_t, unit.x_next, unit.views, unit.grid)
            divergence = objectives.gaussian_kl(mean, mean_ref, std).mean(-1)
        total = (unit.weight * (loss + self.kl * divergence)).sum()
        share = lambda x: (unit.weight * x.astype(jnp.float32).mean(-1)).sum()
        drift = jnp.abs(new[0] - unit.rollout).max()
        return total, {
            "sum/weight": unit.weight.sum(),
            "sum/ratio/mean": share(ratio),
            "sum/clip/low": share(ratio < 1.0 - self.algorithm.clip),
            "sum/clip/high": share(ratio > 1.0 + self.algorithm.clip),
            "sum/kl": share(divergence[..., None]),
            "min/ratio/min": ratio.min(),
            "max/ratio/max": ratio.max(),
            "max/drift/rollout": jnp.where(unit.has_prompt_view, drift, 0.0),
        }

    def units(self, batch: Batch) -> tuple[int, int, int, int]:
        """(trained steps, view chunks, prompt chunks, prompts in a chunk)."""
        views, prompts = batch.weight.shape[:2]
        per_view, per_prompt = self.view_chunk or views, self.prompt_chunk or prompts
        for name, size, count in (("view", per_view, views), ("prompt", per_prompt, prompts)):
            if count % size:
                raise UserError(f"config.train.{name}_chunk {size} must divide the number of {name}s, {count}")
        return batch.trajectory.x_t.shape[1], views // per_view, prompts // per_prompt, per_prompt

    def unit(self, batch: Batch, number: jax.Array) -> Unit:
        """Cuts unit `number` out of the batch. A prompt chunk is strided, so that it stays spread over the devices."""
        steps, view_chunks, prompt_chunks, _ = self.units(batch)
        b, rest = number // (view_chunks * prompt_chunks), number % (view_chunks * prompt_chunks)
        view, prompt = rest // prompt_chunks, rest % prompt_chunks
        take = jax.lax.dynamic_index_in_dim

        def prompts(a, axis):  # keep every prompt_chunks-th prompt
            shape = (*a.shape[:axis], -1, prompt_chunks, *a.shape[axis + 1 :])
            return take(a.reshape(shape), prompt, axis + 1, False)

        def views(a):  # [V, P, ...] -> [V / view_chunks, P / prompt_chunks, ...]
            return prompts(take(a.reshape(view_chunks, -1, *a.shape[1:]), view, 0, False), 1)

        t, r = batch.trajectory, b if batch.weight.shape[2] > 1 else 0
        s, s_next, g = self.grid()
        importance = jnp.asarray(self.algorithm.step_weight(*plans.trained_grid(self.algorithm.plan, self.sigmas, self.g)))
        scale = importance[b] / (steps * batch.weight.shape[1])
        return Unit(
            x_t=prompts(take(t.x_t, b, 1, False), 0),
            x_next=prompts(take(t.x_next, b, 1, False), 0),
            rollout=prompts(take(t.log_prob, b, 1, False), 0),
            views=jax.tree.map(lambda a: views(take(a, r if a.shape[2] > 1 else 0, 2, False)), batch.views),
            advantage=views(take(batch.advantage, r, 2, False)),
            weight=views(take(batch.weight, r, 2, False)) * scale,
            old=None if batch.old_log_prob is None else views(take(batch.old_log_prob, b, 2, False)),
            grid=(s[b], s_next[b], g[b]),
            has_prompt_view=view == 0,
        )

    def gradients(self, params, frozen, reference, batch: Batch, numbers: jax.Array):
        """(loss, gradients, metrics) summed over the units `numbers`."""

        def one(carry, number):
            value_and_grad = jax.value_and_grad(self.unit_loss, has_aux=True)
            (loss, metrics), grads = value_and_grad(params, frozen, reference, self.unit(batch, number))
            return jax.tree.map(jnp.add, carry, (loss, grads)), metrics

        zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
        (loss, grads), metrics = jax.lax.scan(one, zero, numbers)
        return loss, grads, metrics

    def apply(self, state: TrainState, loss, grads) -> tuple[TrainState, dict[str, jax.Array]]:
        """One optimiser step; a step with a non-finite loss or gradient leaves the state as it was."""
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        updates, opt_state = self.optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema and jax.tree.map(lambda e, p: self.ema * e + (1.0 - self.ema) * p, state.ema, params)
        new = TrainState(state.step + 1, params, opt_state, ema)
        state = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)
        return state, {"sum/loss": loss, "max/grad_norm": norm, "max/non_finite": 1.0 - finite}

    def update(self, state: TrainState, reference, batch: Batch, frozen=None) -> tuple[TrainState, dict[str, jax.Array]]:
        """One pass over the batch. reference: parameters for the KL term, or None. frozen: the base beneath adapters, or
        None when the whole network is trained."""
        steps, view_chunks, prompt_chunks, _ = self.units(batch)
        per_step = view_chunks * prompt_chunks
        if not self.per_step:
            loss, grads, metrics = self.gradients(state.params, frozen, reference, batch, jnp.arange(steps * per_step))
            state, applied = self.apply(state, loss, grads)
            return state, summarise(metrics | applied)

        def one(state, b):
            numbers = b * per_step + jnp.arange(per_step)
            loss, grads, metrics = self.gradients(state.params, frozen, reference, batch, numbers)
            state, applied = self.apply(state, loss, grads)
            return state, metrics | applied

        state, metrics = jax.lax.scan(one, state, jnp.arange(steps))
        return state, summarise(metrics)


class Unit(NamedTuple):
    """One trained step of some views [v] and prompts [p] of a batch; names and axes as in Batch and Trajectory."""

    x_t: jax.Array
    x_next: jax.Array
    rollout: jax.Array
    views: Condition
    advantage: jax.Array
    weight: jax.Array
    old: jax.Array | None
    grid: tuple[jax.Array, jax.Array, jax.Array]
    has_prompt_view: jax.Array


def summarise(metrics: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Reduces stacked metrics by the first word of their names; weighted sums become means."""
    weight = metrics["sum/weight"].sum()
    out = {}
    for name, value in metrics.items():
        how, _, rest = name.partition("/")
        reduced = getattr(jnp, how)(value)
        out[rest] = reduced / weight if how == "sum" and rest not in ("weight", "loss") else reduced
    del out["weight"]
    return out


def branch(views: Condition, b: jax.Array) -> Condition:
    """The views of trained step b: [V, P, R, ...] -> [V, P, ...]; with R = 1 all steps share them."""
    return jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, b if a.shape[2] > 1 else 0, 2, False), views)

"""One policy update: the objective under every view, gradients, optimiser.

Work is split into units of one block of transitions, one chunk of views and one chunk of prompts; units run in a scan that
accumulates gradients, so memory holds one unit's activations. A state that a group shares is evaluated once per view.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mvgrpo_jax.core.objectives import Example, Fields, Objective
from mvgrpo_jax.core.policy import Policy, assemble
from mvgrpo_jax.core.structs import Batch, Condition, Old, Steps, TrainState
from mvgrpo_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How a batch is cut: optimiser steps of an update are minibatches of prompts x (blocks, where each has its own); a
    step's gradient is accumulated over blocks, chunks of a block's states, of views and of prompts."""

    minibatches: int
    blocks: int
    states: int
    views: int
    prompts: int

    @property
    def block(self) -> int:
        """Units of one block."""
        return self.states * self.views * self.prompts


@dataclasses.dataclass(frozen=True, eq=False)
class Updater:
    """Everything static about an update.

    follows: whether a sampling policy beside the trained one is kept. ema(step) -> decay of the weight average, None for no
    average. view_chunk, prompt_chunk, state_chunk: how many views, prompts and states a unit holds (0: all). minibatches:
    parts of the prompts that get an optimiser step each; per_step: an optimiser step after each block too.
    """

    policy: Policy
    objective: Objective
    optimizer: optax.GradientTransformation
    follows: bool = False
    ema: Callable[[jax.Array], jax.Array] | None = None
    view_chunk: int = 0
    prompt_chunk: int = 0
    state_chunk: int = 0
    minibatches: int = 1
    per_step: bool = False

    def init(self, params) -> TrainState:
        copy = lambda: jax.tree.map(jnp.copy, params)
        old = copy() if self.follows else None
        return TrainState(jnp.zeros((), jnp.int32), params, self.optimizer.init(params), copy() if self.ema else None, old)

    def field(self, params, condition: Condition):
        """The velocity of some parameters (None where they are None) under one view."""
        return params and (lambda x, s: self.policy.velocity(params, x, s, condition))

    def old_densities(self, params, batch: Batch) -> Old:
        """What ratios compare with, under the rollout's parameters and each view."""

        def block(b):
            at = lambda a: jax.lax.dynamic_index_in_dim(a, b, 1, False)
            t = jax.tree.map(at, batch.transitions)

            def one_view(condition):
                example = Example(t.x_t, t.x_next, t.steps, t.log_prob, None, t.log_prob, jnp.ones((), bool))
                found = self.objective.density(self.field(params, condition), example)
                return found.log_prob, found.mean if self.objective.keeps_mean else None

            return jax.vmap(one_view)(of_block(batch.views, b))

        found = jax.lax.map(block, jnp.arange(batch.weight.shape[2]))  # [B, V, Q, P, ...]
        return Old(*(a if a is None else jnp.moveaxis(a, (0, 2), (2, 3)) for a in found))

    def unit_loss(self, params, frozen, old_params, reference, unit: Unit) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The loss of one unit, already weighted so that units add up to the whole, and what to log of it."""
        whole = lambda p: p if p is None else assemble(p, frozen)
        params, old_params, reference = whole(params), whole(old_params), whole(reference)

        def one_view(condition, advantage, old, is_prompt):
            fields = Fields(*(self.field(p, condition) for p in (params, old_params, reference)))
            example = Example(unit.x_t, unit.x_next, unit.steps, advantage, old, unit.recorded, is_prompt)
            return self.objective.loss(fields, example)

        loss, metrics = jax.vmap(one_view)(unit.views, unit.advantage, unit.old, unit.is_prompt)
        share = lambda x: (unit.weight * x.astype(jnp.float32)).sum()
        found = {"sum/weight": unit.weight.sum()}
        for name, value in metrics.items():
            how, _, rest = name.partition("/")
            found["sum/" + rest if how == "mean" else name] = share(value) if how == "mean" else getattr(jnp, how)(value)
        return (unit.weight * loss).sum() * unit.scale, found

    def sizes(self, batch: Batch) -> Sizes:
        """Raises UserError where a chunk does not divide."""
        views, prompts, blocks, draws = batch.weight.shape
        states = batch.transitions.x_t.shape[2]
        if prompts % self.minibatches:
            raise UserError(
                f"config.train.minibatches {self.minibatches} must divide the number of prompts of an iteration, {prompts}"
            )
        prompts //= self.minibatches
        counts = {"view": (self.view_chunk, views), "prompt": (self.prompt_chunk, prompts), "state": (self.state_chunk, states)}
        for name, (size, count) in counts.items():
            if size and count % size:
                raise UserError(f"config.train.{name}_chunk {size} must divide the number of {name}s, {count}")
        cut = {name: count // size if size else 1 for name, (size, count) in counts.items()}
        return Sizes(self.minibatches, blocks, cut["state"], cut["view"], cut["prompt"])

    def unit(self, batch: Batch, number: jax.Array) -> Unit:
        """Cuts unit `number` out of the batch. A prompt chunk is strided, so that it stays spread over the devices."""
        sizes = self.sizes(batch)
        rest, places = number, {}
        for name in ("prompts", "views", "states", "blocks", "minibatches"):  # the first varies fastest
            places[name], rest = rest % getattr(sizes, name), rest // getattr(sizes, name)
        b, parts = places["blocks"], sizes.minibatches * sizes.prompts
        part = places["minibatches"] * sizes.prompts + places["prompts"]
        take = jax.lax.dynamic_index_in_dim

        def prompts(a, axis):  # keep every parts-th prompt
            shape = (*a.shape[:axis], -1, parts, *a.shape[axis + 1 :])
            return take(a.reshape(shape), part, axis + 1, False)

        def states(a, axis):  # a run of states, or of their draws
            shape = (*a.shape[:axis], sizes.states, -1, *a.shape[axis + 1 :])
            return take(a.reshape(shape), places["states"], axis, False)

        def views(a):  # [V, P, ...] -> [V / views, P / parts, ...]
            return prompts(take(a.reshape(sizes.views, -1, *a.shape[1:]), places["views"], 0, False), 1)

        of_step = lambda a: states(prompts(take(a, b, 1, False), 0), 1)
        of_view = lambda a, axis=2: states(views(take(a, b, 2, False)), axis)
        t = batch.transitions
        all_views, all_prompts, _, draws = batch.weight.shape
        seen = all_views // sizes.views
        old = None
        if batch.old is not None:
            mean = batch.old.mean
            old = of_view(batch.old.log_prob, 3), mean if mean is None else of_view(mean, 3)
        return Unit(
            x_t=of_step(t.x_t),
            x_next=of_step(t.x_next),
            recorded=of_step(t.log_prob),
            steps=jax.tree.map(of_step, t.steps),
            views=jax.tree.map(views, of_block(batch.views, b)),
            advantage=of_view(batch.advantage),
            weight=of_view(batch.weight),
            scale=jnp.float32(sizes.minibatches / (all_prompts * sizes.blocks * draws)),
            old=old,
            is_prompt=places["views"] * seen + jnp.arange(seen) == 0,
        )

    def gradients(self, params, frozen, old_params, reference, batch: Batch, numbers: jax.Array):
        """(loss, gradients, metrics) summed over the units `numbers`."""

        def one(carry, number):
            value_and_grad = jax.value_and_grad(self.unit_loss, has_aux=True)
            (loss, metrics), grads = value_and_grad(params, frozen, old_params, reference, self.unit(batch, number))
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
        ema = state.ema
        if self.ema:
            decay = self.ema(state.step + 1)
            ema = jax.tree.map(lambda e, p: decay * e + (1.0 - decay) * p, ema, params)
        new = TrainState(state.step + 1, params, opt_state, ema, state.old)
        state = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)
        return state, {"sum/loss": loss, "max/grad_norm": norm, "max/non_finite": 1.0 - finite}

    def update(self, state: TrainState, reference, batch: Batch, frozen=None) -> tuple[TrainState, dict[str, jax.Array]]:
        """One pass over the batch. reference: the initial parameters where the objective needs them, or None. frozen: the base
        beneath adapters, or None when the whole network is trained."""
        sizes = self.sizes(batch)
        steps = sizes.minibatches * (sizes.blocks if self.per_step else 1)
        numbers = jnp.arange(sizes.minibatches * sizes.blocks * sizes.block).reshape(steps, -1)

        def one(state, numbers):
            loss, grads, metrics = self.gradients(state.params, frozen, state.old, reference, batch, numbers)
            state, applied = self.apply(state, loss, grads)
            return state, metrics | applied

        if steps == 1:
            state, metrics = one(state, numbers[0])
        else:
            state, metrics = jax.lax.scan(one, state, numbers)
            # Blocks share a minibatch's loss, minibatches are averages of their own.
            metrics["sum/loss"] = metrics["sum/loss"] / sizes.minibatches
        return state, summarise(metrics)


class Unit(NamedTuple):
    """One block of transitions of some views [v] and prompts [p] of a batch; names and axes as in Batch and Transitions.
    scale: makes the weighted sum of units the objective's average."""

    x_t: jax.Array
    x_next: jax.Array
    recorded: jax.Array
    steps: Steps
    views: Condition
    advantage: jax.Array
    weight: jax.Array
    scale: jax.Array
    old: tuple[jax.Array, jax.Array | None] | None
    is_prompt: jax.Array


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


def of_block(views: Condition, b: jax.Array) -> Condition:
    """The views of block b: [V, P, R, ...] -> [V, P, ...]; with R = 1 all blocks share them."""
    return jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, b if a.shape[2] > 1 else 0, 2, False), views)

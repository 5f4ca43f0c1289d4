"""One policy update: the objective under every view, gradients, optimiser.

Microbatches run in a scan that adds up gradients in float32, so that memory holds one microbatch's activations. A state that a
group shares is evaluated once a view.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from mvgrpo_jax.core.microbatches import Counts, Microbatch, cut, join, scan
from mvgrpo_jax.core.objectives import Fields, Objective, Transition
from mvgrpo_jax.core.policy import Policy, assemble
from mvgrpo_jax.core.precision import masters_of
from mvgrpo_jax.core.reductions import Max, Mean, Metric
from mvgrpo_jax.core.structs import Batch, Condition, Old, TrainState
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.parallel import rules


@dataclasses.dataclass(frozen=True, eq=False)
class Updater:
    """Everything static about an update.

    follows: whether a sampling policy beside the trained one is kept; lags: whether that is the trained one of an update ago.
    ema(step) -> decay of the weight average, None for no average. view_chunk, prompt_chunk, state_chunk: how many views,
    prompts and states a microbatch holds (0: all). minibatches: parts of the prompts that get an optimiser step each; per_step:
    an optimiser step after each block too. spread_views: whether the devices that share a prompt split its views among them,
    whose number must divide; else they split its states.
    """

    policy: Policy
    objective: Objective
    optimizer: optax.GradientTransformation
    follows: bool = False
    lags: bool = False
    ema: Callable[[jax.Array], jax.Array] | None = None
    view_chunk: int = 0
    prompt_chunk: int = 0
    state_chunk: int = 0
    minibatches: int = 1
    per_step: bool = False
    spread_views: bool = False

    def init(self, params) -> TrainState:
        opt_state = self.optimizer.init(params)

        def copy():
            return jax.tree.map(jnp.copy, masters_of(opt_state, params))

        old = copy() if self.follows else jax.tree.map(jnp.copy, params) if self.lags else None
        return TrainState(jnp.zeros((), jnp.int32), params, opt_state, copy() if self.ema else None, old)

    def field(self, params, condition: Condition):
        """The velocity of some parameters (None where they are None) under one view."""
        return params and (lambda x, s: self.policy.velocity(params, x, s, condition))

    def over_views(self, one_view: Callable) -> Callable:
        """one_view for all views at once, split over the lanes of the mesh where views are what is spread."""
        if not self.spread_views:
            return jax.vmap(one_view)

        def run(*of_views):
            with rules.lanes_taken():
                lanes = rules.RULES["lanes"]
                return jax.vmap(one_view, spmd_axis_name=lanes)(*of_views)

        return run

    def old_densities(self, params, batch: Batch) -> Old:
        """What ratios compare with, under the rollout's parameters and each view, a microbatch of the update at a time."""
        counts = self.counts(batch)

        def one(nothing, micro: Microbatch):
            def one_view(condition, advantage, is_prompt):
                transition = Transition(micro.x_t, micro.x_next, micro.steps, advantage, None, micro.recorded, is_prompt)
                density = self.objective.density(self.field(params, condition), transition)
                return Old(density.log_prob, density.mean if self.objective.keeps_mean else None)

            old = self.over_views(one_view)(micro.views, micro.advantage, micro.is_prompt)  # [v, Q, p, ...]
            return nothing, jax.tree.map(lambda a: jnp.moveaxis(a, 1, 2), old)

        _, old = scan(one, None, cut(batch, counts), len(counts))
        return jax.tree.map(lambda a: join(a, counts), old)

    def loss(self, params, frozen, old_params, reference, micro: Microbatch) -> tuple[jax.Array, dict[str, Metric]]:
        """The weighted sum of a microbatch's losses over views, prompts and draws, and its metrics, reduced."""

        def joined(trained):
            return trained if trained is None else assemble(trained, frozen)

        params, old_params, reference = joined(params), joined(old_params), joined(reference)

        def one_view(condition, advantage, old, is_prompt):
            fields = Fields(*(self.field(p, condition) for p in (params, old_params, reference)))
            transition = Transition(micro.x_t, micro.x_next, micro.steps, advantage, old, micro.recorded, is_prompt)
            return self.objective.loss(fields, transition)

        loss, metrics = self.over_views(one_view)(micro.views, micro.advantage, micro.old, micro.is_prompt)
        return (micro.weight * loss).sum(), {n: m.weighted(micro.weight).reduce() for n, m in metrics.items()}

    def counts(self, batch: Batch) -> Counts:
        """How the batch is cut. Raises UserError where a chunk does not divide."""
        views, prompts, blocks, _ = batch.weight.shape
        states = batch.transitions.x_t.shape[2]
        if prompts % self.minibatches:
            raise UserError(
                f"config.train.minibatches {self.minibatches} must divide the number of prompts of an iteration, {prompts}"
            )

        def chunks(name: str, size: int, count: int) -> int:
            if size and count % size:
                raise UserError(f"config.train.{name}_chunk {size} must divide the number of {name}s, {count}")
            return count // size if size else 1

        return Counts(
            minibatch=self.minibatches,
            block=blocks,
            state=chunks("state", self.state_chunk, states),
            view=chunks("view", self.view_chunk, views),
            prompt=chunks("prompt", self.prompt_chunk, prompts // self.minibatches),
        )

    def scale(self, batch: Batch) -> jax.Array:
        """What makes the weighted sum over a minibatch's draws their average, also where each block has a step of its own."""
        _, prompts, blocks, draws = batch.weight.shape
        return jnp.float32(self.minibatches / (prompts * blocks * draws))

    def gradients(self, params, frozen, old_params, reference, micro: Microbatch, scale=1.0, total=None):
        """(scale x loss, its gradient in float32, metrics) summed over all microbatches of a cut batch. total: a loss and a
        gradient that these are added to."""
        axes = micro.weight.ndim - 3  # of a microbatch alone it is [v, p, g]

        def one(total, micro):
            def scaled(params):
                loss, metrics = self.loss(params, frozen, old_params, reference, micro)
                return loss * scale, metrics

            (loss, metrics), grads = jax.value_and_grad(scaled, has_aux=True)(params)
            return jax.tree.map(lambda a, b: a + b.astype(a.dtype), total, (loss, grads)), metrics

        (loss, grads), metrics = scan(one, self.nothing(params) if total is None else total, micro, axes)
        return loss, grads, _reduced(metrics)

    def nothing(self, params) -> tuple[jax.Array, dict]:
        """A loss and a gradient of 0, float32."""
        return jnp.zeros(()), jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)

    def add(self, total, state: TrainState, reference, batch: Batch, block: jax.Array, frozen=None):
        """What one block of a batch adds to an update's loss and gradient: (total with it, metrics). total: of other blocks, or
        `nothing`. batch: of one optimiser step; views are those of this block, [V, P, 1], and what other blocks hold is not
        read. `finish` then makes the update."""
        of = lambda axis: lambda a: jax.lax.dynamic_slice_in_dim(a, block, 1, axis)
        one = batch._replace(
            transitions=jax.tree.map(of(1), batch.transitions),
            advantage=of(2)(batch.advantage),
            weight=of(2)(batch.weight),
        )
        micro = cut(one, self.counts(one))
        loss, grads, metrics = self.gradients(state.params, frozen, state.old, reference, micro, self.scale(batch), total)
        return (loss, grads), metrics

    def finish(self, state: TrainState, total, metrics: list[dict[str, Metric]]) -> tuple[TrainState, dict[str, jax.Array]]:
        """The update of the blocks that were added: as `update`, but for rounding."""
        state, applied = self.apply(state, *total)
        of_blocks = jax.tree.map(lambda *of_each: jnp.stack(of_each), *metrics)
        found = of_blocks | applied | {"loss": Mean.of(total[0])}
        return state, {name: metric.value() for name, metric in _reduced(found).items()}

    def apply(self, state: TrainState, loss, grads) -> tuple[TrainState, dict[str, Metric]]:
        """One optimiser step; a step with a non-finite loss or gradient leaves the state as it was."""
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        updates, opt_state = self.optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if self.ema:
            decay = self.ema(state.step + 1)
            ema = jax.tree.map(lambda e, p: decay * e + (1.0 - decay) * p, ema, masters_of(opt_state, params))
        new = TrainState(state.step + 1, params, opt_state, ema, state.old)
        state = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)
        return state, {"grad_norm": Max(norm), "non_finite": Max(1.0 - finite)}

    def update(self, state: TrainState, reference, batch: Batch, frozen=None) -> tuple[TrainState, dict[str, jax.Array]]:
        """One pass over the batch. reference: the initial parameters where the objective needs them, or None. frozen: the base
        beneath adapters, or None when the whole network is trained."""
        counts, scale = self.counts(batch), self.scale(batch)
        steps_of_a_minibatch = counts.block if self.per_step else 1

        def step(state: TrainState, micro: Microbatch):
            loss, grads, metrics = self.gradients(state.params, frozen, state.old, reference, micro, scale)
            state, applied = self.apply(state, loss, grads)
            return state, metrics | applied | {"loss": Mean(loss, jnp.float32(1 / steps_of_a_minibatch))}

        state, metrics = scan(step, state, cut(batch, counts), 2 if self.per_step else 1)
        return state, {name: metric.value() for name, metric in _reduced(metrics).items()}


def _reduced(metrics: dict[str, Metric]) -> dict[str, Metric]:
    return {name: metric.reduce() for name, metric in metrics.items()}

"""The compiled programs of a run: those that make pictures, and views, selection, old log-probabilities, update.

Training, evaluation and ahead-of-time planning call these same functions.
"""

from __future__ import annotations

import dataclasses
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from mvgrpo_jax import algorithms, pipelines
from mvgrpo_jax.core import optim, rollout, schedules, selection
from mvgrpo_jax.core.policy import Policy
from mvgrpo_jax.core.precision import dtype_of, masters_of, with_master_weights
from mvgrpo_jax.core.structs import Condition, TrainState, Trajectory
from mvgrpo_jax.core.update import Updater
from mvgrpo_jax.models import attention, lora
from mvgrpo_jax.models.lora import LoraConfig
from mvgrpo_jax.models.module import Params
from mvgrpo_jax.parallel import rules, spread
from mvgrpo_jax.parallel.program import Program
from mvgrpo_jax.run.painting import ADAPTERS, ENCODED, Painting


def network_options(config, platform: str) -> dict:
    """How the transformer is built for a run on this platform: the options of models.flux.flux. Raises UserError."""
    t = config.train
    return {"remat": t.remat, "unroll": t.unroll, "attention": attention.choose(t.attention, platform, dtype_of(t.dtype))}


def needs_old(config, programs: Programs) -> bool:
    """Whether ratios compare with densities kept from before the updates: with one optimiser step a rollout that the trained
    policy drew itself, its own are the same, and nothing is kept."""
    t = config.train
    several = t.passes > 1 or t.minibatches > 1 or programs.updater.per_step
    return (several or t.async_steps > 0) and programs.algorithm.objective.density is not None


def by_branch(config, programs: Programs) -> bool:
    """Whether gradients are added up branch by branch: where that is asked for and each branch has captions of its own."""
    return config.train.by_branch and programs.caption_branches > 1


def sampler_of(state: TrainState) -> dict:
    """The parameters that sample."""
    return state.params if state.old is None else state.old


def averaged(state: TrainState) -> Params:
    """The weights that evaluation and export use: the average where one is kept, else the float32 masters."""
    return masters_of(state.opt_state, state.params) if state.ema is None else state.ema


def sigma_grid(steps: int, tokens: int, shift: float) -> np.ndarray:
    """shift > 0: static; 0: diffusers' dynamic schedule for this number of image tokens."""
    return schedules.static(steps, shift) if shift else schedules.dynamic(steps, tokens)


@dataclasses.dataclass(frozen=True, eq=False)
class Programs(Painting):
    """Static parts of a run.

    views: V of an update, the prompt and its captions, filled up where devices that share a prompt split its views.
    caption_branches: R where each branch has captions of its own, else 1.
    """

    updater: Updater
    views: int
    caption_branches: int
    lora: LoraConfig | None = None

    @classmethod
    def build(cls, config, pipeline: pipelines.Pipeline, mesh: Mesh) -> Programs:
        """From a checked config and a described pipeline. Raises UserError."""
        s, t = config.sampling, config.train
        height, width = config.image.height or pipeline.default_size, config.image.width or pipeline.default_size
        adapter = LoraConfig.parse(config.lora.rank, config.lora.alpha, config.lora.targets) if config.lora.rank else None
        network = lora.adapt(pipeline.transformer, adapter) if adapter else pipeline.transformer
        grid, time_scale = pipeline.grid(height, width), pipeline.scheduler.time_scale
        policy = Policy(network, grid, s.guidance, dtype_of(t.dtype), s.timestep, time_scale)
        algorithm = algorithms.make(config)
        sigmas = sigma_grid(s.steps, policy.tokens, s.shift)
        g = algorithm.kernel.noise(sigmas, algorithm.eta)
        optimizer = optim.make(config.optimizer)
        if not adapter and dtype_of(t.param_dtype) != jnp.float32:  # adapters are float32 always
            optimizer = with_master_weights(optimizer)
        updater = Updater(
            policy,
            algorithm.objective,
            optimizer,
            follows=algorithm.follow is not None,
            lags=t.async_steps > 0,
            ema=optim.average(config.ema),
            view_chunk=t.view_chunk,
            prompt_chunk=t.prompt_chunk,
            state_chunk=t.state_chunk,
            minibatches=t.minibatches,
            per_step=t.update_per == "timestep",
        )
        captions = algorithms.captions(config)
        own = captions and config.views.enhancer != "offline"  # captions of pictures are their branch's
        built = cls(
            pipeline,
            policy,
            algorithm,
            mesh,
            sigmas,
            g,
            sigma_grid(config.eval.steps, policy.tokens, s.shift),
            config.eval.solver,
            s.max_sequence_length or pipelines.text_length(pipeline),
            config.seed,
            updater,
            captions + 1,
            algorithm.graph.branches if own else 1,
            adapter,
        )
        return built._spread(config)

    def _spread(self, config) -> Programs:
        """With an update whose views or states are split over the lanes of the mesh, whichever leaves devices idle less."""
        lanes, updater = rules.parts("lanes", self.mesh), self.updater
        if lanes == 1:
            return self
        states = self.states(config)
        in_a_chunk = updater.view_chunk or self.views
        idle = {n: spread.padded(n, lanes) / n for n in (in_a_chunk, updater.state_chunk or states)}
        if idle[in_a_chunk] >= idle[updater.state_chunk or states]:
            return self
        chunk = spread.padded(in_a_chunk, lanes)
        updater = dataclasses.replace(updater, spread_views=True, view_chunk=updater.view_chunk and chunk)
        return dataclasses.replace(self, views=spread.padded(self.views, chunk), updater=updater)

    def states(self, config) -> int:
        """M: states of a trained step, which a microbatch may cut."""
        return jax.eval_shape(lambda: self.selected(config, self.algorithm.schedule(0).stage)).transitions.x_t.shape[2]

    def selected(self, config, stage) -> selection.Selection:
        """What an update trains on, for its shapes: the selection from a rollout of nothing."""
        graph, algorithm, prompts = self.algorithm.graph, self.algorithm, config.prompts_per_iteration
        key, start = jax.random.key(0), jnp.zeros((prompts, graph.noises, *self.latent_shape))
        noise = rollout.normals(key)
        trajectory, _ = rollout.rollout(lambda x, s: x, graph, algorithm.kernel, self.sigmas, self.g, start, noise)
        rewards = {n: jnp.zeros((1, prompts, graph.branches, graph.pictures)) for n, w in config.rewards.items() if w}
        memory = algorithm.chooser.memory if algorithm.chooser else None
        active = jnp.ones((1, prompts, graph.branches), bool)
        return algorithm.select(key, trajectory, algorithm.advantage(rewards, active, trajectory, memory), stage, self.sigmas)

    @property
    def of_views(self) -> NamedSharding:
        """Where an array [V, P, ...] lives."""
        return self.place("lanes" if self.updater.spread_views else None, "prompts")

    @cached_property
    def encode_views(self):
        """(text encoders' params, ids_clip [V, P, R, S], ids_t5) -> Condition [V, P, R], encoded where the update reads it."""

        def run(params, *ids) -> Condition:
            return pipelines.encode_views(self.pipeline, params, *ids, dtype=self.policy.dtype, most=ENCODED)

        return Program("encode_views", run, "text", out_shardings=self.of_views)

    @property
    def trained_shapes(self):
        """Shapes of what is trained: the transformer, or its adapters."""
        shapes = self.policy.network.shapes
        return lora.adapters(shapes) if self.lora else shapes

    @cached_property
    def adapters(self):
        """() -> fresh adapters, on the mesh."""
        key = self.key(0, ADAPTERS)
        return Program("adapters", lambda: lora.init(self.policy.network, key), out_shardings=self.state_shardings.params)

    @cached_property
    def state_shardings(self) -> TrainState:
        """Where every leaf of the TrainState lives."""
        shapes = self.trained_shapes
        params = rules.parameter_shardings(shapes, self.mesh, tuple(self.pipeline.transformer.stacks))
        state = jax.eval_shape(self.updater.init, shapes)
        return rules.like_parameters(state, shapes, params, self.mesh)

    @cached_property
    def init(self):
        """params -> TrainState, on the mesh."""
        return Program("init", self.updater.init, out_shardings=self.state_shardings)

    @cached_property
    def update(self):
        """(TrainState (donated), reference parameters or None, Batch, frozen base or None) -> (TrainState, metrics)."""
        shardings = (self.state_shardings, self.replicated)
        return Program("update", self.updater.update, donate_argnums=0, out_shardings=shardings)

    @cached_property
    def nothing(self):
        """params -> the loss and the gradient of 0 that an update by branches begins with."""
        return Program("nothing", self.updater.nothing, "update", out_shardings=self.total_shardings)

    @property
    def total_shardings(self):
        """Where a loss and a gradient live."""
        return self.replicated, self.state_shardings.params

    @cached_property
    def add(self):
        """(total (donated), TrainState, reference parameters or None, Batch, block, frozen base or None) -> (total,
        metrics)."""
        return Program(
            "add", self.updater.add, "update", donate_argnums=0, out_shardings=(self.total_shardings, self.replicated)
        )

    @cached_property
    def finish_update(self):
        """(TrainState (donated), total, metrics of each block) -> (TrainState, metrics)."""
        shardings = (self.state_shardings, self.replicated)
        return Program("finish_update", self.updater.finish, "update", donate_argnums=0, out_shardings=shardings)

    @cached_property
    def old_densities(self):
        """(params, Batch) -> Old."""
        return Program("old_densities", self.updater.old_densities, "update", out_shardings=self.of_views)

    @cached_property
    def select(self):
        """(key, Trajectory, {judge: reward [v, P, R, S]}, weight of each view [v, P, R], memory, stage (static)) ->
        (Transitions, advantage [V, P, B, G], weight [V, P, B, G], metrics). v views are there, up to V they are filled up with
        some of no weight."""

        def run(key, trajectory: Trajectory, rewards, of_view, memory, stage):
            advantage = self.algorithm.advantage(rewards, of_view > 0, trajectory, memory)
            chosen = self.algorithm.select(key, trajectory, advantage, stage, self.sigmas)
            known = ~jnp.isnan(chosen.advantage)  # a score that could not be had trains nothing
            weight = jnp.where(known, of_view[..., None] * chosen.weight, 0.0)
            chosen = chosen._replace(advantage=jnp.where(known, chosen.advantage, 0.0))
            fill = lambda a: jnp.pad(a, ((0, self.views - a.shape[0]), *[(0, 0)] * (a.ndim - 1)))
            active = known & (of_view[..., None] > 0)
            metrics = {"advantage/abs": jnp.abs(chosen.advantage).mean(where=active)}
            return chosen.transitions, fill(chosen.advantage), fill(weight), metrics

        shardings = (self.place("prompts"), self.of_views, self.of_views, self.replicated)
        return Program("select", run, static_argnums=5, out_shardings=shardings)

    @cached_property
    def remember(self):
        """TrainState (donated) -> TrainState whose sampling policy is the trained one."""

        def run(state: TrainState) -> TrainState:
            return state._replace(old=jax.tree.map(jnp.copy, state.params))

        # The policy that sampled before is not read: unless it is kept as an argument its memory is not donated.
        return Program("remember", run, "update", donate_argnums=0, keep_unused=True, out_shardings=self.state_shardings)

    @cached_property
    def follow(self):
        """(TrainState (donated), decay) -> TrainState whose sampling policy is decay x itself + (1 - decay) x the trained."""

        def run(state: TrainState, decay) -> TrainState:
            def mix(old, new):
                return (decay * old + (1.0 - decay) * new).astype(old.dtype)

            return state._replace(old=jax.tree.map(mix, state.old, masters_of(state.opt_state, state.params)))

        return Program("follow", run, "update", donate_argnums=0, out_shardings=self.state_shardings)

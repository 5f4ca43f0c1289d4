"""The compiled programs of a run: encode, rollout, decode, old log-probabilities, update, evaluation.

Training, evaluation and ahead-of-time planning call these same functions.
"""

from __future__ import annotations

import dataclasses
import math
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mvgrpo_jax import algorithms, pipelines
from mvgrpo_jax.algorithms.base import Algorithm
from mvgrpo_jax.core import optim, rollout, schedules, seeds, selection
from mvgrpo_jax.core.policy import Policy
from mvgrpo_jax.core.precision import dtype_of, masters_of, with_master_weights
from mvgrpo_jax.core.structs import Condition, TrainState, Trajectory
from mvgrpo_jax.core.update import Updater
from mvgrpo_jax.models import attention, lora
from mvgrpo_jax.models.lora import LoraConfig
from mvgrpo_jax.models.module import Params
from mvgrpo_jax.parallel import rules
from mvgrpo_jax.parallel.mesh import check_batch

# Pixels of a prompt that are decoded at once: 12 pictures of 512 x 512.
DECODED = 12 * 512 * 512
# What random numbers are for; fold_in(fold_in(key(seed), iteration), purpose) is all the RNG state there is.
ROLLOUT_NOISE, ROLLOUT_STEPS, EVALUATION, ADAPTERS, SELECTION = range(5)


def network_options(config, platform: str) -> dict:
    """How the transformer is built for a run on this platform: the options of models.flux.flux. Raises UserError."""
    t = config.train
    return {"remat": t.remat, "unroll": t.unroll, "attention": attention.choose(t.attention, platform, dtype_of(t.dtype))}


def needs_old(config, programs: Programs) -> bool:
    """Whether ratios compare with densities kept from before the updates: with one optimiser step a rollout the trained
    policy's own are the same, and nothing is kept."""
    t = config.train
    several = t.passes > 1 or t.minibatches > 1 or programs.updater.per_step
    return several and programs.algorithm.objective.density is not None


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
class Programs:
    """Static parts of a run. Parameters travel as arguments, so nothing here holds an array of the model."""

    pipeline: pipelines.Pipeline
    policy: Policy
    algorithm: Algorithm
    updater: Updater
    mesh: Mesh
    sigmas: np.ndarray
    g: np.ndarray
    eval_sigmas: np.ndarray
    eval_solver: str
    text_length: int
    seed: int
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
            ema=optim.average(config.ema),
            view_chunk=t.view_chunk,
            prompt_chunk=t.prompt_chunk,
            state_chunk=t.state_chunk,
            minibatches=t.minibatches,
            per_step=t.update_per == "timestep",
        )
        check_batch(config.prompts_per_iteration, "config.prompts_per_iteration", mesh)
        return cls(
            pipeline,
            policy,
            algorithm,
            updater,
            mesh,
            sigmas,
            g,
            sigma_grid(config.eval.steps, policy.tokens, s.shift),
            config.eval.solver,
            s.max_sequence_length or pipelines.text_length(pipeline),
            config.seed,
            adapter,
        )

    @property
    def latent_shape(self) -> tuple[int, int]:
        return self.policy.tokens, self.pipeline.flux_config.in_channels

    def batch(self, axis: int = 0) -> NamedSharding:
        return rules.batch_sharding(self.mesh, axis)

    @property
    def replicated(self) -> NamedSharding:
        return NamedSharding(self.mesh, P())

    def key(self, iteration: int, purpose: int) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(seeds.key(self.seed), iteration), purpose)

    @cached_property
    def encode(self):
        """(text encoders' params, ids_clip [N, ...], ids_t5 [N, ...]) -> Condition [N, ...]."""

        def run(params, ids_clip, ids_t5) -> Condition:
            ids_clip, ids_t5 = rules.constrain(ids_clip, "batch"), rules.constrain(ids_t5, "batch")
            return pipelines.encode(self.pipeline, params, ids_clip, ids_t5, self.policy.dtype)

        return jax.jit(run, out_shardings=self.replicated)

    @property
    def text_chunk(self) -> int:
        """Texts encoded at a time: 64, or enough that each device of the batch axes has one."""
        return math.lcm(64, self.mesh.shape["data"] * self.mesh.shape["fsdp"])

    @cached_property
    def rollout(self):
        """(params, Condition [P], noise key, step key, shift) -> (Trajectory, anchors' latents [P, noises, L, C])."""
        return self._from_noise(rollout.rollout)

    @cached_property
    def anchor(self):
        """(params, Condition [P], noise key, step key, shift) -> (Trajectory whose x0 are the draws, anchors' latents).

        With `finish`, what `rollout` does, in pieces: the pictures of a branch are there before those of the next.
        """
        return self._from_noise(rollout.anchor)

    def _from_noise(self, draw):
        def run(params, condition: Condition, noise_key, step_key, shift) -> tuple[Trajectory, jax.Array]:
            graph, prompts = self.algorithm.graph, condition.txt.shape[0]
            start = rules.constrain(jax.random.normal(noise_key, (prompts, graph.noises, *self.latent_shape)), "batch")
            velocity = lambda x, s: self.policy.velocity(params, x, s, condition)
            shift = shift if graph.moving else 0  # of a graph that stays, every number of steps is known to the compiler
            noise = rollout.normals(step_key)
            return draw(velocity, graph, self.algorithm.kernel, self.sigmas, self.g, start, noise, shift)

        return jax.jit(run, out_shardings=(self.batch(), self.batch()))

    def finish(self, branches: tuple[int, ...]):
        """(params, Condition [P], draws [P, R, G, L, C] of these branches) -> their final latents [P, R, S, L, C], by ODE."""
        if branches not in self._finishers:

            def run(params, condition: Condition, x):
                velocity = lambda x, s: self.policy.velocity(params, x, s, condition)
                return rollout.finish(velocity, self.algorithm.graph, self.sigmas, rules.constrain(x, "batch"), branches)

            self._finishers[branches] = jax.jit(run, out_shardings=self.batch())
        return self._finishers[branches]

    @cached_property
    def _finishers(self) -> dict:
        return {}

    @cached_property
    def decode(self):
        """(VAE's params, latents [P, ..., L, C]) -> pictures float32 [P, ..., H, W, 3] in [0, 1].

        The pictures of a prompt, [P, S, L, C] or [P, R, S, L, C], are decoded in parts of at most DECODED pixels, one after
        another: the decoder's last activations are large.
        """

        def run(params, latents):
            one = lambda x: pipelines.decode(self.pipeline, params, x, self.policy.grid, self.policy.dtype)
            latents = rules.constrain(latents, "batch")
            if latents.ndim < 4:
                return one(latents)
            prompts, *pictures = latents.shape[:-2]
            room = max(DECODED // (self.policy.tokens * self.pipeline.pixels_per_token**2), 1)
            each = max(n for n in range(1, pictures[-1] + 1) if pictures[-1] % n == 0 and n <= room)
            parts = latents.reshape(prompts, -1, each, *latents.shape[-2:])
            images = jnp.moveaxis(jax.lax.map(one, jnp.moveaxis(parts, 1, 0)), 0, 1)
            return images.reshape(prompts, *pictures, *images.shape[3:])

        return jax.jit(run, out_shardings=self.batch())

    @cached_property
    def evaluate(self):
        """(params, Condition [N], noise [N, L, C]) -> final latents [N, L, C] of the ODE."""

        def run(params, condition: Condition, noise):
            velocity = lambda x, s: self.policy.velocity(params, x, s, condition)
            return rollout.sample(velocity, noise[:, None], self.eval_sigmas, self.eval_solver)[:, 0]

        return jax.jit(run)

    @property
    def trained_shapes(self):
        """Shapes of what is trained: the transformer, or its adapters."""
        shapes = self.policy.network.shapes
        return lora.adapters(shapes) if self.lora else shapes

    @cached_property
    def adapters(self):
        """() -> fresh adapters, on the mesh."""
        key = self.key(0, ADAPTERS)
        return jax.jit(lambda: lora.init(self.policy.network, key), out_shardings=self.state_shardings.params)

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
        return jax.jit(self.updater.init, out_shardings=self.state_shardings)

    @cached_property
    def update(self):
        """(TrainState (donated), reference parameters or None, Batch, frozen base or None) -> (TrainState, metrics)."""
        return jax.jit(self.updater.update, donate_argnums=0, out_shardings=(self.state_shardings, self.replicated))

    @cached_property
    def old_densities(self):
        """(params, Batch) -> Old."""
        return jax.jit(self.updater.old_densities, out_shardings=self.batch(1))

    @cached_property
    def keep(self):
        """(tree of [P', ...], rows [P]) -> tree of [P, ...]."""
        return jax.jit(lambda tree, rows: jax.tree.map(lambda a: a[rows], tree), out_shardings=self.batch())

    @cached_property
    def select(self):
        """(key, Trajectory, {judge: reward [V, P, R, S]}, memory, stage (static)) -> Selection."""

        def run(key, trajectory: Trajectory, rewards, memory, stage) -> selection.Selection:
            advantage = self.algorithm.advantage(rewards, trajectory, memory)
            return self.algorithm.select(key, trajectory, advantage, stage, self.sigmas)

        shardings = selection.Selection(self.batch(), self.batch(1), self.batch())
        return jax.jit(run, static_argnums=4, out_shardings=shardings)

    @cached_property
    def follow(self):
        """(TrainState (donated), decay) -> TrainState whose sampling policy is decay x itself + (1 - decay) x the trained."""

        def run(state: TrainState, decay) -> TrainState:
            def mix(old, new):
                return (decay * old + (1.0 - decay) * new).astype(old.dtype)

            return state._replace(old=jax.tree.map(mix, state.old, masters_of(state.opt_state, state.params)))

        return jax.jit(run, donate_argnums=0, out_shardings=self.state_shardings)

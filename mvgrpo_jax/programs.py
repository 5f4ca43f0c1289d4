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

from mvgrpo_jax import algorithms, optim, rollout, schedules, sharding
from mvgrpo_jax import pipeline as pipelines
from mvgrpo_jax.algorithms.base import Algorithm
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.models import attention, lora
from mvgrpo_jax.models.lora import LoraConfig
from mvgrpo_jax.models.module import REMAT
from mvgrpo_jax.policy import Policy
from mvgrpo_jax.types import Condition, TrainState, Trajectory
from mvgrpo_jax.update import Updater

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
# What random numbers are for; fold_in(fold_in(key(seed), iteration), purpose) is all the RNG state there is.
ROLLOUT_NOISE, ROLLOUT_STEPS, EVALUATION, ADAPTERS = range(4)


def dtype_of(name: str) -> jnp.dtype:
    if name not in DTYPES:
        raise UserError(f"unknown dtype {name!r}; there are: {', '.join(DTYPES)}")
    return DTYPES[name]


def network_options(config, mesh: Mesh) -> dict:
    """How the transformer is built for a run on this mesh: the options of models.flux.flux. Raises UserError."""
    t = config.train
    if t.remat not in REMAT:
        raise UserError(f"unknown config.train.remat {t.remat!r}; there are: {', '.join(REMAT)}")
    if t.unroll < 1:
        raise UserError(f"config.train.unroll must be at least 1, got {t.unroll}")
    platform = mesh.devices.flat[0].platform
    return {"remat": t.remat, "unroll": t.unroll, "attention": attention.choose(t.attention, platform, dtype_of(t.dtype))}


def sigma_grid(steps: int, tokens: int, shift: float) -> np.ndarray:
    """shift > 0: static; 0: diffusers' dynamic schedule for this number of image tokens."""
    if steps < 1:
        raise UserError(f"config.sampling.steps must be at least 1, got {steps}")
    if shift < 0:
        raise UserError(f"config.sampling.shift must be positive, or 0 for the dynamic schedule; got {shift}")
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
    text_length: int
    seed: int
    lora: LoraConfig | None = None

    @classmethod
    def build(cls, config, pipeline: pipelines.Pipeline, mesh: Mesh) -> Programs:
        """From a config and a loaded pipeline. Raises UserError."""
        s, t = config.sampling, config.train
        height, width = config.image.height or pipeline.default_size, config.image.width or pipeline.default_size
        adapter = LoraConfig.parse(config.lora.rank, config.lora.alpha, config.lora.targets) if config.lora.rank else None
        network = lora.adapt(pipeline.transformer, adapter) if adapter else pipeline.transformer
        policy = Policy(network, pipeline.grid(height, width), s.guidance, dtype_of(t.dtype))
        algorithm = algorithms.make(config)
        sigmas = sigma_grid(s.steps, policy.tokens, s.shift)
        g = algorithm.kernel.noise(sigmas, s.eta)
        if t.update_per not in ("iteration", "timestep"):
            raise UserError(f"config.train.update_per must be 'iteration' or 'timestep', got {t.update_per!r}")
        updater = Updater(
            policy,
            algorithm,
            optim.make(config.optimizer),
            sigmas,
            g,
            kl=config.algorithm.kl,
            ema=config.ema.decay,
            view_chunk=t.view_chunk,
            prompt_chunk=t.prompt_chunk,
            per_step=t.update_per == "timestep",
        )
        sharding.check_batch(config.prompts_per_iteration, "config.prompts_per_iteration", mesh)
        return cls(
            pipeline,
            policy,
            algorithm,
            updater,
            mesh,
            sigmas,
            g,
            sigma_grid(config.eval.steps, policy.tokens, s.shift),
            s.max_sequence_length or pipelines.text_length(pipeline),
            config.seed,
            adapter,
        )

    @property
    def latent_shape(self) -> tuple[int, int]:
        return self.policy.tokens, self.pipeline.flux_config.in_channels

    def batch(self, axis: int = 0) -> NamedSharding:
        return sharding.batch_sharding(self.mesh, axis)

    @property
    def replicated(self) -> NamedSharding:
        return NamedSharding(self.mesh, P())

    def key(self, iteration: int, purpose: int) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(self.seed), iteration), purpose)

    @cached_property
    def encode(self):
        """(text encoders' params, ids_clip [N, ...], ids_t5 [N, ...]) -> Condition [N, ...]."""

        def run(params, ids_clip, ids_t5) -> Condition:
            ids_clip, ids_t5 = sharding.constrain(ids_clip, "batch"), sharding.constrain(ids_t5, "batch")
            return pipelines.encode(self.pipeline, params, ids_clip, ids_t5, self.policy.dtype)

        return jax.jit(run, out_shardings=self.replicated)

    @property
    def text_chunk(self) -> int:
        """Texts encoded at a time: 64, or enough that each device of the batch axes has one."""
        return math.lcm(64, self.mesh.shape["data"] * self.mesh.shape["fsdp"])

    @cached_property
    def rollout(self):
        """(params, Condition [P], noise key, step key) -> (Trajectory, anchor's latents [P, L, C])."""

        return self._from_noise(rollout.rollout)

    @cached_property
    def anchor(self):
        """(params, Condition [P], noise key, step key) -> (Trajectory whose x0 are the draws, anchor's latents [P, L, C]).

        With `tail`, what `rollout` does, in pieces: the pictures of a branch are there before those of the next.
        """
        return self._from_noise(rollout.anchor)

    def _from_noise(self, draw):
        def run(params, condition: Condition, noise_key, step_key) -> tuple[Trajectory, jax.Array]:
            prompts = condition.txt.shape[0]
            shape = (prompts, self.algorithm.plan.noises, *self.latent_shape)
            noise = sharding.constrain(jax.random.normal(noise_key, shape), "batch")
            velocity = lambda x, s: self.policy.velocity(params, x, s, condition)
            plan, kernel = self.algorithm.plan, self.algorithm.kernel
            trajectory, end = draw(velocity, plan, kernel, self.sigmas, self.g, noise, step_key)
            return trajectory, end[:, 0]

        return jax.jit(run, out_shardings=(self.batch(), self.batch()))

    @cached_property
    def tails(self):
        """For each branch (params, Condition [P], its draws [P, G, L, C]) -> their final latents, by ODE."""

        def of(step: int):
            def run(params, condition: Condition, x):
                velocity = lambda x, s: self.policy.velocity(params, x, s, condition)
                return rollout.sample(velocity, sharding.constrain(x, "batch"), self.sigmas[step + 1 :])

            return jax.jit(run, out_shardings=self.batch())

        return [of(step) for step in self.algorithm.plan.trained]

    @cached_property
    def decode(self):
        """(VAE's params, latents [P, ..., L, C]) -> pictures float32 [P, ..., H, W, 3] in [0, 1].

        The branches of [P, R, G, L, C] are decoded one after another: the decoder's first activations are large.
        """

        def run(params, latents):
            one = lambda x: pipelines.decode(self.pipeline, params, x, self.policy.grid, self.policy.dtype)
            latents = sharding.constrain(latents, "batch")
            if latents.ndim < 5 or latents.shape[1] == 1:
                return one(latents)
            return jnp.moveaxis(jax.lax.map(one, jnp.moveaxis(latents, 1, 0)), 0, 1)

        return jax.jit(run, out_shardings=self.batch())

    @cached_property
    def evaluate(self):
        """(params, Condition [N], noise [N, L, C]) -> final latents [N, L, C] of the ODE."""

        def run(params, condition: Condition, noise):
            velocity = lambda x, s: self.policy.velocity(params, x, s, condition)
            return rollout.sample(velocity, noise[:, None], self.eval_sigmas)[:, 0]

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
        params = sharding.parameter_shardings(shapes, self.mesh, tuple(self.pipeline.transformer.stacks))
        state = jax.eval_shape(self.updater.init, shapes)
        return sharding.like_parameters(state, shapes, params, self.mesh)

    @cached_property
    def init(self):
        """params -> TrainState, on the mesh."""
        return jax.jit(self.updater.init, out_shardings=self.state_shardings)

    @cached_property
    def update(self):
        """(TrainState (donated), reference parameters or None, Batch, frozen base or None) -> (TrainState, metrics)."""
        return jax.jit(self.updater.update, donate_argnums=0, out_shardings=(self.state_shardings, self.replicated))

    @cached_property
    def old_log_probs(self):
        """(params, Batch) -> [V, P, B, G]."""
        return jax.jit(self.updater.old_log_probs, out_shardings=self.batch(1))

    @cached_property
    def advantage(self):
        """{judge: reward [V, P, R, G]} -> advantage [V, P, R, G]."""
        return jax.jit(self.algorithm.advantage)

"""The compiled programs that make pictures: encoding, rollout, decoding, evaluation."""

from __future__ import annotations

import dataclasses
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from mvgrpo_jax import pipelines
from mvgrpo_jax.algorithms.base import Algorithm
from mvgrpo_jax.core import rollout, seeds
from mvgrpo_jax.core.policy import Policy
from mvgrpo_jax.core.structs import Condition, Trajectory
from mvgrpo_jax.parallel import rules, spread
from mvgrpo_jax.parallel.program import Program

# What a device works on at a time: pixels of pictures that it decodes, 12 of 512 x 512, and texts that it encodes.
DECODED, ENCODED = 12 * 512 * 512, 8
# Texts, or pictures of an evaluation, that are worked on at a time where their number is free; or one for each device.
ITEMS = 16
# What random numbers are for; fold_in(fold_in(key(seed), iteration), purpose) is all the RNG state there is.
ROLLOUT_NOISE, ROLLOUT_STEPS, EVALUATION, ADAPTERS, SELECTION = range(5)


@dataclasses.dataclass(frozen=True, eq=False)
class Painting:
    """Static parts of what makes pictures. Parameters travel as arguments, so nothing here holds an array of the model."""

    pipeline: pipelines.Pipeline
    policy: Policy
    algorithm: Algorithm
    mesh: Mesh
    sigmas: np.ndarray
    g: np.ndarray
    eval_sigmas: np.ndarray
    eval_solver: str
    text_length: int
    seed: int

    @property
    def latent_shape(self) -> tuple[int, int]:
        return self.policy.tokens, self.pipeline.flux_config.in_channels

    def place(self, *axes: str | None) -> NamedSharding:
        """Where an array lives whose leading dimensions are split by logical axes (parallel.rules); without any, everywhere."""
        return rules.sharding(self.mesh, *axes)

    @property
    def items(self) -> int:
        """How many texts, or pictures of an evaluation, are worked on at a time."""
        return spread.padded(ITEMS, rules.parts("batch", self.mesh))

    @property
    def replicated(self) -> NamedSharding:
        return self.place()

    def key(self, iteration: int, purpose: int) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(seeds.key(self.seed), iteration), purpose)

    @cached_property
    def encode(self):
        """(text encoders' params, ids_clip [items, S], ids_t5) -> Condition [items], each text on its own device."""
        return self._encode_one_each("encode", self.place("batch"))

    @cached_property
    def encode_prompts(self):
        """(text encoders' params, ids_clip [P, S], ids_t5) -> Condition [P]."""
        return self._encode_one_each("encode_prompts", self.place("prompts"))

    def _encode_one_each(self, name: str, place: NamedSharding) -> Program:
        def run(params, *ids) -> Condition:
            encoded = pipelines.encode_lanes(
                self.pipeline, params, *(a[:, None] for a in ids), dtype=self.policy.dtype, most=ENCODED
            )
            return jax.tree.map(lambda a: a[:, 0], encoded)

        return Program(name, run, "text", out_shardings=place)

    @cached_property
    def rollout(self):
        """(params, Condition [P], noise key, step key, shift) -> (Trajectory, anchors' latents [P, noises, L, C])."""
        return self._from_noise("rollout", rollout.rollout)

    @cached_property
    def anchor(self):
        """(params, Condition [P], noise key, step key, shift) -> (Trajectory whose x0 are the draws, anchors' latents).

        With `finish`, what `rollout` does, in pieces: the pictures of a branch are there before those of the next.
        """
        return self._from_noise("anchor", rollout.anchor)

    def _from_noise(self, name: str, draw) -> Program:
        def run(params, condition: Condition, noise_key, step_key, shift) -> tuple[Trajectory, jax.Array]:
            graph, prompts = self.algorithm.graph, condition.txt.shape[0]
            start = rules.constrain(jax.random.normal(noise_key, (prompts, graph.noises, *self.latent_shape)), "prompts")
            velocity = lambda x, s: self.policy.velocity(params, x, s, condition)
            shift = shift if graph.moving else 0  # of a graph that stays, every number of steps is known to the compiler
            noise = rollout.normals(step_key)
            return draw(velocity, graph, self.algorithm.kernel, self.sigmas, self.g, start, noise, shift)

        return Program(name, run, "rollout", out_shardings=self.place("prompts"))

    @cached_property
    def finish(self):
        """(params, Condition [P], draws [P, R, G, L, C]) -> their final latents [P, R, S, L, C], by ODE."""
        return self._to_the_end("finish", tuple(range(self.algorithm.graph.branches)), lambda x: x)

    def tail(self, branch: int):
        """`finish` of one branch: final latents [P, S, L, C]."""
        if branch not in self._tails:
            step = self.algorithm.graph.trained[branch]
            self._tails[branch] = self._to_the_end(f"tail {step}", (branch,), lambda x: x[:, 0])
        return self._tails[branch]

    @cached_property
    def _tails(self) -> dict:
        return {}

    def _to_the_end(self, name: str, branches: tuple[int, ...], shape) -> Program:
        def run(params, condition: Condition, draws):
            velocity = lambda x, s: self.policy.velocity(params, x, s, condition)
            draws = rules.constrain(draws[:, branches[0] : branches[-1] + 1], "prompts")
            return shape(rollout.finish(velocity, self.algorithm.graph, self.sigmas, draws, branches))

        return Program(name, run, "rollout", out_shardings=self.place("prompts"))

    @cached_property
    def branch(self):
        """([P, R, ...], r) -> [P, ...] of branch r."""
        return Program("branch", lambda x, r: x[:, r], out_shardings=self.place("prompts"))

    @cached_property
    def join(self):
        """Branches [P, ...], R of them -> [P, R, ...]."""
        return Program("join", lambda branches: jnp.stack(branches, axis=1), out_shardings=self.place("prompts"))

    @cached_property
    def decode(self):
        """(VAE's params, latents [P, n, L, C]) -> (pictures uint8 [P, m, H, W, 3], whether each is finite, bool [P, m]).

        The devices that hold a prompt have equal shares of its pictures; where n does not divide, m is the next number that
        does, and the last picture is repeated. A device decodes at most DECODED pixels at a time: the decoder's last
        activations are large.
        """
        run = lambda params, latents: self._decode(params, spread.even(latents))
        return Program("decode", run, out_shardings=(self.place("prompts", "lanes"), self.replicated))

    def _decode(self, params, latents) -> tuple[jax.Array, jax.Array]:
        most = DECODED // (self.policy.tokens * self.pipeline.pixels_per_token**2)
        return pipelines.decode_lanes(self.pipeline, params, latents, self.policy.grid, self.policy.dtype, most)

    @cached_property
    def evaluate(self):
        """(params, Condition [items], noise [items, L, C]) -> final latents [items, L, C] of the ODE."""

        def run(params, condition: Condition, noise):
            velocity = lambda x, s: self.policy.velocity(params, x, s, condition)
            return rollout.sample(velocity, noise[:, None], self.eval_sigmas, self.eval_solver)[:, 0]

        return Program("evaluate", run, out_shardings=self.place("batch"))

    @cached_property
    def decode_items(self):
        """`decode` of latents [items, L, C], each on its own device: pictures [items, 1, H, W, 3], finite [items, 1]."""
        run = lambda params, latents: self._decode(params, latents[:, None])
        return Program("decode_items", run, "decode", out_shardings=(self.place("batch"), self.replicated))

    @cached_property
    def evaluation_noise(self):
        """numbers of pictures [items] -> noise [items, L, C]; a picture's depends on the seed and its number alone."""

        def run(numbers):
            keys = jax.vmap(lambda i: jax.random.fold_in(self.key(0, EVALUATION), i))(numbers)
            return jax.vmap(lambda k: jax.random.normal(k, self.latent_shape))(keys)

        return Program("evaluation_noise", run, out_shardings=self.place("batch"))

    @cached_property
    def keep(self):
        """(tree of [P * count, ...], which of its `count` each of P slots keeps [P]) -> tree of [P, ...]."""

        def run(tree, kept):
            def pick(a):
                a = a.reshape(len(kept), -1, *a.shape[1:])
                return jnp.take_along_axis(a, kept.reshape(-1, *[1] * (a.ndim - 1)), axis=1)[:, 0]

            return jax.tree.map(pick, tree)

        return Program("keep", run, out_shardings=self.place("prompts"))

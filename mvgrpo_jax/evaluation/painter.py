"""Pictures of prompts by the ODE, a batch spread over the devices of one process."""

from __future__ import annotations

from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mvgrpo_jax import pipelines
from mvgrpo_jax.core import rollout
from mvgrpo_jax.core.policy import Policy
from mvgrpo_jax.core.structs import Condition
from mvgrpo_jax.evaluation.job import Item, Job
from mvgrpo_jax.parallel import rules, spread
from mvgrpo_jax.run.painting import ENCODED
from mvgrpo_jax.run.sampling import initial_latents

PIXELS = 1024 * 1024  # that a device decodes at a time: the decoder's last activations are large


class Painter:
    """Paints items of a job with a pipeline whose weights are on `mesh`, `size` at a time: the next multiple of its devices of
    `batch`. Picture (prompt, seed) is what `sample --seed` paints as number `prompt`: noise depends on both alone."""

    def __init__(self, pipeline: pipelines.Pipeline, mesh: Mesh, job: Job, batch: int):
        grid = pipeline.grid(job.height, job.width)
        scale = pipeline.scheduler.time_scale
        self.policy = Policy(pipeline.transformer, grid, job.guidance, jnp.dtype(job.dtype), time_scale=scale)
        self.pipeline, self.mesh, self.length = pipeline, mesh, job.length
        self.sigmas = pipeline.sigmas(job.steps, self.policy.tokens)
        self.size = spread.padded(batch, rules.parts("batch", mesh))
        self.place = rules.sharding(mesh, "batch")

    def __call__(self, items: list[Item]) -> tuple[np.ndarray, np.ndarray]:
        """(pictures uint8 [N, H, W, 3], whether each is finite, bool [N]) of at most `size` items; the last is repeated until
        the batch is full."""
        filled = [*items, *items[-1:] * (self.size - len(items))]
        shape = (self.policy.tokens, self.pipeline.flux_config.in_channels)
        noise = np.concatenate([initial_latents(item.seed, item.number, 1, shape) for item in filled])
        ids_clip, ids_t5, _ = pipelines.tokenize(self.pipeline, [item.text for item in filled], self.length)
        params = self.pipeline.params
        with jax.set_mesh(self.mesh):
            condition = self._encode(params, *jax.device_put((ids_clip, ids_t5), self.place))
            latents = self._walk(params["transformer"], condition, jax.device_put(noise, self.place))
            images, finite = self._decode(params["vae"], latents)
        return np.asarray(images)[: len(items), 0], np.asarray(finite)[: len(items), 0]

    @cached_property
    def _encode(self):
        def run(params, *ids) -> Condition:
            lanes = (a[:, None] for a in ids)
            encoded = pipelines.encode_lanes(self.pipeline, params, *lanes, dtype=self.policy.dtype, most=ENCODED)
            return jax.tree.map(lambda a: a[:, 0], encoded)

        return jax.jit(run, out_shardings=self.place)

    @cached_property
    def _walk(self):
        def run(params, condition: Condition, noise) -> jax.Array:
            velocity = lambda x, s: self.policy.velocity(params, x, s, condition)
            return rollout.sample(velocity, noise[:, None], self.sigmas)[:, 0]

        return jax.jit(run, out_shardings=self.place)

    @cached_property
    def _decode(self):
        most = PIXELS // (self.policy.tokens * self.pipeline.pixels_per_token**2)

        def run(params, latents):
            return pipelines.decode_lanes(self.pipeline, params, latents[:, None], self.policy.grid, self.policy.dtype, most)

        return jax.jit(run, out_shardings=(self.place, self.place))

"""The mesh of a run: the sizes that its config gives, or those that fit the hardware and what is trained."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mvgrpo_jax import pipelines
from mvgrpo_jax.core.precision import dtype_of
from mvgrpo_jax.models import lora
from mvgrpo_jax.models.lora import LoraConfig
from mvgrpo_jax.parallel import mesh as meshes
from mvgrpo_jax.parallel import rules
from mvgrpo_jax.planning import hardware
from mvgrpo_jax.run import budget


def place(config, pipeline: pipelines.Pipeline, groups: list[list] | None = None) -> tuple[Mesh, str]:
    """(mesh, why it has its sizes). groups: the devices of each island (parallel.mesh), described ones among them; None: those
    that are there. Raises UserError."""
    groups = meshes.islands(jax.devices()) if groups is None else groups
    sizes, reason = {axis: config.mesh[axis] for axis in meshes.AXES}, "as config.mesh says"
    if config.mesh.auto and set(sizes.values()) == {1}:
        base = bytes_of_base(config, pipeline) if config.lora.rank else 0
        memory = hardware.memory(groups[0][0])
        sizes, reason = meshes.choose(meshes.topology(groups), divisor(config, pipeline), base, memory)
    mesh = meshes.make_mesh(**sizes, groups=groups, prompts=budget.prompts_at_once(config))
    if (sharing := rules.parts("lanes", mesh)) > 1:
        reason += f"; {sharing} devices share each prompt of a microbatch and split its latents, pictures and views"
    return mesh, reason


def bytes_of_base(config, pipeline: pipelines.Pipeline) -> int:
    """Bytes of everything that is not trained where adapters are: transformer, text encoders, VAE."""
    shapes = [getattr(pipeline, name).shapes for name in pipelines.WEIGHTS]
    return sum(math.prod(x.shape) for x in jax.tree.leaves(shapes)) * jnp.dtype(dtype_of(config.train.frozen_dtype)).itemsize


def divisor(config, pipeline: pipelines.Pipeline) -> int:
    """Into so many parts every parameter of a run can be cut."""
    trees = [(getattr(pipeline, name).shapes, tuple(getattr(pipeline, name).stacks)) for name in pipelines.WEIGHTS]
    if config.lora.rank:
        adapter = LoraConfig.parse(config.lora.rank, config.lora.alpha, config.lora.targets)
        adapters = lora.adapters(lora.adapt(pipeline.transformer, adapter).shapes)
        trees.append((adapters, tuple(pipeline.transformer.stacks)))
    return math.gcd(*(rules.divisor(*tree) for tree in trees))

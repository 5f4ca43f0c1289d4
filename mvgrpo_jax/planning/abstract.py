"""A run without arrays: the programs that training calls, with the shapes and shardings of what they are given."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from mvgrpo_jax import pipelines
from mvgrpo_jax.core.precision import dtype_of
from mvgrpo_jax.core.structs import Batch, Condition
from mvgrpo_jax.models import flux
from mvgrpo_jax.models.lora import join
from mvgrpo_jax.parallel import rules
from mvgrpo_jax.planning import flops
from mvgrpo_jax.run import budget, placement
from mvgrpo_jax.run.programs import Programs, needs_old, network_options

CLIP_LENGTH, T5_LENGTH = 77, 512


class Call(NamedTuple):
    """A jitted program, its abstract arguments, and how often an iteration calls it."""

    times: int
    program: Callable
    arguments: tuple


def placed(shapes: Any, shardings: Any, dtype=None) -> Any:
    """ShapeDtypeStructs with shardings (one, or a tree of them); dtype replaces that of floating-point leaves."""

    def place(x, sharding):
        changes = dtype and jnp.issubdtype(x.dtype, jnp.floating)
        return jax.ShapeDtypeStruct(x.shape, dtype if changes else x.dtype, sharding=sharding)

    if isinstance(shardings, NamedSharding):
        return jax.tree.map(lambda x: place(x, shardings), shapes)
    return jax.tree.map(place, shapes, shardings)


def per_device(tree: Any) -> int:
    """Bytes of one device's share of abstract arrays."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)


class AbstractRun:
    """What a config's programs are called with on a mesh of the given devices, which may be described ones.

    groups: the devices of each island (parallel.mesh). attention: replaces the implementation that the devices' platform would
    choose. islands: of each device of the mesh, its island's number. calls: by program's name. held: what stays on the devices
    while a program runs, whether it takes it or not.
    """

    def __init__(self, config, groups: list[list], attention: str | None = None):
        self.config = config
        options = network_options(config, groups[0][0].platform)
        options |= {"attention": attention} if attention else {}
        self.attention = options["attention"]
        known = Path(config.pipeline).is_dir() or config.pipeline == "flux-nano"
        self.pipeline = (pipelines.describe if known else pipelines.published)(config.pipeline, **options)
        self.mesh, self.reason = placement.place(config, self.pipeline, groups)
        numbers = {device: number for number, group in enumerate(groups) for device in group}
        self.islands = [numbers[device] for device in self.mesh.devices.flat]
        if not known and not (config.image.height and config.image.width):
            config.image.height = config.image.height or 1024
            config.image.width = config.image.width or 1024
        length = config.sampling.max_sequence_length or (pipelines.text_length(self.pipeline) if known else T5_LENGTH)
        config.sampling.max_sequence_length = length
        self.clip_length = pipelines.clip_length(self.pipeline) if known else CLIP_LENGTH
        self.programs = Programs.build(config, self.pipeline, self.mesh)
        self.frozen_dtype = dtype_of(config.train.frozen_dtype)
        programs = self.programs
        trained = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, dtype_of(config.train.param_dtype)), programs.trained_shapes
        )
        self.state = placed(jax.eval_shape(programs.updater.init, trained), programs.state_shardings)
        self.frozen = self._network("transformer") if programs.lora else None
        self.reference = self.state.params if programs.algorithm.objective.reference else None
        self.encoders = {name: self._network(name) for name in ("text_encoder", "text_encoder_2")}
        self.decoder = self._network("vae")

    @property
    def held(self) -> tuple:
        return self.state, self.frozen, self.reference, self.encoders, self.decoder

    def _network(self, name: str) -> Any:
        """The abstract parameters of a component that is not trained."""
        net = getattr(self.pipeline, name)
        return placed(net.shapes, rules.parameter_shardings(net.shapes, self.mesh, tuple(net.stacks)), self.frozen_dtype)

    def _replicated(self, shape: tuple[int, ...], dtype) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=self.programs.replicated)

    def _condition(self, *lead: int, axis: int = 0) -> Condition:
        """Encoded texts whose dimension `axis` is split like a batch."""
        config, dtype = self.pipeline.flux_config, self.programs.policy.dtype
        shapes = Condition(
            jax.ShapeDtypeStruct((*lead, self.programs.text_length, config.joint_attention_dim), dtype),
            jax.ShapeDtypeStruct((*lead, config.pooled_projection_dim), dtype),
        )
        return placed(shapes, self.programs.batch(axis))

    def calls(self) -> dict[str, Call]:
        """Every program of an iteration, in order. To be called under the mesh."""
        programs, prompts = self.programs, self.config.prompts_per_iteration
        policy = self.state.params if self.frozen is None else join(self.frozen, self.state.params)
        key = placed(jax.eval_shape(lambda: jax.random.key(0)), programs.replicated)
        rest = (key, key, self._replicated((), jnp.int32))
        trajectory = jax.eval_shape(programs.rollout, policy, self._condition(prompts), *rest)[0]
        calls = {"encode": self._encode()}
        calls |= self._sampling(policy, rest, placed(trajectory, programs.batch()))
        calls |= self._updating(policy)
        return calls

    def _encode(self) -> Call:
        """Captions of pictures are a branch's own, captions of a file are the prompt's."""
        config, programs = self.config, self.programs
        online = config.views.enhancer in ("vlm", "embedded")
        branches = programs.algorithm.graph.branches if online else 1
        texts = config.prompts_per_iteration * (1 + (budget.views(config) - 1) * branches)
        ids = [self._replicated((programs.text_chunk, n), jnp.int32) for n in (self.clip_length, programs.text_length)]
        return Call(math.ceil(texts / programs.text_chunk), programs.encode, (self.encoders, *ids))

    def _sampling(self, policy, rest: tuple, trajectory) -> dict[str, Call]:
        """Rollout and decoding, in one program each or branch by branch."""
        config, programs = self.config, self.programs
        graph, chooser, prompts = programs.algorithm.graph, programs.algorithm.chooser, config.prompts_per_iteration
        start = (policy, self._condition(prompts * (chooser.count if chooser else 1)), *rest)
        overlapped = config.views.enhancer == "vlm" and config.views.overlap and graph.separable
        if not overlapped and not chooser:
            return {
                "rollout": Call(1, programs.rollout, start),
                "decode": Call(1, programs.decode, (self.decoder, trajectory.x0)),
            }
        groups = [tuple(range(graph.branches))] if chooser else [(b,) for b in range(graph.branches)]
        names = ["finish"] if chooser else [f"tail {k}" for k in graph.trained]
        calls = {"anchor": Call(1, programs.anchor, start)}
        condition = self._condition(prompts)
        for name, branches in zip(names, groups):
            shape = (prompts, len(branches), *trajectory.x0.shape[2:])
            draws = jax.ShapeDtypeStruct(shape, trajectory.x0.dtype, sharding=programs.batch())
            calls[name] = Call(1, programs.finish(branches), (policy, condition, draws))
        return calls | {"decode": Call(len(groups), programs.decode, (self.decoder, draws))}

    def _updating(self, policy) -> dict[str, Call]:
        config, programs = self.config, self.programs
        views, prompts, graph = budget.views(config), config.prompts_per_iteration, programs.algorithm.graph
        stage = programs.algorithm.schedule(0).stage
        selection = jax.eval_shape(lambda: budget.selected(config, programs, stage))
        transitions = placed(selection.transitions, programs.batch())
        each = jax.ShapeDtypeStruct((views, *transitions.log_prob.shape), jnp.float32, sharding=programs.batch(1))
        batch = Batch(transitions, self._condition(views, prompts, graph.branches, axis=1), each, each)
        calls = {}
        if needs_old(config, programs):
            calls["old_densities"] = Call(1, programs.old_densities, (policy, batch))
            old = jax.eval_shape(programs.updater.old_densities, policy, batch)
            batch = batch._replace(old=placed(old, programs.batch(1)))
        arguments = (self.state, self.reference, batch, self.frozen)
        return calls | {"update": Call(config.train.passes, programs.update, arguments)}

    def operations(self, name: str, call: Call) -> int:
        """Matrix-product operations of a program, of all devices together. A rollout whose window moves has loops of traced
        length; it is counted where the window stands first."""
        graph = self.programs.algorithm.graph
        if name == "rollout" and graph.moving:
            one = flux.forward_flops(self.pipeline.flux_config, self.programs.policy.tokens, self.programs.text_length)
            return graph.evaluations * self.config.prompts_per_iteration * one
        return flops.count(call.program, *call.arguments)

"""A run without arrays: the programs that training calls, with the shapes and shardings of what they are given."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from mvgrpo_jax import pipelines, rewards
from mvgrpo_jax.core.precision import dtype_of
from mvgrpo_jax.core.structs import Batch, Condition
from mvgrpo_jax.models import flux
from mvgrpo_jax.models.lora import join
from mvgrpo_jax.parallel import rules
from mvgrpo_jax.planning import flops
from mvgrpo_jax.rewards.panel import on_devices
from mvgrpo_jax.run import budget, placement
from mvgrpo_jax.run.programs import Programs, by_branch, needs_old, network_options

CLIP_LENGTH, T5_LENGTH = 77, 512


class Call(NamedTuple):
    """A jitted program, its abstract arguments, how often an iteration calls it (0: an evaluation does), and what else that an
    iteration made is on the devices meanwhile."""

    times: int
    program: Callable
    arguments: tuple
    beside: tuple = ()


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
        eager = config.views.enhancer == "vlm" and config.views.overlap and budget.views(config) > 1
        self.overlapped = eager and programs.algorithm.graph.separable and not programs.algorithm.chooser
        batches = math.ceil(config.prompts.eval_count / programs.items) if config.eval.every else 0
        self.evaluated = [self._condition(programs.items, place=programs.place("batch")) for _ in range(batches)]
        made = {name: rewards.described(name, dict(config.judges.get(name, {}))) for name in config.rewards}
        self.panel = {name: made[name] for name in on_devices(made)}
        self.offloaded = {name for name in self.panel if rewards.policy_of(config.judges.get(name)).offload}
        self.judges = {
            name: placed(
                judge.network.shapes, rules.parameter_shardings(judge.network.shapes, self.mesh, tuple(judge.network.stacks))
            )
            for name, judge in self.panel.items()
        }

    @property
    def held(self) -> tuple:
        """What stays on the devices from the first iteration to the last."""
        judges = {name: params for name, params in self.judges.items() if name not in self.offloaded}
        return self.state, self.frozen, self.reference, self.encoders, self.decoder, judges, self.evaluated

    def _network(self, name: str) -> Any:
        """The abstract parameters of a component that is not trained."""
        net = getattr(self.pipeline, name)
        return placed(net.shapes, rules.parameter_shardings(net.shapes, self.mesh, tuple(net.stacks)), self.frozen_dtype)

    def _array(self, shape: tuple[int, ...], dtype, *axes: str | None) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=self.programs.place(*axes))

    def _condition(self, *lead: int, place: NamedSharding) -> Condition:
        """Encoded texts."""
        config, dtype = self.pipeline.flux_config, self.programs.policy.dtype
        shapes = Condition(
            jax.ShapeDtypeStruct((*lead, self.programs.text_length, config.joint_attention_dim), dtype),
            jax.ShapeDtypeStruct((*lead, config.pooled_projection_dim), dtype),
        )
        return placed(shapes, place)

    def _ids(self, lead: tuple[int, ...], place: NamedSharding) -> list[jax.ShapeDtypeStruct]:
        lengths = (self.clip_length, self.programs.text_length)
        return [jax.ShapeDtypeStruct((*lead, n), jnp.int32, sharding=place) for n in lengths]

    @property
    def _policy(self) -> Any:
        return self.state.params if self.frozen is None else join(self.frozen, self.state.params)

    def calls(self) -> dict[str, Call]:
        """Every program of a run, in order: an iteration's, then an evaluation's. To be called under the mesh."""
        drawn, transitions, pictures = self._sampling()
        judging, updating = self._judging(transitions, pictures), self._updating(transitions)
        if finish := updating.get("finish_update"):  # judges of a branch are asked while gradients of others are there
            judging = {name: call._replace(beside=(*call.beside, finish.arguments[1])) for name, call in judging.items()}
        calls = drawn | judging | updating | self._evaluation()
        if not self.config.train.async_steps:
            return calls
        # Of two rollouts one is always drawn and not yet trained on.
        ahead = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), (transitions, pictures))
        return {name: call._replace(beside=(*call.beside, ahead)) for name, call in calls.items()}

    def _sampling(self) -> tuple[dict[str, Call], Any, list]:
        """Text, rollout and decoding, in one program each or branch by branch; the transitions, and the branches' pictures."""
        config, programs = self.config, self.programs
        graph, chooser, prompts = programs.algorithm.graph, programs.algorithm.chooser, config.prompts_per_iteration
        start, here = prompts * (chooser.count if chooser else 1), programs.place("prompts")
        key = placed(jax.eval_shape(lambda: jax.random.key(0)), programs.replicated)
        of_text = Call(1, programs.encode_prompts, (self.encoders, *self._ids((start,), here)))
        condition = self._condition(start, place=here)
        drawing = (self._policy, condition, key, key, self._array((), jnp.int32))
        trajectory, end = placed(jax.eval_shape(programs.anchor if graph.anchor else programs.rollout, *drawing), here)
        latents = self._array((prompts, graph.pictures, *programs.latent_shape), jnp.float32, "prompts")
        x0 = self._array((prompts, graph.branches, graph.pictures, *programs.latent_shape), jnp.float32, "prompts")
        images = placed(jax.eval_shape(programs.decode, self.decoder, latents)[0], programs.place("prompts", "lanes"))
        calls, pictures = {"encode_prompts": of_text}, [images] * graph.branches
        split = Call(graph.branches, programs.branch, (x0, self._array((), jnp.int32)), (trajectory, condition))
        if chooser:
            calls["anchor"] = Call(1, programs.anchor, drawing)
            calls["decode anchors"] = Call(1, programs.decode, (self.decoder, end), (trajectory, condition))
            first = placed(jax.eval_shape(programs.decode, self.decoder, end)[0], programs.place("prompts", "lanes"))
            calls |= self._judges("judge {} of anchors", 1, 1, first, (trajectory, condition))
            calls["keep"] = Call(1, programs.keep, ((trajectory, condition), self._array((prompts,), jnp.int32)))
            kept = jax.eval_shape(programs.keep, (trajectory, condition), self._array((prompts,), jnp.int32))
            trajectory, condition = placed(kept, here)
            calls["finish"] = Call(1, programs.finish, (self._policy, condition, trajectory.x0), (trajectory,))
            calls["branch"] = split
        elif self.overlapped:
            calls["anchor"] = Call(1, programs.anchor, drawing)
            for branch, step in enumerate(graph.trained):
                tail = (self._policy, condition, trajectory.x0)
                calls[f"tail {step}"] = Call(1, programs.tail(branch), tail, (trajectory, *pictures[branch + 1 :]))
            calls["join"] = Call(1, programs.join, ([latents] * graph.branches,), (trajectory, condition, *pictures))
        else:
            calls["rollout"] = Call(1, programs.rollout, drawing)
            calls["branch"] = split
        trajectory = trajectory._replace(x0=x0)
        calls["decode"] = Call(graph.branches, programs.decode, (self.decoder, latents), (trajectory, condition, *pictures[1:]))
        return calls, trajectory, pictures

    def _judges(self, title: str, times: int, views: int, pictures, beside: tuple) -> dict[str, Call]:
        """The judges on the devices, asked about a branch's pictures."""
        calls = {}
        for name, judge in self.panel.items():
            lead = (views, pictures.shape[0])
            tokens = jax.tree.map(
                lambda a, lead=lead: self._array((*lead, *a.shape), a.dtype, None, "prompts"), judge.token_shapes
            )
            arguments = (self.judges[name], pictures, tokens)
            calls[title.format(name)] = Call(
                times, jax.jit(judge.score, out_shardings=self.programs.replicated), arguments, beside
            )
        return calls

    def _judging(self, trajectory, pictures: list) -> dict[str, Call]:
        """A judge that does not train is asked about the prompt alone."""
        calls = {}
        for name in self.panel:
            views = budget.views(self.config) if self.config.rewards[name] else 1
            one = self._judges("judge {}", len(pictures), views, pictures[0], (trajectory, *pictures[1:]))
            calls[f"judge {name}"] = one[f"judge {name}"]
        return calls

    def _updating(self, trajectory) -> dict[str, Call]:
        config, programs = self.config, self.programs
        algorithm, prompts = programs.algorithm, config.prompts_per_iteration
        ids = self._ids((programs.views, prompts, programs.caption_branches), programs.of_views)
        calls = {"encode_views": Call(1, programs.encode_views, (self.encoders, *ids), (trajectory,))}
        views = self._condition(programs.views, prompts, programs.caption_branches, place=programs.of_views)
        key = placed(jax.eval_shape(lambda: jax.random.key(0)), programs.replicated)
        there = budget.views(config), prompts, algorithm.graph.branches
        rewards = {n: self._array((*there, algorithm.graph.pictures), jnp.float32) for n, w in config.rewards.items() if w}
        memory = algorithm.chooser and self._array(algorithm.chooser.memory.shape, jnp.float32)
        choosing = (key, trajectory, rewards, self._array(there, jnp.float32), memory, algorithm.schedule(0).stage)
        calls["select"] = Call(1, programs.select, choosing, (views,))
        transitions, advantage, weight, _ = jax.eval_shape(lambda *a: programs.select(*a, choosing[-1]), *choosing[:-1])
        transitions = placed(transitions, programs.place("prompts"))
        batch = Batch(transitions, views, placed(advantage, programs.of_views), placed(weight, programs.of_views))
        if by_branch(config, programs):
            return self._by_branch(calls, batch, trajectory)
        if needs_old(config, programs):
            calls["old_densities"] = Call(1, programs.old_densities, (self._policy, batch), (trajectory,))
            old = jax.eval_shape(programs.old_densities, self._policy, batch)
            batch = batch._replace(old=placed(old, programs.of_views))
        if config.train.async_steps:
            calls["remember"] = Call(1, programs.remember, (self.state,), (batch, trajectory))
        arguments = (self.state, self.reference, batch, self.frozen)
        calls["update"] = Call(config.train.passes, programs.update, arguments, (trajectory,))
        if algorithm.follow:
            calls["follow"] = Call(1, programs.follow, (self.state, self._array((), jnp.float32)), (batch, trajectory))
        return calls

    def _by_branch(self, calls: dict[str, Call], batch: Batch, trajectory) -> dict[str, Call]:
        """An update that adds up the gradients of branches. calls, batch: those of one that does not."""
        programs, prompts, branches = self.programs, self.config.prompts_per_iteration, self.programs.caption_branches
        total = placed(jax.eval_shape(programs.nothing, self.state.params), programs.total_shardings)
        ids = self._ids((programs.views, prompts, 1), programs.of_views)
        one = batch._replace(views=self._condition(programs.views, prompts, 1, place=programs.of_views))
        adding = (total, self.state, self.reference, one, self._array((), jnp.int32), self.frozen)
        metrics = placed(jax.eval_shape(programs.add, *adding)[1], programs.replicated)
        return {
            "nothing": Call(1, programs.nothing, (self.state.params,), (trajectory,)),
            "encode_views": Call(branches, programs.encode_views, (self.encoders, *ids), (trajectory, total)),
            "select": calls["select"]._replace(times=branches + 1, beside=(one.views, total)),
            "add": Call(branches, programs.add, adding, (trajectory,)),
            "finish_update": Call(1, programs.finish_update, (self.state, total, [metrics] * branches)),
        }

    def _evaluation(self) -> dict[str, Call]:
        """Of the evaluation, whose texts are encoded when a run begins."""
        if not self.evaluated:
            return {}
        programs, count = self.programs, self.programs.items
        here = programs.place("batch")
        latents = self._array((count, *programs.latent_shape), jnp.float32, "batch")
        images = placed(jax.eval_shape(programs.decode_items, self.decoder, latents)[0], here)
        return {
            "encode": Call(0, programs.encode, (self.encoders, *self._ids((count,), here))),
            "evaluation_noise": Call(0, programs.evaluation_noise, (self._array((count,), jnp.int32),)),
            "evaluate": Call(0, programs.evaluate, (self._policy, self.evaluated[0], latents)),
            "decode_items": Call(0, programs.decode_items, (self.decoder, latents)),
            **self._judges("judge {} of evaluation", 0, 1, images, ()),
        }

    def operations(self, name: str, call: Call) -> int:
        """Matrix-product operations of a program, of all devices together. A rollout whose window moves has loops of traced
        length; it is counted where the window stands first."""
        graph = self.programs.algorithm.graph
        if name == "rollout" and graph.moving:
            one = flux.forward_flops(self.pipeline.flux_config, self.programs.policy.tokens, self.programs.text_length)
            return graph.evaluations * self.config.prompts_per_iteration * one
        return flops.count(call.program, *call.arguments)

"""What a config's programs need on hardware that is not there: compiled ahead of time, counted, and judged.

The programs are those that training runs (programs.py), called with abstract arrays.
"""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from mvgrpo_jax import algorithms, pipelines
from mvgrpo_jax.core.structs import Batch, Condition
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.models import flux
from mvgrpo_jax.models.lora import join
from mvgrpo_jax.parallel import rules
from mvgrpo_jax.parallel.mesh import make_mesh
from mvgrpo_jax.planning import collectives, flops, hardware
from mvgrpo_jax.planning.hardware import Chip
from mvgrpo_jax.run import budget
from mvgrpo_jax.run.programs import Programs, dtype_of, needs_old, network_options

MFU = 0.4  # share of the peak that matrix products are assumed to reach
CLIP_LENGTH, T5_LENGTH = 77, 512


@dataclasses.dataclass(frozen=True)
class Cost:
    """One compiled program, per device: bytes of arguments, results that are not arguments in place, temporaries, collectives;
    matrix-product operations of all devices together; estimated seconds; calls an iteration."""

    name: str
    calls: int
    arguments: int
    outputs: int
    temporaries: int
    resident: int
    operations: int
    collective: int
    seconds: float
    compile_s: float
    error: str = ""

    @property
    def peak(self) -> int:
        """Everything on the device while the program runs, what other programs keep there included."""
        return self.resident + self.outputs + self.temporaries


def on(shapes: Any, where: Any, dtype=None) -> Any:
    """ShapeDtypeStructs with shardings (one, or a tree of them)."""
    place = lambda x, s: jax.ShapeDtypeStruct(
        x.shape, dtype if dtype and jnp.issubdtype(x.dtype, jnp.floating) else x.dtype, sharding=s
    )
    if isinstance(where, NamedSharding):
        return jax.tree.map(lambda x: place(x, where), shapes)
    return jax.tree.map(place, shapes, where)


def per_device(tree: Any) -> int:
    """Bytes of one device's share of abstract arrays."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)


class Plan:
    """The abstract arguments of a run's programs on a mesh."""

    def __init__(self, config, devices: list, attention: str | None = None):
        self.config = config
        self.mesh = make_mesh(**config.mesh, devices=devices)
        options = network_options(config, self.mesh)
        options |= {"attention": attention} if attention else {}
        self.attention = options["attention"]
        known = Path(config.pipeline).is_dir() or config.pipeline == "flux-nano"
        self.pipeline = (pipelines.describe if known else pipelines.published)(config.pipeline, **options)
        if not known and not (config.image.height and config.image.width):
            config.image.height = config.image.height or 1024
            config.image.width = config.image.width or 1024
        length = config.sampling.max_sequence_length or (pipelines.text_length(self.pipeline) if known else T5_LENGTH)
        config.sampling.max_sequence_length = length
        self.programs = Programs.build(config, self.pipeline, self.mesh)
        self.clip_length = pipelines.clip_length(self.pipeline) if known else CLIP_LENGTH

    def network_params(self, name: str, dtype) -> Any:
        net = getattr(self.pipeline, name)
        where = rules.parameter_shardings(net.shapes, self.mesh, tuple(net.stacks))
        return on(net.shapes, where, dtype)

    def arguments(self) -> dict[str, tuple[int, Any, tuple, Any]]:
        """Program -> (calls an iteration, jitted function, abstract arguments, the same function to count operations in)."""
        config, programs = self.config, self.programs
        plan, prompts = programs.algorithm.graph, config.prompts_per_iteration
        views = algorithms.captions(config) + 1
        frozen_dtype = dtype_of(config.train.frozen_dtype)
        state = jax.eval_shape(programs.updater.init, on_host(programs.trained_shapes, dtype_of(config.train.param_dtype)))
        state = on(state, programs.state_shardings)
        frozen = self.network_params("transformer", frozen_dtype) if programs.lora else None
        whole = state.params if frozen is None else join(frozen, state.params)
        encoders = {n: self.network_params(n, frozen_dtype) for n in ("text_encoder", "text_encoder_2")}
        decoder = self.network_params("vae", frozen_dtype)
        wide, dtype = self.pipeline.flux_config, programs.policy.dtype

        def condition(*lead: int, axis: int = 0) -> Condition:
            shapes = Condition(
                jax.ShapeDtypeStruct((*lead, programs.text_length, wide.joint_attention_dim), dtype),
                jax.ShapeDtypeStruct((*lead, wide.pooled_projection_dim), dtype),
            )
            return on(shapes, programs.batch(axis))

        ids = [
            jax.ShapeDtypeStruct((programs.text_chunk, n), jnp.int32, sharding=programs.replicated)
            for n in (self.clip_length, programs.text_length)
        ]
        key = on(jax.eval_shape(lambda: jax.random.key(0)), programs.replicated)
        chooser = programs.algorithm.chooser
        drawn = prompts * (chooser.count if chooser else 1)
        start = (whole, condition(drawn), key, key, jax.ShapeDtypeStruct((), jnp.int32, sharding=programs.replicated))
        kept = (whole, condition(prompts), *start[2:])
        trajectory = on(jax.eval_shape(programs.rollout, *kept)[0], programs.batch())
        chosen = jax.eval_shape(lambda: budget.selected(config, programs, programs.algorithm.schedule(0).stage))
        transitions = on(chosen.transitions, programs.batch())
        each = jax.ShapeDtypeStruct((views, *transitions.log_prob.shape), jnp.float32, sharding=programs.batch(1))
        batch = Batch(transitions, condition(views, prompts, plan.branches, axis=1), each, each)
        passes = config.train.passes
        reference = state.params if programs.algorithm.objective.reference else None
        # Captions of pictures are a branch's own, captions of a file are the prompt's.
        online = config.views.enhancer in ("vlm", "embedded")
        texts = prompts * (1 + (views - 1) * (plan.branches if online else 1))
        table = {"encode": (math.ceil(texts / programs.text_chunk), programs.encode, (encoders, *ids))}
        overlapped = config.views.enhancer == "vlm" and config.views.overlap and plan.separable
        if overlapped or chooser:
            parts = [tuple(range(plan.branches))] if chooser else [(b,) for b in range(plan.branches)]
            draws = [on(jax.eval_shape(lambda x, p=p: x[:, p[0] : p[-1] + 1], trajectory.x0), programs.batch()) for p in parts]
            names = ["finish"] if chooser else [f"tail {k}" for k in plan.trained]
            table["anchor"] = (1, programs.anchor, start)
            table |= {n: (1, programs.finish(p), (whole, kept[1], x)) for n, p, x in zip(names, parts, draws)}
            table["decode"] = (len(parts), programs.decode, (decoder, draws[0]))
        else:
            table["rollout"] = (1, programs.rollout, start)
            table["decode"] = (1, programs.decode, (decoder, trajectory.x0))
        if needs_old(config, programs):
            table["old_densities"] = (1, programs.old_densities, (whole, batch))
            old = jax.eval_shape(programs.updater.old_densities, whole, batch)
            batch = batch._replace(old=on(old, programs.batch(1)))
        table["update"] = (passes, programs.update, (state, reference, batch, frozen))
        self.held = {"state": state, "frozen": frozen, "reference": reference, "encoders": encoders, "decoder": decoder}
        return table

    def operations(self, name: str, function, arguments: tuple) -> int:
        """Matrix-product operations of a program, of all devices together. A rollout whose window moves has loops of traced
        length, and as many evaluations as its plan says for the first place."""
        plan, policy = self.programs.algorithm.graph, self.programs.policy
        if name == "rollout" and plan.moving:
            one = flux.forward_flops(self.pipeline.flux_config, policy.tokens, self.programs.text_length)
            return plan.evaluations * self.config.prompts_per_iteration * one
        return flops.count(function, *arguments)


def on_host(shapes: Any, dtype) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), shapes)


def seconds(chip: Chip, devices: int, operations: int, moved: int, collective: int, hosts: int) -> float:
    """Roofline: the slowest of matrix products at MFU of the peak, memory traffic, and collectives, which overlap."""
    link = chip.network if hosts > 1 and chip.network else chip.link
    return max(operations / (devices * chip.flops * MFU), moved / chip.bandwidth, collective / link)


def measure(config, topology: str, only: tuple[str, ...] = ()) -> tuple[list[Cost], Plan]:
    """Compiles every program (or `only` some) of a config for a topology."""
    chip, sizes = hardware.parse(topology)
    devices = hardware.devices(topology)
    plan, counted = Plan(config, devices), Plan(config, devices, attention="xla")
    costs = []
    with jax.set_mesh(plan.mesh):
        table, same = plan.arguments(), counted.arguments()
        if unknown := set(only) - set(table):
            raise UserError(f"no program {', '.join(sorted(unknown))} in this run; there are: {', '.join(table)}")
        for name, (calls, function, arguments) in table.items():
            if only and name not in only:
                continue
            operations = counted.operations(name, *same[name][1:])
            began = time.perf_counter()
            try:
                compiled = function.lower(*arguments).compile()
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                needed = str(error).split("HBM")[0].strip().splitlines()[-1][-80:]
                costs.append(
                    Cost(name, calls, 0, 0, 0, 0, operations, 0, 0.0, time.perf_counter() - began, f"out of memory: {needed}")
                )
                continue
            took = time.perf_counter() - began
            memory = compiled.memory_analysis()
            own = memory.argument_size_in_bytes
            outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
            # What this program does not take, but others keep on the device meanwhile.
            taken = {id(a) for a in jax.tree.leaves(arguments)}
            shared = per_device([x for x in jax.tree.leaves(plan.held) if id(x) not in taken])
            moved = own + 2 * memory.temp_size_in_bytes
            sent = sum(collectives.count(compiled.as_text()).values())
            time_s = seconds(chip, plan.mesh.size, operations, moved, sent, hardware.hosts(chip, sizes))
            costs.append(
                Cost(name, calls, own, max(outputs, 0), memory.temp_size_in_bytes, own + shared, operations, sent, time_s, took)
            )
    return costs, plan


def fits(costs: list[Cost], chip: Chip) -> bool:
    return all(not c.error and c.peak <= chip.memory - chip.reserve for c in costs)


def remedies(config) -> list[tuple[str, dict[str, Any]]]:
    """Settings that need less memory, from the cheapest in time to the dearest; each includes the ones before it."""
    changes: dict[str, Any] = {}
    out = []

    def add(text: str, **values: Any) -> None:
        changes.update({k.replace("__", "."): v for k, v in values.items()})
        out.append((text, dict(changes)))

    if config.train.remat != "full":
        add("train.remat=full", train__remat="full")
    views = algorithms.captions(config) + 1
    if config.train.view_chunk != 1 and views > 1:
        add("train.view_chunk=1", train__view_chunk=1)
    batch = config.mesh.data * config.mesh.fsdp if -1 not in (config.mesh.data, config.mesh.fsdp) else 0
    if config.train.prompt_chunk == 0 and batch and config.prompts_per_iteration > batch:
        add(f"train.prompt_chunk={batch}", train__prompt_chunk=batch)
    if config.mesh.data > 1:
        add("all devices in mesh.fsdp", mesh__data=1, mesh__fsdp=-1)
    if not config.lora.rank:
        add(
            "lora.rank=64 (adapters on a frozen bfloat16 base)",
            lora__rank=64,
            lora__alpha=128.0,
            train__frozen_dtype="bfloat16",
        )
    return out


def nearest(config, topology: str, costs: list[Cost], chip: Chip) -> tuple[str, list[Cost]]:
    """The first remedy with which every program fits the chip, in words, and what the programs that did not fit cost then."""
    tight = tuple(c.name for c in costs if c.error or c.peak > chip.memory - chip.reserve)
    for text, changes in remedies(config):
        tried = config.copy_and_resolve_references()
        with tried.unlocked():
            tried.update_from_flattened_dict(changes)
        try:
            found, _ = measure(tried, topology, tight)
        except UserError:  # a setting that this model or mesh cannot take, as more shards than a parameter has rows
            continue
        if fits(found, chip):
            return ", ".join(f"config.{k}={v}" for k, v in changes.items()) + f"  (the last step: {text})", found
    return "none of the settings tried; use more devices or a smaller picture", []

"""A run from its config: everything is checked on shapes first, weights are read last."""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mvgrpo_jax import enhancers, pipelines, rewards
from mvgrpo_jax.configuration.advice import warn_of_slow_settings
from mvgrpo_jax.configuration.checks import check
from mvgrpo_jax.core.precision import dtype_of
from mvgrpo_jax.core.structs import Batch
from mvgrpo_jax.enhancers import Enhancer
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.models.module import Params
from mvgrpo_jax.parallel.mesh import check_devices, seen
from mvgrpo_jax.prompts import loading, streaming
from mvgrpo_jax.run import budget, disk, export, placement
from mvgrpo_jax.run.budget import Budget
from mvgrpo_jax.run.conditions import TextEncoder
from mvgrpo_jax.run.evaluation import Evaluation
from mvgrpo_jax.run.programs import Programs, by_branch, network_options


class Outline(NamedTuple):
    """A run by its shapes: all that can be checked and counted before weights are read. pipeline has no parameters yet."""

    config: Any
    mesh: Mesh
    reason: str  # why the mesh has its sizes
    pipeline: pipelines.Pipeline
    programs: Programs
    text: TextEncoder
    corpus: loading.Corpus
    held_out: list[str]
    records: dict[str, dict[str, Any]]  # of prompts by their texts: what their files say beside
    enhancer: Enhancer | None
    budget: Budget

    def close(self) -> None:
        if self.enhancer:
            self.enhancer.close()

    def describe(self) -> str:
        """What an iteration costs, on what it runs, what it will have on its disk, and which prompts it draws from."""
        devices = list(self.mesh.devices.flat)
        axes = " x ".join(f"{name} {size}" for name, size in self.mesh.shape.items())
        mesh = f"mesh: {axes}, {len(devices)} x {devices[0].device_kind}, {seen()} ({self.reason})"
        size = disk.describe(self.on_disk)
        return "\n".join([self.budget.describe(self.config.algorithm.name, devices), mesh, size, self.corpus.describe()])

    @property
    def on_disk(self) -> dict[str, int]:
        """What the workdir will hold at most: bytes by kind."""
        return disk.predicted(self.config, self.programs, len(self.held_out))


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """What stays the same from iteration to iteration.

    prompts: those that training draws from; shares: how, as streaming.stream takes it.
    pipeline: its parameters are those of the text encoders (unless they were dropped) and the VAE. panel: all judges that are
    asked, each under a policy; weights: of those that train. frozen: the base beneath adapters, None where the whole
    transformer is trained.
    reference: the initial parameters of what is trained where the objective needs them. evaluation: None where
    config.eval.every is 0. overlap: whether pictures go to the enhancer branch by branch. by_branch: whether the gradient of a
    branch is computed while captions and scores of others are awaited.
    """

    config: Any
    mesh: Mesh
    pipeline: pipelines.Pipeline
    programs: Programs
    text: TextEncoder
    prompts: list[str]
    shares: streaming.Shares
    enhancer: Enhancer | None
    panel: rewards.Panel
    policies: dict[str, rewards.Policy]
    weights: dict[str, float]
    evaluation: Evaluation | None
    frozen: Params | None
    reference: Params | None
    overlap: bool
    by_branch: bool

    def close(self) -> None:
        self.panel.close()
        if self.enhancer:
            self.enhancer.close()


def outline(config) -> Outline:
    """Checks a config as far as its shapes, files of prompts and captions, and devices go. Raises UserError."""
    check(config)
    check_devices(config.mesh.devices)
    platform = jax.devices()[0].platform
    pipeline = pipelines.describe(config.pipeline, **network_options(config, platform))
    mesh, reason = placement.place(config, pipeline)
    parameters = sum(math.prod(x.shape) for x in jax.tree.leaves(pipeline.transformer.shapes))
    for message in warn_of_slow_settings(config, parameters, platform):
        warnings.warn(message, stacklevel=2)
    programs = Programs.build(config, pipeline, mesh)
    check_chunks(config, programs)
    export.check(config)
    corpus, chooser = loading.of_config(config.prompts), programs.algorithm.chooser
    corpus.check(config.prompts_per_iteration * (chooser.count if chooser else 1))
    held_out = loading.load(config.prompts.eval, config.prompts.eval_count, held_out=True) if config.eval.every else []
    records = loading.records([*corpus.prompts, *held_out])
    text = TextEncoder.of(config, programs, pipeline)
    cost = budget.of(config, programs)
    enhancer = enhancers.make(config, corpus.texts, text.fit)
    texts = [prompt.text for prompt in held_out]
    return Outline(config, mesh, reason, pipeline, programs, text, corpus, texts, records, enhancer, cost)


def check_chunks(config, programs: Programs) -> None:
    """UserError where a chunk or a number of minibatches does not divide what it cuts."""
    select = programs.algorithm.schedule(0).stage
    chosen = jax.eval_shape(lambda: programs.selected(config, select))
    weight = jax.ShapeDtypeStruct((programs.views, *chosen.transitions.log_prob.shape), jnp.float32)
    programs.updater.counts(Batch(chosen.transitions, None, weight, weight))


def build(config) -> tuple[Run, Params]:
    """The run of a config, and the parameters that its training starts from. Raises UserError, before weights are read
    wherever that is possible."""
    return load(outline(config))


def load(outlined: Outline) -> tuple[Run, Params]:
    """Reads the weights of an outlined run onto its mesh. What the outline holds is the run's then, or closed by an error."""
    try:
        return _load(outlined)
    except BaseException:
        outlined.close()
        raise


def _load(outlined: Outline) -> tuple[Run, Params]:
    config, pipeline, programs, text = outlined.config, outlined.pipeline, outlined.programs, outlined.text
    adapters = export.starting_adapters(config, programs) if programs.lora else None
    judges = {name: rewards.make(name, dict(config.judges.get(name, {}))) for name in config.rewards}
    rewards.tell(judges, outlined.records)
    dtypes = dict.fromkeys(pipelines.WEIGHTS, dtype_of(config.train.frozen_dtype))
    if not programs.lora:
        dtypes["transformer"] = dtype_of(config.train.param_dtype)
    pipelines.read(pipeline, dtype=dtypes, mesh=outlined.mesh)
    if config.text.drop_encoders:
        captions = outlined.enhancer.known() if outlined.enhancer else []
        if captions is None:
            raise UserError("config.text.drop_encoders cannot be used with an enhancer that looks at the pictures")
        with jax.set_mesh(outlined.mesh):  # a program that is traced here is the run's
            text.encode_all(outlined.corpus.texts + outlined.held_out + captions)
    policies = {name: rewards.policy_of(config.judges.get(name)) for name in judges}
    offload = frozenset(name for name, policy in policies.items() if policy.offload)
    transformer, panel = pipeline.params.pop("transformer"), rewards.Panel(judges, outlined.mesh, offload)
    with jax.set_mesh(outlined.mesh):
        evaluation = Evaluation(programs, outlined.held_out, text, panel) if config.eval.every else None
    initial = adapters if programs.lora else transformer
    algorithm = programs.algorithm
    eager = outlined.enhancer is not None and outlined.enhancer.eager
    run = Run(
        config=config,
        mesh=outlined.mesh,
        pipeline=pipeline,
        programs=programs,
        text=text,
        prompts=outlined.corpus.texts,
        shares=outlined.corpus.shares,
        enhancer=outlined.enhancer,
        panel=panel,
        policies=policies,
        weights={name: weight for name, weight in config.rewards.items() if weight},
        evaluation=evaluation,
        frozen=transformer if programs.lora else None,
        reference=jax.tree.map(jnp.copy, initial) if algorithm.objective.reference else None,
        overlap=eager and config.views.overlap and algorithm.graph.separable and not algorithm.chooser,
        by_branch=by_branch(config, programs),
    )
    return run, initial

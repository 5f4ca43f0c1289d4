"""What an iteration costs, counted before it runs: samples, transitions, model evaluations, optimiser steps, time."""

from __future__ import annotations

import dataclasses
import time

import jax
import numpy as np

from mvgrpo_jax import algorithms
from mvgrpo_jax.models import flux
from mvgrpo_jax.planning import hardware
from mvgrpo_jax.planning.hardware import MFU
from mvgrpo_jax.run.programs import Programs, needs_old


@dataclasses.dataclass(frozen=True)
class Budget:
    """Counts of one iteration. An evaluation is one forward pass of one latent under one condition.

    sampled: evaluations of the rollout. transitions: trained draws under one view. trained: evaluations with gradient, each
    `backward` evaluations dear; untrained: those of an update without gradient; steps: optimiser steps. flops: operations of
    one evaluation.
    """

    prompts: int
    pictures: int
    views: int
    sampled: int
    transitions: int
    states: int
    trained: int
    backward: int
    untrained: int
    passes: int
    minibatches: int
    chunks: int
    steps: int
    flops: int

    @property
    def evaluations(self) -> int:
        """All of an iteration, in forward passes."""
        return self.sampled + self.trained * self.backward + self.untrained

    def seconds(self, devices: list) -> tuple[float, str]:
        """(seconds of the network's matrix products, how they were estimated)."""
        peak, source = peak_flops(devices[0])
        return self.evaluations * self.flops / (len(devices) * peak * MFU), source

    def speed(self, seconds: float, devices: list) -> dict[str, float]:
        """Metrics of an iteration that took so long without its evaluation: pictures a second, and where the chip is known the
        share of the devices' peak that the transformer's operations are, without those that `remat` does twice."""
        out = {"perf/samples_per_s": self.prompts * self.pictures / seconds}
        if chip := hardware.chip_of(devices[0]):
            useful = (self.sampled + 3 * self.trained + self.untrained) * self.flops
            out["perf/mfu"] = useful / (seconds * len(devices) * chip.flops)
        return out

    def describe(self, name: str, devices: list) -> str:
        estimate, source = self.seconds(devices)
        samples = self.prompts * self.pictures
        return "\n".join(
            [
                f"{name}, an iteration: {self.prompts} prompts x {self.pictures} pictures = {samples} samples",
                f"  rollout {self.sampled} model evaluations",
                f"  update  {self.transitions} transitions from {self.states} states, {self.views} views: {self.trained} "
                f"evaluations with gradient ({self.backward} forward passes each), {self.untrained} without",
                f"  steps   {self.steps} of the optimiser: {self.passes} passes x {self.minibatches} minibatches"
                f" x {self.steps // (self.passes * self.minibatches)}; each gradient in {self.chunks} chunks",
                f"  in all  {self.evaluations} forward passes of {self.flops / 1e9:.3g} GFLOP; network alone about "
                f"{estimate:.2g} s ({source}, {MFU:.0%} of it assumed)",
            ]
        )


def peak_flops(device) -> tuple[float, str]:
    """(operations a second of one device, where the figure is from): the chip's, or of a processor a matrix product's."""
    if chip := hardware.chip_of(device):
        return chip.flops, f"{chip.flops / 1e12:.0f} TFLOP/s peak of {chip.name}"
    if device.platform != "cpu":
        return 100e12, f"100 TFLOP/s supposed, {device.device_kind} is not known here"
    n, best = 1024, float("inf")
    a = np.ones((n, n), np.float32)
    for _ in range(4):
        began = time.perf_counter()
        np.dot(a, a)
        best = min(best, time.perf_counter() - began)
    return 2 * n**3 / best, f"{2 * n**3 / best / 1e9:.0f} GFLOP/s measured"


def of(config, programs: Programs, iteration: int = 0) -> Budget:
    """The budget of an iteration."""
    graph, objective = programs.algorithm.graph, programs.algorithm.objective
    prompts, count = config.prompts_per_iteration, views(config)
    chooser, moment = programs.algorithm.chooser, programs.algorithm.schedule(iteration)
    drawn = graph.evaluations_at(moment.shift) * prompts
    if chooser:
        drawn += (chooser.count - 1) * graph.noises * graph.steps * prompts
    chosen = jax.eval_shape(lambda: programs.selected(config, moment.stage)).transitions
    blocks, states = chosen.x_t.shape[1:3]
    passes, t = config.train.passes, config.train
    per_pass = blocks * states * prompts * count
    with_gradient, without = objective.evaluations
    old = per_pass * with_gradient if needs_old(config, programs) else 0

    def parts(chunk: int, size: int) -> int:
        return size // chunk if chunk else 1

    chunks = parts(t.view_chunk, count) * parts(t.prompt_chunk, prompts // t.minibatches) * parts(t.state_chunk, states)
    each = blocks if programs.updater.per_step else 1
    return Budget(
        prompts=prompts,
        pictures=graph.images,
        views=count,
        sampled=drawn,
        transitions=prompts * blocks * chosen.x_next.shape[2],
        states=prompts * blocks * states,
        trained=passes * per_pass * with_gradient,
        backward=4 if t.remat == "full" else 3,
        untrained=passes * per_pass * without + old,
        passes=passes,
        minibatches=t.minibatches,
        chunks=chunks * blocks // each,
        steps=passes * t.minibatches * each,
        flops=flux.forward_flops(programs.pipeline.flux_config, programs.policy.tokens, programs.text_length),
    )


def views(config) -> int:
    """V: the prompt and its captions."""
    return algorithms.captions(config) + 1


def prompts_at_once(config) -> int:
    """How many prompts a microbatch of the update holds, which devices can have each for themselves."""
    return config.train.prompt_chunk or config.prompts_per_iteration // config.train.minibatches

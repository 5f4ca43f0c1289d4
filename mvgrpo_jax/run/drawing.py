"""The first stage of an iteration: pictures are drawn, decoded, and handed to those who describe them.

`begin` gives the devices their work and waits for nothing; `hand_over` waits for the pictures. `sample` is one after the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from mvgrpo_jax.core.structs import Condition, Trajectory
from mvgrpo_jax.enhancers import Session
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.models.module import Params
from mvgrpo_jax.parallel.hosts import decide
from mvgrpo_jax.parallel.owned import Owned
from mvgrpo_jax.run.build import Run
from mvgrpo_jax.run.metrics import Clock
from mvgrpo_jax.run.painting import ROLLOUT_NOISE, ROLLOUT_STEPS


class Begun(NamedTuple):
    """A rollout that the devices work on. prompts: those of its pictures, P of them. decoded: of each branch its pictures uint8
    [P, S, H, W, 3] and whether they are finite, in the order in which they are made. session: of captions, None without an
    enhancer. memory: what a chooser of prompts remembers now."""

    prompts: list[str]
    trajectory: Trajectory
    decoded: dict[int, tuple[jax.Array, jax.Array]]
    session: Session | None
    memory: Any = None


class Samples(NamedTuple):
    """What an iteration draws. prompts: those of its pictures, P of them. pictures: uint8 [P, S, H, W, 3] of each of R
    branches, on the devices that made them. session: the captions that were asked for meanwhile, None without an enhancer.
    memory: what a chooser of prompts remembers now. handed_over: when the session got the pictures of each branch."""

    prompts: list[str]
    trajectory: Trajectory
    pictures: list[Owned]
    session: Session | None
    memory: Any = None
    handed_over: dict[int, float] = {}


def sample(run: Run, iteration: int, params: Params, prompts: list[str], memory: Any, clock: Clock) -> Samples:
    """Draws the pictures of an iteration under the sampling policy's parameters."""
    return hand_over(run, iteration, begin(run, iteration, params, prompts, memory, clock), clock)


def begin(run: Run, iteration: int, params: Params, prompts: list[str], memory: Any, clock: Clock) -> Begun:
    """Gives the devices a rollout and the decoding of its pictures. Only a chooser of prompts waits for pictures: its own."""
    with clock("text"):
        condition = run.text.encode_prompts(prompts)
    if run.programs.algorithm.chooser:
        return _choose(run, iteration, params, condition, prompts, memory, clock)
    session = begin_captions(run, iteration, prompts)
    shift = run.programs.algorithm.schedule(iteration).shift
    trajectory, decoded = draw(run, iteration, params, condition, clock, shift)
    return Begun(prompts, trajectory, decoded, session, memory)


def begin_captions(run: Run, iteration: int, prompts: list[str]) -> Session | None:
    """Opens an iteration's session of captions, None without an enhancer."""
    graph = run.programs.algorithm.graph
    return run.enhancer.begin(iteration, prompts, graph.branches, graph.pictures) if run.enhancer else None


def draw(
    run: Run, iteration: int, params: Params, condition: Condition, clock: Clock, shift: int = 0
) -> tuple[Trajectory, dict[int, tuple[jax.Array, jax.Array]]]:
    """A rollout, and of each branch its pictures and whether they are finite. Nothing is waited for.

    Overlapped, every branch is finished and decoded by itself, the shortest first, so that its pictures are there while the
    devices work on the next.
    """
    programs = run.programs
    keys = programs.key(iteration, ROLLOUT_NOISE), programs.key(iteration, ROLLOUT_STEPS)
    with clock("rollout"):
        if not run.overlap:
            trajectory, _ = programs.rollout(params, condition, *keys, shift)
            return trajectory, _decode(run, trajectory.x0)
        trajectory, _ = programs.anchor(params, condition, *keys, shift)
        ends, decoded = {}, {}
        for branch in reversed(range(programs.algorithm.graph.branches)):
            ends[branch] = programs.tail(branch)(params, condition, trajectory.x0)
            decoded[branch] = programs.decode(run.pipeline.params["vae"], ends[branch])
        return trajectory._replace(x0=programs.join([ends[branch] for branch in sorted(ends)])), decoded


def _decode(run: Run, x0: jax.Array) -> dict[int, tuple[jax.Array, jax.Array]]:
    """Of each branch its pictures and whether they are finite; x0: latents [P, R, S, L, C]."""
    programs, decoder = run.programs, run.pipeline.params["vae"]
    return {branch: programs.decode(decoder, programs.branch(x0, branch)) for branch in range(x0.shape[1])}


def hand_over(run: Run, iteration: int, begun: Begun, clock: Clock) -> Samples:
    """Waits for the pictures of each branch in the order in which they are made, and gives the session those of this process
    before the next branch's are there. UserError for pictures that are not finite."""
    pictures, handed_over = {}, {}
    if not run.overlap:
        with clock("rollout"):
            jax.block_until_ready(begun.trajectory.x0)
    with clock("rollout" if run.overlap else "decode"):
        for branch, (images, _) in begun.decoded.items():
            pictures[branch] = Owned(images, run.programs.algorithm.graph.pictures)
            if begun.session:
                begun.session.add(branch, pictures[branch].mine)
            handed_over[branch] = time.perf_counter()
        for _, finite in begun.decoded.values():
            require_all(np.asarray(finite), "pictures", iteration, lambda i: f"prompt {begun.prompts[i[0]]!r}")
    ordered = [pictures[branch] for branch in sorted(pictures)]
    return Samples(begun.prompts, begun.trajectory, ordered, begun.session, begun.memory, handed_over)


def _choose(run: Run, iteration: int, params, condition: Condition, prompts: list[str], memory, clock: Clock) -> Begun:
    """Anchors of all prompts, and a rollout of those that the chooser keeps. The first process decides for all."""
    programs = run.programs
    chooser = programs.algorithm.chooser
    keys = programs.key(iteration, ROLLOUT_NOISE), programs.key(iteration, ROLLOUT_STEPS)
    with clock("rollout"):
        trajectory, end = programs.anchor(params, condition, *keys, 0)
        images, finite = programs.decode(run.pipeline.params["vae"], end)
        require_all(np.asarray(finite), "pictures", iteration, lambda i: f"prompt {prompts[i[0]]!r}")
    with clock("reward"):
        pictures = Owned(images, 1)
        score = sum(w * run.panel.score(n, pictures, [prompts])[0, :, 0] for n, w in run.weights.items())
        choice = lambda: [a.tolist() for a in chooser.choose(score.reshape(-1, chooser.count), memory)]
        kept, memory = (np.asarray(a, a_type) for a, a_type in zip(decide(choice), (np.int32, np.float32)))
    trajectory, condition = programs.keep((trajectory, condition), kept)
    prompts = [prompts[slot * chooser.count + which] for slot, which in enumerate(kept)]
    session = begin_captions(run, iteration, prompts)
    with clock("rollout"):
        x0 = programs.finish(params, condition, trajectory.x0)
        return Begun(prompts, trajectory._replace(x0=x0), _decode(run, x0), session, memory)


def require_all(finite: np.ndarray, what: str, iteration: int, place: Callable[[np.ndarray], str]) -> None:
    """Stops the run at the first value that is not finite, and names its place."""
    bad = np.argwhere(~finite)
    if len(bad):
        raise UserError(
            f"iteration {iteration}: {what} not finite ({len(bad)} of {finite.size} values, the first at {place(bad[0])}); "
            "stopped with the last checkpoint intact. Lower config.optimizer.learning_rate or look at that input"
        )

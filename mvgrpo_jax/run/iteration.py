"""The stages of one iteration, called one after another: sample, judge, make_batch, update, summarise."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from mvgrpo_jax.core.advantages import is_flat
from mvgrpo_jax.core.objectives import view_weights
from mvgrpo_jax.core.policy import assemble
from mvgrpo_jax.core.structs import Batch, Captions, Condition, TrainState, Trajectory
from mvgrpo_jax.enhancers import Session
from mvgrpo_jax.errors import Outage, UserError
from mvgrpo_jax.models.module import Params
from mvgrpo_jax.parallel.hosts import decide
from mvgrpo_jax.parallel.owned import Owned
from mvgrpo_jax.rewards.means import deviations, mean
from mvgrpo_jax.run.build import Run
from mvgrpo_jax.run.metrics import Clock
from mvgrpo_jax.run.painting import ROLLOUT_NOISE, ROLLOUT_STEPS, SELECTION
from mvgrpo_jax.run.programs import needs_old, sampler_of


class Samples(NamedTuple):
    """What an iteration draws. prompts: those of its pictures, P of them. pictures: uint8 [P, S, H, W, 3] of each of R
    branches, on the devices that made them. session: the captions that were asked for meanwhile, None without an enhancer.
    memory: what a chooser of prompts remembers now."""

    prompts: list[str]
    trajectory: Trajectory
    pictures: list[Owned]
    session: Session | None
    memory: Any = None


class Views(NamedTuple):
    """Conditions under which the samples are judged. captions: [V][P][R], the prompt first. active: bool [V, P, R], False
    where a caption is missing."""

    captions: Captions
    active: np.ndarray


class Scores(NamedTuple):
    """by_judge: float32 [V, P, R, S] of each judge; of one that does not train [1, P, R, S], under the prompt alone;
    not-a-number where a caption is missing or the judge could not tell. active: bool [V, P, R], False where a caption is
    missing or no two samples can be compared. The same on every process. lost: of each judge the share of scores that it
    could not give. seconds: of each judge, from the question to the scores. cut: texts that each judge cut. unscored: groups
    that no judge could score though their caption is there. logs: what judges elsewhere counted.
    waited: seconds for scores after the last captions had come."""

    by_judge: dict[str, np.ndarray]
    active: np.ndarray
    lost: dict[str, float]
    seconds: dict[str, float]
    cut: dict[str, int]
    unscored: int
    logs: dict[str, dict[str, float]]
    waited: float


def sample(run: Run, iteration: int, params: Params, prompts: list[str], memory: Any, clock: Clock) -> Samples:
    """Draws the pictures of an iteration under the sampling policy's parameters."""
    with clock("text"):
        condition = run.text.encode_prompts(prompts)
    if run.programs.algorithm.chooser:
        return _choose(run, iteration, params, condition, prompts, memory, clock)
    session = begin_captions(run, iteration, prompts)
    shift = run.programs.algorithm.schedule(iteration).shift
    trajectory, pictures = draw(run, iteration, params, condition, session, prompts, clock, shift)
    return Samples(prompts, trajectory, pictures, session, memory)


def begin_captions(run: Run, iteration: int, prompts: list[str]) -> Session | None:
    """Opens an iteration's session of captions, None without an enhancer."""
    graph = run.programs.algorithm.graph
    return run.enhancer.begin(iteration, prompts, graph.branches, graph.pictures) if run.enhancer else None


def draw(
    run: Run,
    iteration: int,
    params: Params,
    condition: Condition,
    session: Session | None,
    prompts: list[str],
    clock: Clock,
    shift: int = 0,
) -> tuple[Trajectory, list[Owned]]:
    """A rollout and the pictures of its branches, which the session gets too.

    Overlapped, every branch is finished and decoded by itself, the shortest first: the session has the pictures of one while
    the device works on the next.
    """
    programs = run.programs
    keys = programs.key(iteration, ROLLOUT_NOISE), programs.key(iteration, ROLLOUT_STEPS)
    if not run.overlap:
        with clock("rollout"):
            trajectory, _ = programs.rollout(params, condition, *keys, shift)
            decoded = _decode(run, trajectory.x0)
            jax.block_until_ready(trajectory.x0)
        with clock("decode"):
            return trajectory, _hand_over(run, decoded, session, prompts, iteration)
    with clock("rollout"):
        trajectory, _ = programs.anchor(params, condition, *keys, shift)
        ends, decoded = {}, {}
        for branch in reversed(range(programs.algorithm.graph.branches)):
            ends[branch] = programs.tail(branch)(params, condition, trajectory.x0)
            decoded[branch] = programs.decode(run.pipeline.params["vae"], ends[branch])
        x0 = programs.join([ends[branch] for branch in sorted(ends)])
        return trajectory._replace(x0=x0), _hand_over(run, decoded, session, prompts, iteration)


def _decode(run: Run, x0: jax.Array) -> dict[int, tuple[jax.Array, jax.Array]]:
    """Of each branch its pictures and whether they are finite; x0: latents [P, R, S, L, C]."""
    programs, decoder = run.programs, run.pipeline.params["vae"]
    return {branch: programs.decode(decoder, programs.branch(x0, branch)) for branch in range(x0.shape[1])}


def _hand_over(run: Run, decoded: dict, session: Session | None, prompts: list[str], iteration: int) -> list[Owned]:
    """Waits for the pictures of each branch in the order in which they are decoded, and gives the session those of this process
    before the next branch's are there. UserError for pictures that are not finite."""
    pictures = {}
    for branch, (images, _) in decoded.items():
        pictures[branch] = Owned(images, run.programs.algorithm.graph.pictures)
        if session:
            session.add(branch, pictures[branch].mine)
    for _, finite in decoded.values():
        require_all(np.asarray(finite), "pictures", iteration, lambda i: f"prompt {prompts[i[0]]!r}")
    return [pictures[branch] for branch in sorted(pictures)]


def _choose(run: Run, iteration: int, params, condition: Condition, prompts: list[str], memory, clock: Clock) -> Samples:
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
        decoded = _decode(run, x0)
        jax.block_until_ready(x0)
    with clock("decode"):
        pictures = _hand_over(run, decoded, session, prompts, iteration)
    return Samples(prompts, trajectory._replace(x0=x0), pictures, session, memory)


def judge(run: Run, iteration: int, samples: Samples, clock: Clock) -> tuple[Views, Scores]:
    """The captions, and every judge's scores under them. Judges are asked about the pictures of a branch as soon as its
    captions are there, while those of the others are awaited. A judge that does not train is asked about the prompt alone."""
    panel, session, branches = run.panel, samples.session, range(len(samples.pictures))
    for one in panel.judges.values():
        one.take_cut()  # of an evaluation
    panel.take_seconds()
    captions, pending = {}, {}
    for branch in reversed(branches) if run.overlap else branches:  # as they were drawn
        with clock("enhance"):
            views = [samples.prompts, *(session.captions(branch) if session else ())]
        captions[branch] = views
        with clock("reward"):
            for name in panel.judges:
                asked = views if name in run.weights else views[:1]
                pending[name, branch] = panel.begin(name, samples.pictures[branch], asked)
    with clock("enhance"):
        if session:
            session.finish()
    began = time.perf_counter()
    with clock("reward"):
        found = {key: wait() for key, wait in pending.items()}
        by_judge = {name: np.stack([found[name, branch] for branch in branches], axis=2) for name in panel.judges}
        panel.rest()
        for pictures in samples.pictures:
            pictures.release()
    texts = [[list(of_prompt) for of_prompt in zip(*view)] for view in zip(*(captions[branch] for branch in branches))]
    there = np.asarray([[[text is not None for text in p] for p in view] for view in texts])
    waited, logs = time.perf_counter() - began, panel.take_log()
    lost = {name: lost_of(run, iteration, name, scores, there, logs.get(name, {})) for name, scores in by_judge.items()}
    active = there & comparable([by_judge[name] for name in run.weights])
    cut = {name: one.take_cut() for name, one in panel.judges.items()}
    return Views(texts, there), Scores(
        by_judge, active, lost, panel.take_seconds(), cut, int((there & ~active).sum()), logs, waited
    )


def comparable(scores: list[np.ndarray]) -> np.ndarray:
    """Whether a group has two samples or more that some judge could tell apart: bool [V, P, R] of scores [V, P, R, S]."""
    return np.any([(~np.isnan(s)).sum(-1) > 1 for s in scores], axis=0)


def lost_of(run: Run, iteration: int, name: str, scores: np.ndarray, there: np.ndarray, log: dict[str, float]) -> float:
    """The share of scores [v, P, R, S] that a judge could not give, of the captions that are there [V, P, R]. Outage when the
    config does not bear that many. log: what the judge counted, reasons among it."""
    asked = np.broadcast_to(there[: len(scores), ..., None], scores.shape)
    missing = np.isnan(scores) & asked
    share = missing.sum() / max(asked.sum(), 1)
    policy = run.policies[name]
    if missing.any() and (policy.on_failure == "stop" or share > policy.max_invalid):
        bound = "on_failure='stop'" if policy.on_failure == "stop" else f"max_invalid={policy.max_invalid:g}"
        why = ", ".join(f"{n:.0f} {key.partition('/')[2]}" for key, n in log.items() if key.startswith("missing/"))
        raise Outage(
            f"iteration {iteration}: the judge {name!r} gave no valid score for {missing.sum()} of {asked.sum()} pairs of "
            f"picture and caption{f' ({why})' if why else ''}. config.judges.{name}.{bound} ends the run here"
        )
    return float(share)


def make_batch(
    run: Run, iteration: int, samples: Samples, views: Views, scores: Scores, clock: Clock
) -> tuple[Batch, dict[str, jax.Array]]:
    """Encoded views, advantages and the transitions that train; and what is logged of them."""
    programs = run.programs
    with clock("text"):
        encoded = run.text.encode_views(views.captions)
    trained = {name: scores.by_judge[name] for name in run.weights}
    of_view = view_weights(scores.active, run.config.views.aggregate, run.config.views.prompt_weight)
    stage = programs.algorithm.schedule(iteration).stage
    key = programs.key(iteration, SELECTION)
    transitions, advantage, weight, log = programs.select(key, samples.trajectory, trained, of_view, samples.memory, stage)
    return Batch(transitions, encoded, advantage, weight), log


def update(run: Run, state: TrainState, batch: Batch, iteration: int) -> tuple[TrainState, list[dict[str, jax.Array]]]:
    """All passes over one rollout: the new state and the metrics of every pass."""
    programs = run.programs
    if needs_old(run.config, programs):
        batch = batch._replace(old=programs.old_densities(assemble(sampler_of(state), run.frozen), batch))
    history = []
    for _ in range(run.config.train.passes):
        state, metrics = programs.update(state, run.reference, batch, run.frozen)
        history.append(metrics)
    if programs.algorithm.follow:
        state = programs.follow(state, np.float32(programs.algorithm.follow(iteration)))
    return state, history


def summarise(run: Run, iteration: int, scores: Scores, log: dict[str, jax.Array]) -> dict[str, float | jax.Array]:
    """What is logged of an iteration beside its updates' metrics: `log` of its batch, and numbers of the host. Nothing here
    waits for the devices."""
    algorithm, active, log = run.programs.algorithm, scores.active, dict(log)
    for name, values in scores.by_judge.items():
        log[f"reward/{name}"] = mean(values[0])
        log[f"reward_std/{name}"] = mean(deviations(values[0]))
        log[f"reward_invalid/{name}"] = scores.lost[name]
        log[f"reward_captions_cut/{name}"] = float(scores.cut[name])
        log[f"judge/{name}_s"] = scores.seconds[name]
        log[f"judge/{name}_pictures_per_s"] = values[0].size / max(scores.seconds[name], 1e-9)
        log |= {f"judge/{name}/{key}": value for key, value in scores.logs.get(name, {}).items()}
    for name in run.weights:
        values = scores.by_judge[name]
        log[f"reward_views/{name}"] = mean(values[active])
        log[f"zero_std/{name}"] = mean(is_flat(values)[active])
    log["views/unscored"], log["judge/wait_s"] = float(scores.unscored), scores.waited
    log["views/active"] = float(active.sum(0).mean())
    log |= run.enhancer.log() if run.enhancer else {}
    if algorithm.graph.moving:
        log["rollout/shift"] = float(algorithm.schedule(iteration).shift)
    return log


def require_all(finite: np.ndarray, what: str, iteration: int, place: Callable[[np.ndarray], str]) -> None:
    """Stops the run at the first value that is not finite, and names its place."""
    bad = np.argwhere(~finite)
    if len(bad):
        raise UserError(
            f"iteration {iteration}: {what} not finite ({len(bad)} of {finite.size} values, the first at {place(bad[0])}); "
            "stopped with the last checkpoint intact. Lower config.optimizer.learning_rate or look at that input"
        )

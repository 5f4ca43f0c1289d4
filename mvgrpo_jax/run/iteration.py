"""The stages of one iteration, called one after another: sample (drawing.py), judge, make_batch, update, summarise."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from mvgrpo_jax.core.advantages import is_flat
from mvgrpo_jax.core.objectives import view_weights
from mvgrpo_jax.core.policy import assemble
from mvgrpo_jax.core.structs import Batch, Captions, TrainState
from mvgrpo_jax.errors import Outage
from mvgrpo_jax.rewards.means import deviations, mean
from mvgrpo_jax.run.build import Run
from mvgrpo_jax.run.drawing import Samples
from mvgrpo_jax.run.metrics import Clock
from mvgrpo_jax.run.painting import SELECTION
from mvgrpo_jax.run.programs import needs_old, sampler_of


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


# each(branch, captions [V][P], {judge that trains: scores [V, P, S]}, active: bool [V, P])
Each = Callable[[int, list[list[str | None]], dict[str, np.ndarray], np.ndarray], None]


def judge(run: Run, iteration: int, samples: Samples, clock: Clock, each: Each | None = None) -> tuple[Views, Scores]:
    """The captions, and every judge's scores under them. Judges are asked about the pictures of a branch as soon as its
    captions are there, while those of the others are awaited. A judge that does not train is asked about the prompt alone.
    each: given the scores of every branch before the next one's captions are waited for."""
    panel, session, branches = run.panel, samples.session, range(len(samples.pictures))
    for one in panel.judges.values():
        one.take_cut()  # of an evaluation
    panel.take_seconds()
    captions, pending, asked_at, found = {}, {}, {}, {}

    def take(branch: int) -> None:
        for name in panel.judges:
            found[name, branch] = pending.pop((name, branch))()
            clock.note("judges", f"{name}, branch {branch}", asked_at[branch])

    for branch in reversed(branches) if run.overlap else branches:  # as they were drawn
        with clock("enhance"):
            views = [samples.prompts, *(session.captions(branch) if session else ())]
        if session:
            clock.note("captions", f"branch {branch}", samples.handed_over[branch])
        captions[branch] = views
        asked_at[branch] = time.perf_counter()
        with clock("reward"):
            for name in panel.judges:
                asked = views if name in run.weights else views[:1]
                pending[name, branch] = panel.begin(name, samples.pictures[branch], asked)
            if each:
                take(branch)
        if each:
            scores = {name: found[name, branch] for name in run.weights}
            known = np.asarray([[text is not None for text in view] for view in views])
            each(branch, views, scores, known & comparable([*scores.values()]))
    with clock("enhance"):
        if session:
            session.finish()
    began = time.perf_counter()
    with clock("reward"):
        for branch in captions if pending else ():
            take(branch)
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
    """Whether a group has two samples or more that some judge could tell apart: bool [...] of scores [..., S]."""
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
    if run.config.train.async_steps:
        state = programs.remember(state)  # the next rollout, which is under way, was begun with these parameters
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

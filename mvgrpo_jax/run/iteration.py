"""The stages of one iteration, called one after another: sample, caption, score, make_batch, update, summarise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mvgrpo_jax.core.advantages import is_flat
from mvgrpo_jax.core.objectives import view_weights
from mvgrpo_jax.core.policy import assemble
from mvgrpo_jax.core.structs import Batch, Captions, Condition, TrainState, Trajectory
from mvgrpo_jax.enhancers import Session
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.models.module import Params
from mvgrpo_jax.parallel.hosts import to_host
from mvgrpo_jax.run.build import Run
from mvgrpo_jax.run.metrics import Clock
from mvgrpo_jax.run.programs import ROLLOUT_NOISE, ROLLOUT_STEPS, SELECTION, needs_old, sampler_of


class Samples(NamedTuple):
    """What an iteration draws. prompts: those of its pictures, P of them. images: float32 [P, R, S, H, W, 3] in [0, 1].
    session: the captions that were asked for meanwhile, None without an enhancer. memory: what a chooser of prompts remembers
    now."""

    prompts: list[str]
    trajectory: Trajectory
    images: np.ndarray
    session: Session | None
    memory: Any = None


class Views(NamedTuple):
    """Conditions under which the samples are judged. captions: [V][P][R], the prompt first. active: bool [V, P, R], False
    where a caption is missing."""

    captions: Captions
    active: np.ndarray


class Scores(NamedTuple):
    """by_judge: float32 [V, P, R, S] of each judge; of one that does not train [1, P, R, S], under the prompt alone."""

    by_judge: dict[str, np.ndarray]


def sample(run: Run, iteration: int, params: Params, prompts: list[str], memory: Any, clock: Clock) -> Samples:
    """Draws the pictures of an iteration under the sampling policy's parameters."""
    with clock("text"):
        condition = run.text.encode(prompts)
    if run.programs.algorithm.chooser:
        samples = _choose(run, iteration, params, condition, prompts, memory, clock)
    else:
        session = begin_captions(run, iteration, prompts)
        shift = run.programs.algorithm.schedule(iteration).shift
        trajectory, images = draw(run, iteration, params, condition, session, clock, shift)
        samples = Samples(prompts, trajectory, images, session, memory)
    require_finite(samples.images, "pictures", iteration, lambda i: f"prompt {samples.prompts[i[0]]!r}")
    return samples


def begin_captions(run: Run, iteration: int, prompts: list[str]) -> Session | None:
    """Opens an iteration's session of captions, None without an enhancer."""
    return run.enhancer.begin(iteration, prompts, run.programs.algorithm.graph.branches) if run.enhancer else None


def draw(
    run: Run, iteration: int, params: Params, condition: Condition, session: Session | None, clock: Clock, shift: int = 0
) -> tuple[Trajectory, np.ndarray]:
    """A rollout and its pictures [P, R, S, H, W, 3], which the session gets too.

    Overlapped, every branch is finished and decoded by itself, the shortest first: the session has the pictures of one while
    the device works on the next.
    """
    programs, decoder = run.programs, run.pipeline.params["vae"]
    keys = programs.key(iteration, ROLLOUT_NOISE), programs.key(iteration, ROLLOUT_STEPS)
    if not run.overlap:
        with clock("rollout"):
            trajectory, _ = programs.rollout(params, condition, *keys, shift)
            jax.block_until_ready(trajectory.x0)
        with clock("decode"):
            images = to_host(programs.decode(decoder, trajectory.x0))
        _hand_over(session, images)
        return trajectory, images
    with clock("rollout"):
        trajectory, _ = programs.anchor(params, condition, *keys, shift)
        ends, decoded, images = {}, {}, {}
        for branch in reversed(range(programs.algorithm.graph.branches)):
            ends[branch] = programs.finish((branch,))(params, condition, trajectory.x0[:, branch : branch + 1])[:, 0]
            decoded[branch] = programs.decode(decoder, ends[branch])
        for branch, pictures in decoded.items():
            images[branch] = to_host(pictures)
            session.add(branch, images[branch])
        order = sorted(ends)
        x0 = jax.device_put(jnp.stack([ends[b] for b in order], axis=1), programs.batch())
        return trajectory._replace(x0=x0), np.stack([images[b] for b in order], axis=1)


def _choose(run: Run, iteration: int, params, condition: Condition, prompts: list[str], memory, clock: Clock) -> Samples:
    """Anchors of all prompts, and a rollout of those that the chooser keeps."""
    programs, decoder = run.programs, run.pipeline.params["vae"]
    chooser, graph = programs.algorithm.chooser, programs.algorithm.graph
    keys = programs.key(iteration, ROLLOUT_NOISE), programs.key(iteration, ROLLOUT_STEPS)
    with clock("rollout"):
        trajectory, end = programs.anchor(params, condition, *keys, 0)
        images = to_host(programs.decode(decoder, end[:, None]))[:, :, :1]
    with clock("reward"):
        captions = [[[p] for p in prompts]]
        score = sum(w * run.judges[n].score(images, captions)[0, :, 0, 0] for n, w in run.weights.items())
        kept, memory = chooser.choose(score.reshape(-1, chooser.count), memory)
    rows = np.arange(len(kept)) * chooser.count + kept
    trajectory, condition = programs.keep((trajectory, condition), rows)
    prompts = [prompts[i] for i in rows]
    session = begin_captions(run, iteration, prompts)
    with clock("rollout"):
        x0 = programs.finish(tuple(range(graph.branches)))(params, condition, trajectory.x0)
        jax.block_until_ready(x0)
    with clock("decode"):
        images = to_host(programs.decode(decoder, x0))
    _hand_over(session, images)
    return Samples(prompts, trajectory._replace(x0=x0), images, session, memory)


def _hand_over(session: Session | None, images: np.ndarray) -> None:
    """Gives a session the pictures of every branch."""
    for branch in range(images.shape[1]) if session else ():
        session.add(branch, images[:, branch])


def caption(samples: Samples, clock: Clock) -> Views:
    """The prompt and the captions that were asked for, once they are there."""
    branches = samples.images.shape[1]
    captions = [[[p] * branches for p in samples.prompts]]
    with clock("enhance"):
        if samples.session:
            captions += samples.session.collect()
    return Views(captions, np.asarray([[[text is not None for text in p] for p in view] for view in captions]))


def score(run: Run, iteration: int, samples: Samples, views: Views, clock: Clock) -> Scores:
    """Every judge's scores; a judge that does not train is asked about the prompt alone."""
    captions = views.captions
    with clock("reward"):
        scores = {
            name: judge.score(samples.images, captions if name in run.weights else captions[:1])
            for name, judge in run.judges.items()
        }
    for name, values in scores.items():
        require_finite(values, f"reward {name}", iteration, lambda i: f"caption {captions[i[0]][i[1]][i[2]]!r}")
    return Scores(scores)


def make_batch(run: Run, iteration: int, samples: Samples, views: Views, scores: Scores, clock: Clock) -> Batch:
    """Encoded views, advantages and the transitions that train."""
    programs = run.programs
    with clock("text"):
        encoded = run.text.encode_views(views.captions)
    trained = {name: jnp.asarray(scores.by_judge[name]) for name in run.weights}
    stage = programs.algorithm.schedule(iteration).stage
    key = programs.key(iteration, SELECTION)
    selection = programs.select(key, samples.trajectory, trained, views.active, samples.memory, stage)
    of_view = view_weights(views.active, run.config.views.aggregate)[..., None]  # [V, P, R, 1]
    return Batch(
        transitions=selection.transitions,
        views=encoded,
        advantage=selection.advantage,
        weight=jax.device_put(of_view * selection.weight, programs.batch(1)),
    )


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


def summarise(run: Run, iteration: int, views: Views, scores: Scores, batch: Batch) -> dict[str, float]:
    """What is logged of an iteration beside its updates' metrics."""
    algorithm, log = run.programs.algorithm, {}
    for name, values in scores.by_judge.items():
        log[f"reward/{name}"] = float(values[0].mean())
        log[f"reward_std/{name}"] = float(values[0].std(-1).mean())
        log[f"reward_captions_cut/{name}"] = float(run.judges[name].captions_cut)
    for name in run.weights:
        values = scores.by_judge[name]
        log[f"reward_views/{name}"] = float(values[views.active].mean())
        log[f"zero_std/{name}"] = float(is_flat(values)[views.active].mean())
    log["advantage/abs"] = float(np.abs(to_host(batch.advantage)).mean())
    log["views/active"] = float(views.active.sum(0).mean())
    log |= run.enhancer.log() if run.enhancer else {}
    if algorithm.graph.moving:
        log["rollout/shift"] = float(algorithm.schedule(iteration).shift)
    return log


def require_finite(values: np.ndarray, what: str, iteration: int, place: Callable[[np.ndarray], str]) -> None:
    """Stops the run at the first value that is not finite, and names its place."""
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        raise UserError(
            f"iteration {iteration}: {what} not finite ({len(bad)} of {values.size} values, the first at {place(bad[0])}); "
            "stopped with the last checkpoint intact. Lower config.optimizer.learning_rate or look at that input"
        )

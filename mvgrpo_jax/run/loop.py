"""The training loop: restore or begin, iterate, save. The one file that knows the order of the stages."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
from tqdm import tqdm

from mvgrpo_jax.core.policy import assemble
from mvgrpo_jax.errors import Outage, Stopped, UserError
from mvgrpo_jax.models.module import Params
from mvgrpo_jax.parallel import hosts
from mvgrpo_jax.parallel.hosts import say
from mvgrpo_jax.parallel.watch import Watch
from mvgrpo_jax.rewards.means import deviations, mean
from mvgrpo_jax.run import (
    checkpoint,
    disk,
    drawing,
    evaluation,
    export,
    groups,
    memory,
    metrics,
    report,
    stops,
    timeline,
    trackers,
)
from mvgrpo_jax.run import iteration as stages
from mvgrpo_jax.run.aside import Aside
from mvgrpo_jax.run.branches import Gradients
from mvgrpo_jax.run.budget import Budget
from mvgrpo_jax.run.build import Run, load, outline
from mvgrpo_jax.run.claim import claim
from mvgrpo_jax.run.metrics import Clock
from mvgrpo_jax.run.programs import averaged, sampler_of
from mvgrpo_jax.run.progress import Progress, begin
from mvgrpo_jax.run.tracing import Profile
from mvgrpo_jax.run.trackers import Trackers
from mvgrpo_jax.storage import place


def train(config, workdir: str | Path) -> Path:
    """Runs a config to its end, or goes on with the run in `workdir`. Returns the folder of the trained weights. Stopped when a
    signal ends it before that; in a job of several processes an error ends the process (parallel/watch.py)."""
    workdir = place(workdir)
    with (
        Watch(config.watch.silence_s, config.watch.standstill_s) as watch,
        stops.catching() as asked,
        claim(workdir, json.loads(config.to_json_best_effort())) as still_ours,
    ):
        if hosts.is_chief():
            export.check_destination(config, workdir)
        outlined = outline(config)
        say(outlined.describe())
        if hosts.is_chief():
            disk.warn_if_short(outlined.on_disk, workdir)
        tracked = trackers.begin(config, workdir)
        with disk.explained(workdir), memory.explained(outlined, workdir, lambda: watch.said.stage):
            watch.at("the reading of weights")
            run, initial = load(outlined)
            for name, judge in run.panel.judges.items():
                if version := getattr(judge, "version", ""):
                    say(f"judge {name}: version {version}")
            try:
                with jax.set_mesh(run.mesh):
                    progress = begin(run, initial, workdir)
                    del initial  # the state holds it now
                    job = Job(asked, watch.at, still_ours)
                    return Loop(run, workdir, progress, outlined.budget, job, tracked).run_to_the_end()
            finally:
                run.close()


def dry_run(config) -> str:
    """Checks a config on shapes and says what an iteration costs and on what it runs; nothing is read or written."""
    outlined = outline(config)
    outlined.close()
    return outlined.describe()


class Job(NamedTuple):
    """What a run has to do with the job that it is. asked(): whether it is to stop at this boundary between stages, the same
    answer in every process; announce(stage) is called at each boundary; still_ours(): UserError when another job has taken the
    workdir over."""

    asked: Callable[[], bool]
    announce: Callable[[str], None]
    still_ours: Callable[[], None]


class Ahead(NamedTuple):
    """Samples that were drawn before their iteration, and the cursor from which they can be drawn again."""

    cursor: dict
    samples: drawing.Samples


class Loop:
    """One process's work from the first iteration to the export."""

    def __init__(self, run: Run, workdir: Path, progress: Progress, budget: Budget, job: Job, tracked: Trackers):
        self.run, self.workdir, self.progress, self.budget, self.job = run, workdir, progress, budget, job
        self.cursor = progress.cursor()  # from which the iteration under way begins again
        self.store = checkpoint.Checkpoints(workdir, run.config.checkpoint.keep)
        checkpoint.prepare(progress.state)
        if run.evaluation:
            checkpoint.prepare(averaged(progress.state))
        self.aside = Aside()
        self.writer, self.trackers = metrics.Writer(workdir, progress.done), tracked
        self.profile, self.timeline = Profile(run.config.profile, workdir), timeline.Timeline()
        self.keeper = timeline.Keeper(workdir, progress.done)
        self.began = time.perf_counter()  # the iteration under way
        # (iteration, its beginning, updates' metrics, log) that are written once the next iteration is under way
        self.pending: tuple[int, float, list[dict], dict[str, float]] | None = None
        self.ahead: Ahead | None = None

    def run_to_the_end(self) -> Path:
        """Returns the folder of the trained weights."""
        config, progress = self.run.config, self.progress
        chief, name, span = hosts.is_chief(), config.algorithm.name, range(progress.done, config.iterations)
        self.bar = tqdm(span, initial=progress.done, total=config.iterations, desc=name, disable=not chief)
        try:
            with self.timeline:
                for number in self.bar:
                    with self.profile.iteration(number):
                        self.iterate(number)
                    self.profile.after(number, progress.state)
                return self.finish()
        except (Outage, Stopped):
            self.save_unfinished()
            self.aside.close()
            self.trackers.close()
            raise
        finally:
            self.profile.close()

    def enter(self, number: int, stage: str) -> None:
        """The boundary before a stage of an iteration; Stopped where the process was asked to stop."""
        where = f"iteration {number}, {stage}"
        self.job.announce(where)
        if self.job.asked():
            done = self.progress.done
            raise Stopped(f"stopped by a signal before {where}; {done} iterations are saved, the same command goes on")

    def iterate(self, number: int) -> None:
        """One iteration, with the evaluation before it and the checkpoint after it where they are due."""
        run, progress, every = self.run, self.progress, self.run.config
        clock, began = Clock(self.timeline), time.perf_counter()
        self.began, scores, self.cursor = began, {}, self.here()
        if due(number, every.eval.every):
            scores = self.evaluate(number, clock)
        self.cursor = self.here()
        self.enter(number, "sample")
        if not self.ahead:
            self.ahead = Ahead(self.cursor, drawing.hand_over(run, number, self.draw(number, clock), clock))
        samples, self.ahead, begun = self.ahead.samples, None, None
        if every.train.async_steps and number + 1 < every.iterations:
            cursor, begun = progress.cursor(), self.draw(number + 1, clock, progress.state.params)
        self.enter(number, "judge")
        gradients = Gradients(run, progress.state, number, samples, clock) if run.by_branch else None
        views, judged = stages.judge(run, number, samples, clock, gradients and gradients.add)
        self.enter(number, "update")
        if gradients:
            log = gradients.log({name: judged.by_judge[name] for name in run.weights}, judged.active)
        else:
            batch, log = stages.make_batch(run, number, samples, views, judged, clock)
        samples = samples._replace(trajectory=None)  # the batch has what trains
        with jax.profiler.TraceAnnotation("update"):
            if gradients:
                progress.state, history = gradients.finish()
            else:
                progress.state, history = stages.update(run, progress.state, batch, number)
        progress.memory, progress.done = samples.memory, number + 1
        if begun:  # the update waits behind it: who describes the pictures has as long as both take
            self.ahead = Ahead(cursor, drawing.hand_over(run, number + 1, begun, clock))
        self.flush()
        log = stages.summarise(run, number, judged, log)
        if due(number, every.log.images_every) and hosts.is_chief():
            self.aside(groups.draw, self.workdir / "samples" / f"{number:06d}.png", number, samples, views, judged)
        spent = time.perf_counter() - began
        log |= scores | clock.spent | {"time/iteration": spent} | memory.high_water()
        log |= self.budget.speed(spent - clock.spent.get("time/eval", 0.0), list(run.mesh.devices.flat))
        self.pending = (number, began, history, log)
        self.save_if_due()

    def draw(self, number: int, clock: Clock, params: Params | None = None) -> drawing.Begun:
        """Begins the next rollout, with the sampling policy's parameters or with others."""
        run, progress = self.run, self.progress
        prompts = [str(p) for p in next(progress.batches)]
        params = assemble(sampler_of(progress.state) if params is None else params, run.frozen)
        return drawing.begin(run, number, params, prompts, progress.memory, clock)

    def here(self) -> dict:
        """The cursor from which a run goes on here: a rollout that was drawn ahead is drawn again."""
        return self.ahead.cursor | {"best": self.progress.cursor()["best"]} if self.ahead else self.progress.cursor()

    def save_if_due(self) -> None:
        """A checkpoint where one is due."""
        config, done = self.run.config, self.progress.done
        self.job.announce(f"iteration {done}, checkpoint")
        if due(done, config.checkpoint.every) or done == config.iterations:
            self.flush()  # a state whose update failed is never saved
            self.job.still_ours()
            self.store.save(done, self.progress.state, self.here())
            if config.export.at_checkpoints and done < config.iterations:
                self.export(done, self.workdir / "exports" / f"{done:06d}")

    def save_unfinished(self) -> None:
        """Nothing that was trained is lost, and the prompts of the iteration under way come again."""
        done = self.progress.done
        if self.pending and self.store.latest() != done:
            self.flush()
            self.store.save(done, self.progress.state, self.cursor)
        self.store.wait()

    def flush(self) -> None:
        """Writes the metrics of the iteration before, now that its update is surely done or the next one is under way."""
        if not self.pending:
            return
        number, began, history, log = self.pending
        self.pending = None
        values = finish_metrics(number, history, log)
        ended = self.began if self.began > began else time.perf_counter()
        if "time/eval" not in values:
            values["time/idle"] = self.timeline.idle(began, ended)
        if number and due(number - 1, self.run.config.log.images_every) and hosts.is_chief():  # evaluations are elsewhere
            self.keeper.write(number, self.timeline.between(began, ended), began, ended)
        self.write(number, values)
        shown = {k.removeprefix("reward/"): f"{v:.4f}" for k, v in values.items() if k.startswith("reward/")}
        if values.get("enhancer/wait_s", 0.0) >= 0.05:
            shown["captions waited for"] = f"{values['enhancer/wait_s']:.1f} s"
        self.bar.set_postfix(shown)

    def write(self, number: int, values: dict[str, float]) -> None:
        """Numbers of an iteration, for metrics.jsonl and for the trackers."""
        self.writer.write(number, values)
        if self.trackers:
            self.aside(self.trackers.numbers, number, values)

    def evaluate(self, number: int, clock: Clock) -> dict[str, float]:
        """The mean of every judge on the held-out prompts, and its deviation over them; the weights are kept when none that
        were trained did better, by the chief the pictures that belong to it."""
        run, weights, between = self.run, averaged(self.progress.state), lambda: self.enter(number, "evaluation")
        between()
        with clock("eval"):
            owned, scores = run.evaluation.run(assemble(weights, run.frozen), run.pipeline.params["vae"], between)
        if hosts.is_chief():
            self.aside(evaluation.keep, self.workdir / "eval", number, owned, run.evaluation.prompts, scores)
            if self.trackers:
                self.aside(self.trackers.pictures, number, owned, evaluation.labels(run.evaluation.prompts, scores))
        means = {f"eval/{name}": mean(values) for name, values in scores.items()}
        self.keep_if_best(number, weights, means[f"eval/{run.config.eval.judge}"])
        return means | {f"eval_std/{name}": float(deviations(values)) for name, values in scores.items()}

    def keep_if_best(self, number: int, weights: Params, score: float) -> None:
        """Saves the weights of `number` iterations to best/ where no earlier ones that were trained had such a score."""
        if number and score > self.progress.best:
            self.progress.best = score
            self.job.still_ours()
            self.store.save_best(number, weights, {"score": score, "judged": self.progress.judged})

    def export(self, step: int, folder: Path) -> Path:
        """Writes the weights that evaluation uses; returns where."""
        run = self.run
        return export.write(run.config, run.programs, averaged(self.progress.state), run.frozen, step, folder)

    def finish(self) -> Path:
        """The last evaluation, the export and the report."""
        last, workdir, clock = self.progress.done, self.workdir, Clock()
        self.flush()
        if self.run.evaluation:
            scores = self.evaluate(last, clock)
            if hosts.is_chief() and not [r for r in metrics.read(workdir) if r["iteration"] == last]:
                self.write(last, scores | clock.spent)
        self.job.announce("the export")
        self.aside.wait()
        self.store.wait()
        self.store.close()
        self.writer.close()
        self.keeper.close()
        self.trackers.close()
        folder = self.export(last, workdir)
        if hosts.is_chief():
            page = report.write([workdir])
            say(f"trained weights: {folder}\npictures: {workdir / 'eval'}, {workdir / 'samples'}\nreport: {page}")
        return folder


def due(number: int, every: int) -> bool:
    """Whether something that happens every so many iterations, 0 for never, happens at this one."""
    return every > 0 and number % every == 0


def finish_metrics(number: int, history: list[dict], log: dict) -> dict[str, float]:
    """Fetches the metrics of an iteration, those of its updates among them: the first one's ratio shows whether it was
    on-policy."""
    values = [{k: float(v) for k, v in jax.device_get(h).items()} for h in history]
    if any(v["non_finite"] for v in values):
        culprit = next(v for v in values if v["non_finite"])
        part = "loss" if not math.isfinite(culprit["loss"]) else "gradient"
        raise UserError(
            f"iteration {number}: the {part} is not finite (loss {culprit['loss']}, gradient norm {culprit['grad_norm']}, "
            f"largest ratio {culprit.get('ratio/max', 'none')}); the update was not applied and the last checkpoint is intact. "
            "Lower config.optimizer.learning_rate or raise precision (config.train.dtype=float32)"
        )
    log = {k: float(v) for k, v in jax.device_get(log).items()}
    last = {k: v for k, v in values[-1].items() if k != "non_finite"}
    if "ratio/min" in last:
        last["ratio/first_update_error"] = max(abs(values[0]["ratio/min"] - 1), abs(values[0]["ratio/max"] - 1))
    return log | last

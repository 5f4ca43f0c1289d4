"""The training loop: restore or begin, iterate, save. The one file that knows the order of the stages."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from mvgrpo_jax.configuration import continuation
from mvgrpo_jax.core.policy import assemble
from mvgrpo_jax.core.structs import TrainState
from mvgrpo_jax.errors import Outage, Stopped, UserError
from mvgrpo_jax.models.module import Params
from mvgrpo_jax.parallel import hosts
from mvgrpo_jax.parallel.watch import Watch
from mvgrpo_jax.prompts import stream, streaming
from mvgrpo_jax.rewards.means import deviations, mean
from mvgrpo_jax.run import checkpoint, disk, evaluation, export, groups, memory, metrics, report, stops, trackers
from mvgrpo_jax.run import iteration as stages
from mvgrpo_jax.run.aside import Aside
from mvgrpo_jax.run.budget import Budget
from mvgrpo_jax.run.build import Run, load, outline
from mvgrpo_jax.run.claim import claim
from mvgrpo_jax.run.metrics import Clock
from mvgrpo_jax.run.programs import averaged, sampler_of
from mvgrpo_jax.run.tracing import Profile
from mvgrpo_jax.run.trackers import Trackers
from mvgrpo_jax.storage import place


@dataclasses.dataclass
class Progress:
    """What changes as a run goes on. done: finished iterations. batches: the prompts' iterator; prompts: a digest of what it
    draws from. memory: of a chooser of prompts. judged: the settings of the evaluations, of which best is the highest score so
    far."""

    done: int
    state: TrainState
    batches: Any
    prompts: str
    memory: np.ndarray | None
    judged: dict[str, Any]
    best: float = -math.inf

    def cursor(self) -> dict:
        """What a checkpoint holds beside the state."""
        memory = None if self.memory is None else np.asarray(self.memory).tolist()
        return {
            "stream": self.batches.get_state(),
            "prompts": self.prompts,
            "best": self.best if math.isfinite(self.best) else None,
            "judged": self.judged,
            "memory": memory,
        }


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


def begin(run: Run, initial: Params, workdir: Path) -> Progress:
    """The newest checkpoint's progress, or a fresh one that starts from `initial`."""
    config, programs = run.config, run.programs
    chooser, prompts = programs.algorithm.chooser, streaming.digest(run.prompts)
    if len(set(hosts.exchange(prompts))) > 1:
        raise UserError(
            f"the processes of this run read different prompts from {config.prompts.train}; give all of them the same files, "
            "on a disk that they share or copied anew"
        )
    batches = stream(run.prompts, config.prompts_per_iteration * (chooser.count if chooser else 1), config.seed, run.shares)
    store = checkpoint.Checkpoints(workdir, config.checkpoint.keep)
    judged = continuation.evaluation(json.loads(config.to_json_best_effort()))
    shapes = jax.eval_shape(programs.updater.init, initial)
    found = store.last.newest(checkpoint.abstract(shapes, programs.state_shardings), discard=True)
    kept = hosts.decide(store.best.steps)
    store.close()
    if not found:
        return Progress(0, programs.init(initial), batches, prompts, chooser.memory if chooser else None, judged)
    done, state, cursor = found
    if cursor.get("prompts", prompts) != prompts:  # checkpoints of earlier versions do not say
        raise UserError(
            f"the prompts of {config.prompts.train} are not those that the run in {workdir} began with: a file changed, and "
            "the order in which they are drawn means nothing for others. Put the file back, or start in a new workdir"
        )
    batches.set_state(cursor["stream"])
    memory = None if cursor["memory"] is None else np.asarray(cursor["memory"], np.float32)
    comparable = kept and cursor["best"] is not None and cursor["judged"] == judged
    say(f"going on from iteration {done}")
    return Progress(done, state, batches, prompts, memory, judged, cursor["best"] if comparable else -math.inf)


class Job(NamedTuple):
    """What a run has to do with the job that it is. asked(): whether it is to stop at this boundary between stages, the same
    answer in every process; announce(stage) is called at each boundary; still_ours(): UserError when another job has taken the
    workdir over."""

    asked: Callable[[], bool]
    announce: Callable[[str], None]
    still_ours: Callable[[], None]


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
        self.profile = Profile(run.config.profile, workdir)
        # (iteration, updates' metrics, log) that are written once the next iteration is under way
        self.pending: tuple[int, list[dict], dict[str, float]] | None = None

    def run_to_the_end(self) -> Path:
        """Returns the folder of the trained weights."""
        config, progress = self.run.config, self.progress
        chief, name, span = hosts.is_chief(), config.algorithm.name, range(progress.done, config.iterations)
        self.bar = tqdm(span, initial=progress.done, total=config.iterations, desc=name, disable=not chief)
        try:
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
        clock, began = Clock(), time.perf_counter()
        scores, self.cursor = {}, progress.cursor()
        if due(number, every.eval.every):
            scores = self.evaluate(number, clock)
        self.cursor = progress.cursor()
        self.enter(number, "sample")
        prompts = [str(p) for p in next(progress.batches)]
        params = assemble(sampler_of(progress.state), run.frozen)
        samples = stages.sample(run, number, params, prompts, progress.memory, clock)
        self.enter(number, "judge")
        views, judged = stages.judge(run, number, samples, clock)
        self.enter(number, "update")
        batch, log = stages.make_batch(run, number, samples, views, judged, clock)
        samples = samples._replace(trajectory=None)  # the batch has what trains
        with jax.profiler.TraceAnnotation("update"):
            progress.state, history = stages.update(run, progress.state, batch, number)
        progress.memory, progress.done = samples.memory, number + 1
        self.flush()
        log = stages.summarise(run, number, judged, log)
        if due(number, every.log.images_every) and hosts.is_chief():
            self.aside(groups.draw, self.workdir / "samples" / f"{number:06d}.png", number, samples, views, judged)
        spent = time.perf_counter() - began
        log |= scores | clock.spent | {"time/iteration": spent} | memory.high_water()
        log |= self.budget.speed(spent - clock.spent.get("time/eval", 0.0), list(run.mesh.devices.flat))
        self.pending = (number, history, log)
        self.save_if_due()

    def save_if_due(self) -> None:
        """A checkpoint where one is due."""
        config, done = self.run.config, self.progress.done
        self.job.announce(f"iteration {done}, checkpoint")
        if due(done, config.checkpoint.every) or done == config.iterations:
            self.flush()  # a state whose update failed is never saved
            self.job.still_ours()
            self.store.save(done, self.progress.state, self.progress.cursor())
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
        number, history, log = self.pending
        self.pending = None
        values = finish_metrics(number, history, log)
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


def say(text: str) -> None:
    """Prints once, however many processes there are."""
    if hosts.is_chief():
        print(text)

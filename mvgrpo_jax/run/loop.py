"""The training loop: build, restore, iterate. The one file that knows the order of the stages."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from mvgrpo_jax import enhancers, pipelines, rewards
from mvgrpo_jax.core import objectives
from mvgrpo_jax.core.policy import assemble
from mvgrpo_jax.core.structs import Batch, Trajectory
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.parallel import hosts
from mvgrpo_jax.parallel.mesh import make_mesh
from mvgrpo_jax.run import budget, checkpoint, evaluation, export, metrics, pictures, report
from mvgrpo_jax.run.conditions import TextEncoder
from mvgrpo_jax.run.programs import (
    EXAMPLES,
    ROLLOUT_NOISE,
    ROLLOUT_STEPS,
    Programs,
    dtype_of,
    needs_old,
    network_options,
    sampler_of,
)
from mvgrpo_jax.run.prompts import load_prompts, stream


class Clock:
    """Seconds spent in each stage of an iteration."""

    def __init__(self):
        self.spent: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, stage: str):
        start = time.perf_counter()
        yield
        self.spent[f"time/{stage}"] = self.spent.get(f"time/{stage}", 0.0) + time.perf_counter() - start


class Run:
    """What a run holds between iterations beside its TrainState."""

    def __init__(self, config, workdir: Path):
        self.config, self.workdir = config, workdir
        self.mesh = make_mesh(**config.mesh)
        dtypes = dict.fromkeys(pipelines.WEIGHTS, dtype_of(config.train.frozen_dtype))
        if not config.lora.rank:
            dtypes["transformer"] = dtype_of(config.train.param_dtype)
        self.pipeline = pipelines.load(config.pipeline, dtype=dtypes, mesh=self.mesh, **network_options(config, self.mesh))
        self.programs = Programs.build(config, self.pipeline, self.mesh)
        export.check(config)
        self.text = TextEncoder.of(config, self.programs, self.pipeline)
        self.prompts = load_prompts(config.prompts.train, config.prompts.train_count, held_out=False)
        chooser = self.programs.algorithm.chooser
        self.memory = chooser.memory if chooser else None
        drawn = config.prompts_per_iteration * (chooser.count if chooser else 1)
        self.stream = stream(self.prompts, drawn, config.seed)
        self.enhancer = enhancers.make(config, self.prompts, self.text.fit)
        eager = self.enhancer is not None and self.enhancer.eager
        self.overlap = eager and config.views.overlap and self.programs.algorithm.graph.separable and not chooser
        self.judges = {name: rewards.make(name, dict(config.judges.get(name, {}))) for name in config.rewards}
        self.weights = {name: weight for name, weight in config.rewards.items() if weight}
        if not self.weights:
            raise UserError(f"config.rewards gives every judge the weight 0 ({', '.join(config.rewards)}); raise one")
        if config.eval.judge not in self.judges:
            raise UserError(f"config.eval.judge {config.eval.judge!r} is not among config.rewards: {', '.join(self.judges)}")
        held_out = load_prompts(config.prompts.eval, config.prompts.eval_count, held_out=True)
        if config.text.drop_encoders:
            captions = self.enhancer.known() if self.enhancer else []
            if captions is None:
                raise UserError("config.text.drop_encoders cannot be used with an enhancer that looks at the pictures")
            self.text.encode_all(self.prompts + held_out + captions)
        self.evaluation = evaluation.Evaluation(self.programs, held_out, self.text.encode, self.judges)
        transformer = self.pipeline.params.pop("transformer")
        # With adapters the base is frozen, and all that a state or a reference holds is adapters.
        self.frozen = transformer if self.programs.lora else None
        self.initial = export.starting_adapters(config, self.programs) if self.programs.lora else transformer
        # The reference policy of the KL term is the initial one; without the term nothing is kept.
        self.reference = jax.tree.map(jnp.copy, self.initial) if self.programs.algorithm.objective.reference else None

    def prepare(self, iteration: int, params, prompts: list[str], clock: Clock) -> tuple[Batch, dict[str, float], dict]:
        """Samples, views, rewards, advantages: the batch of an update, what to log, and the pictures."""
        programs = self.programs
        moment = programs.algorithm.schedule(iteration)
        with clock("text"):
            condition = self.text.encode(prompts)
        if programs.algorithm.chooser:
            trajectory, images, prompts, session = self.choose(iteration, params, condition, prompts, clock)
        else:
            session = self.begin(iteration, prompts)
            trajectory, images = self.draw(iteration, params, condition, session, clock, moment.shift)
        require_finite(images, "pictures", iteration, lambda i: f"prompt {prompts[i[0]]!r}")
        captions = [[[p] * images.shape[1] for p in prompts]]
        with clock("enhance"):
            if session:
                captions += session.collect()
        with clock("reward"):
            # A judge that does not train is asked about the prompt alone.
            scores = {n: j.score(images, captions if n in self.weights else captions[:1]) for n, j in self.judges.items()}
        for name, score in scores.items():
            require_finite(score, f"reward {name}", iteration, lambda i: f"caption {captions[i[0]][i[1]][i[2]]!r}")
        with clock("text"):
            views = self.text.encode_views(captions)
        active = np.asarray([[[t is not None for t in p] for p in view] for view in captions])
        trained = {n: jnp.asarray(scores[n]) for n in self.weights}
        key = programs.key(iteration, EXAMPLES)
        chosen = programs.examples(key, trajectory, trained, self.memory, moment.stage)
        view_weight = objectives.view_weights(active, self.config.views.aggregate)[..., None]  # [V, P, R, 1]
        batch = Batch(
            transitions=chosen.transitions,
            views=views,
            advantage=chosen.advantage,
            weight=jax.device_put(view_weight * chosen.weight, programs.batch(1)),
        )
        log = {f"reward/{n}": float(s[0].mean()) for n, s in scores.items()}
        log |= {f"reward_std/{n}": float(s[0].std(-1).mean()) for n, s in scores.items()}
        log |= {f"reward_captions_cut/{n}": float(j.captions_cut) for n, j in self.judges.items() if hasattr(j, "captions_cut")}
        for name in self.weights:
            log[f"reward_views/{name}"] = float(scores[name][active].mean())
            flat = scores[name].max(-1) - scores[name].min(-1) < 1e-6
            log[f"zero_std/{name}"] = float(flat[active].mean())
        log["advantage/abs"] = float(np.abs(hosts.to_host(chosen.advantage)).mean())
        log["views/active"] = float(active.sum(0).mean())
        log |= self.enhancer.log() if self.enhancer else {}
        if programs.algorithm.graph.moving:
            log["rollout/shift"] = float(moment.shift)
        return batch, log, {"images": images, "captions": captions, "scores": scores, "prompts": prompts}

    def begin(self, iteration: int, prompts: list[str]):
        """The captions' session of an iteration, None without an enhancer."""
        return self.enhancer.begin(iteration, prompts, self.programs.algorithm.graph.branches) if self.enhancer else None

    def choose(self, iteration: int, params, condition, prompts: list[str], clock: Clock):
        """Anchors of all prompts, and a rollout of those that the chooser keeps: (trajectory, pictures, prompts, session)."""
        programs, decoder = self.programs, self.pipeline.params["vae"]
        chooser, plan = programs.algorithm.chooser, programs.algorithm.graph
        keys = programs.key(iteration, ROLLOUT_NOISE), programs.key(iteration, ROLLOUT_STEPS)
        with clock("rollout"):
            trajectory, end = programs.anchor(params, condition, *keys, 0)
            images = hosts.to_host(programs.decode(decoder, end[:, None]))[:, :, :1]
        with clock("reward"):
            captions = [[[p] for p in prompts]]
            score = sum(w * self.judges[n].score(images, captions)[0, :, 0, 0] for n, w in self.weights.items())
            kept, self.memory = chooser.choose(score.reshape(-1, chooser.count), self.memory)
        rows = np.arange(len(kept)) * chooser.count + kept
        trajectory, condition = programs.keep((trajectory, condition), rows)
        prompts = [prompts[i] for i in rows]
        session = self.begin(iteration, prompts)
        with clock("rollout"):
            x0 = programs.finish(tuple(range(plan.branches)))(params, condition, trajectory.x0)
            jax.block_until_ready(x0)
        with clock("decode"):
            images = hosts.to_host(programs.decode(decoder, x0))
        for branch in range(images.shape[1]) if session else ():
            session.add(branch, images[:, branch])
        return trajectory._replace(x0=x0), images, prompts, session

    def draw(self, iteration: int, params, condition, session, clock: Clock, shift: int = 0) -> tuple[Trajectory, np.ndarray]:
        """The rollout and its pictures [P, R, S, H, W, 3], which the session gets too.

        Overlapped, every branch is finished and decoded by itself, the shortest first: the session has the pictures of one
        while the device works on the next.
        """
        programs, decoder = self.programs, self.pipeline.params["vae"]
        keys = programs.key(iteration, ROLLOUT_NOISE), programs.key(iteration, ROLLOUT_STEPS)
        if not self.overlap:
            with clock("rollout"):
                trajectory, _ = programs.rollout(params, condition, *keys, shift)
                jax.block_until_ready(trajectory.x0)
            with clock("decode"):
                images = hosts.to_host(programs.decode(decoder, trajectory.x0))
            for branch in range(images.shape[1]) if session else ():
                session.add(branch, images[:, branch])
            return trajectory, images
        with clock("rollout"):
            trajectory, _ = programs.anchor(params, condition, *keys, shift)
            ends, painted = {}, {}
            for branch in reversed(range(programs.algorithm.graph.branches)):
                ends[branch] = programs.finish((branch,))(params, condition, trajectory.x0[:, branch : branch + 1])[:, 0]
                painted[branch] = programs.decode(decoder, ends[branch])
            images = {}
            for branch, picture in painted.items():
                images[branch] = hosts.to_host(picture)
                session.add(branch, images[branch])
            order = sorted(ends)
            x0 = jax.device_put(jnp.stack([ends[b] for b in order], axis=1), programs.batch())
            return trajectory._replace(x0=x0), np.stack([images[b] for b in order], axis=1)

    def update(self, state, batch: Batch, iteration: int) -> tuple:
        """All passes over one rollout. Returns the new state and the metrics of every pass."""
        programs, count = self.programs, self.config.train.passes
        if needs_old(self.config, programs):
            batch = batch._replace(old=programs.old_densities(assemble(sampler_of(state), self.frozen), batch))
        history = []
        for _ in range(count):
            state, values = programs.update(state, self.reference, batch, self.frozen)
            history.append(values)
        if programs.algorithm.follow:
            state = programs.follow(state, np.float32(programs.algorithm.follow(iteration)))
        return state, history

    def weights_of(self, state):
        """The weights that evaluation and export use."""
        return state.params if state.ema is None else state.ema

    def evaluate(self, iteration: int, state, clock: Clock) -> dict[str, float]:
        with clock("eval"):
            policy = assemble(self.weights_of(state), self.frozen)
            images, scores = self.evaluation.run(policy, self.pipeline.params["vae"])
        found = {f"eval/{n}": float(s.mean()) for n, s in scores.items()}
        if not hosts.is_chief():
            return found
        folder = self.workdir / "eval"
        title = f"iteration {iteration}: " + ", ".join(f"{n} {s.mean():.3f}" for n, s in scores.items())
        evaluation.sheet(images, self.evaluation.prompts, scores, folder / f"{iteration:06d}.png", title)
        np.save(folder / f"{iteration:06d}.npy", pictures.to_uint8(images))
        (folder / "prompts.json").write_text(json.dumps(self.evaluation.prompts))
        return found

    def export(self, state, step: int, folder: Path) -> Path:
        """Writes the weights that evaluation uses; returns where."""
        return export.write(self.config, self.programs, self.weights_of(state), self.frozen, step, folder)


def require_finite(values: np.ndarray, what: str, iteration: int, where) -> None:
    """Stops the run at the first value that is not finite, and names it."""
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        raise UserError(
            f"iteration {iteration}: {what} not finite ({len(bad)} of {values.size} values, the first at {where(bad[0])}); "
            "stopped with the last checkpoint intact. Lower config.optimizer.learning_rate or look at that input"
        )


def finish_metrics(iteration: int, history: list[dict], log: dict[str, float]) -> dict[str, float]:
    """Fetches the metrics of an iteration's updates: the first one's ratio shows whether it was on-policy."""
    values = [{k: float(v) for k, v in jax.device_get(h).items()} for h in history]
    if any(v["non_finite"] for v in values):
        culprit = next(v for v in values if v["non_finite"])
        part = "loss" if not math.isfinite(culprit["loss"]) else "gradient"
        raise UserError(
            f"iteration {iteration}: the {part} is not finite (loss {culprit['loss']}, gradient norm {culprit['grad_norm']}, "
            f"largest ratio {culprit.get('ratio/max', 'none')}); the update was not applied and the last checkpoint is intact. "
            "Lower config.optimizer.learning_rate or raise precision (config.train.dtype=float32)"
        )
    last = {k: v for k, v in values[-1].items() if k != "non_finite"}
    if "ratio/min" in last:
        last["ratio/first_update_error"] = max(abs(values[0]["ratio/min"] - 1), abs(values[0]["ratio/max"] - 1))
    return log | last


def train(config, workdir: str | Path) -> Path:
    """Runs a config to its end, or goes on with the run in `workdir`. Returns the folder of the trained pipeline."""
    workdir = Path(workdir)
    with checkpoint.claim(workdir, json.loads(config.to_json_best_effort())):
        (workdir / "eval").mkdir(exist_ok=True)
        run = Run(config, workdir)
        try:
            with jax.set_mesh(run.mesh):
                return loop(run)
        finally:
            if run.enhancer:
                run.enhancer.close()


def loop(run: Run) -> Path:
    config, workdir, programs = run.config, run.workdir, run.programs
    # --- state -----------------------------------------------------------------------------------------------------
    store = checkpoint.Checkpoints(workdir, config.checkpoint.keep)
    start = store.latest() or 0
    best = -math.inf
    if start:
        shapes = jax.eval_shape(programs.updater.init, run.initial)
        state, saved = store.restore(start, checkpoint.abstract(shapes, programs.state_shardings))
        run.stream.set_state(saved["stream"])
        best = saved["best"] if saved["best"] is not None else -math.inf
        run.memory = None if saved["memory"] is None else np.asarray(saved["memory"], np.float32)
        say(f"going on from iteration {start}")
    else:
        state = programs.init(run.initial)
        plan = budget.of(config, programs)
        say(plan.describe(config.algorithm.name, list(run.mesh.devices.flat)))
    run.initial = None  # the state holds it now
    writer = metrics.Writer(workdir, start)
    stop = interrupted()

    def saved() -> dict:
        memory = None if run.memory is None else np.asarray(run.memory).tolist()
        return {"stream": run.stream.get_state(), "best": best if math.isfinite(best) else None, "memory": memory}

    # --- iterations --------------------------------------------------------------------------------------------------
    span = range(start, config.iterations)
    bar = tqdm(span, initial=start, total=len(span) + start, desc=config.algorithm.name, disable=not hosts.is_chief())
    pending = None
    for iteration in bar:
        clock, began = Clock(), time.perf_counter()
        scores = {}
        if iteration % config.eval.every == 0 and iteration >= start:
            scores = run.evaluate(iteration, state, clock)
            if scores[f"eval/{config.eval.judge}"] > best and iteration:
                best = scores[f"eval/{config.eval.judge}"]
                store.save_best(iteration, state, saved())
        before = saved()
        prompts = [str(p) for p in next(run.stream)]
        try:
            batch, log, shown = run.prepare(iteration, assemble(sampler_of(state), run.frozen), prompts, clock)
        except enhancers.Outage:
            if pending and store.latest() != iteration:  # nothing that was trained is lost, and this batch comes again
                flush(writer, bar, *pending)
                store.save(iteration, state, before)
            store.wait()
            raise
        state, history = run.update(state, batch, iteration)
        if pending:
            flush(writer, bar, *pending)
        if iteration % config.log.images_every == 0 and hosts.is_chief():
            draw_groups(workdir / "samples" / f"{iteration:06d}.png", iteration, shown)
        log |= scores | clock.spent | {"time/iteration": time.perf_counter() - began}
        pending = (iteration, history, log)
        done = iteration + 1
        leave = hosts.agree(bool(stop))  # all processes stop after the same iteration
        if done % config.checkpoint.every == 0 or done == config.iterations or leave:
            flush(writer, bar, *pending)  # a state whose update failed is never saved
            pending = None
            store.save(done, state, saved())
            if config.export.at_checkpoints and done < config.iterations:
                run.export(state, done, workdir / "exports" / f"{done:06d}")
        if leave:
            store.wait()
            raise UserError(f"stopped by a signal after iteration {done}, all saved; run the same command to go on")
    # --- end ---------------------------------------------------------------------------------------------------------
    clock = Clock()
    final = run.evaluate(config.iterations, state, clock)
    if hosts.is_chief() and not [r for r in metrics.read(workdir) if r["iteration"] == config.iterations]:
        writer.write(config.iterations, final | clock.spent)
    store.wait()
    store.close()
    writer.close()
    folder = run.export(state, config.iterations, workdir)
    if hosts.is_chief():
        page = report.write([workdir])
        say(f"trained weights: {folder}\npictures: {workdir / 'eval'}, {workdir / 'samples'}\nreport: {page}")
    return folder


def say(text: str) -> None:
    """Prints once, however many processes there are."""
    if hosts.is_chief():
        print(text)


def flush(writer: metrics.Writer, bar, iteration: int, history: list[dict], log: dict[str, float]) -> None:
    """Writes an iteration's metrics once the next one is under way."""
    values = finish_metrics(iteration, history, log)
    writer.write(iteration, values)
    shown = {k.removeprefix("reward/"): f"{v:.4f}" for k, v in values.items() if k.startswith("reward/")}
    if values.get("enhancer/wait_s", 0.0) >= 0.05:
        shown["captions waited for"] = f"{values['enhancer/wait_s']:.1f} s"
    bar.set_postfix(shown)


def interrupted() -> list:
    """An empty list, which fills when the process is asked to stop: the loop then saves before it ends."""
    asked: list[int] = []
    with contextlib.suppress(ValueError):  # signals can be handled in the main thread only
        signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    return asked


def draw_groups(path: Path, iteration: int, shown: dict) -> None:
    """The groups of the first branch: each picture with the caption of its view and its reward under the prompt. Beside the
    picture a JSON file has every caption of every branch and its mean reward over the group."""
    images, captions, scores, prompts = (shown[k] for k in ("images", "captions", "scores", "prompts"))
    rows, titles, table = [], [], []
    for v, p, r in np.ndindex(len(captions), len(prompts), images.shape[1]):
        means = {n: round(float(s[v, p, r].mean()), 5) for n, s in scores.items() if v < len(s)}
        table.append({"prompt": prompts[p], "branch": r, "view": v, "caption": captions[v][p][r], "reward": means})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps({"iteration": iteration, "captions": table}, indent=1) + "\n")
    for p, prompt in enumerate(prompts[:4]):
        titles.append(f"prompt: {prompt}")
        row = []
        for g in range(images.shape[2]):
            numbers = ", ".join(f"{n} {s[0, p, 0, g]:.2f}" for n, s in scores.items())
            view = captions[g + 1][p][0] if len(captions) > g + 1 else None  # view g + 1 describes sample g
            row.append((images[p, 0, g], f"[{numbers}] {view or ''}"))
        rows.append(row)
    pictures.sheet(rows, path, titles=titles, title=f"iteration {iteration}", cell=96)

"""Probability drift: how much likelier a recorded step is under its prompt than under another caption (MV-GRPO, Fig. 5).

For pairs of a sample and a further caption c_k: |log p(x_{t-1} | x_t, c) - log p(x_{t-1} | x_t, c_k)| at every trained step,
with captions of the sampled pictures (online), of a file (offline) and, as a control, those of other prompts (unrelated).
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mvgrpo_jax import enhancers
from mvgrpo_jax.convert.files import atomic
from mvgrpo_jax.core.policy import assemble
from mvgrpo_jax.core.structs import Batch
from mvgrpo_jax.enhancers import FileEnhancer
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.prompts import stream
from mvgrpo_jax.run import trained
from mvgrpo_jax.run.build import Run, build
from mvgrpo_jax.run.drawing import Begun, begin_captions, draw, hand_over
from mvgrpo_jax.run.metrics import Clock
from mvgrpo_jax.run.programs import sampler_of

FIELDS = ("kind", "iteration", "prompt", "step", "sample", "view", "drift")


def drifts(run: Run, params, transitions, captions) -> np.ndarray:
    """[K, P, B, G] of captions [K][P][R] against the prompt, captions[0]; NaN where a caption is missing."""
    views = run.text.encode_views(captions)
    shape = (run.programs.views, *transitions.log_prob.shape)
    batch = Batch(transitions, views, jnp.zeros(shape), jnp.zeros(shape))
    log_prob = np.asarray(run.programs.old_densities(params, batch).log_prob)[: len(captions), :, :, 0]
    known = np.array([[[t is not None for t in texts] for texts in view] for view in captions])[1:]
    return np.where(known[..., None], np.abs(log_prob[1:] - log_prob[:1]), np.nan)


def collect(run: Run, params, pairs: int, offline: FileEnhancer | None, views: int) -> list[dict]:
    """Rows of FIELDS, at least `pairs` for each kind and trained step."""
    programs, graph = run.programs, run.programs.algorithm.graph
    rows, iteration = [], 0
    batches = stream(run.prompts, run.config.prompts_per_iteration, run.config.seed, run.shares)
    kinds = ("online", "unrelated", *["offline"] * (offline is not None))
    if any(draws != graph.group for draws in graph.draws):
        raise UserError(f"{run.config.algorithm.name} has no drift by step: the edges of a tree are not recorded step by step")
    counts = dict.fromkeys([(kind, b) for kind in kinds for b in range(len(graph.trained))], 0)
    while min(counts.values()) < pairs:
        prompts = [str(p) for p in next(batches)]
        condition = run.text.encode_prompts(prompts)
        shift = programs.algorithm.schedule(iteration).shift
        session = begin_captions(run, iteration, prompts)
        trajectory, decoded = draw(run, iteration, params, condition, Clock(), shift)
        hand_over(run, iteration, Begun(prompts, trajectory, decoded, session), Clock())
        base = [[[p] * graph.branches for p in prompts]]
        online = enhancers.collect(session, graph.branches)
        texts = {"online": online, "unrelated": [view[1:] + view[:1] for view in online]}
        if offline:
            texts["offline"] = enhancers.collect(
                offline.begin(iteration, prompts, graph.branches, graph.pictures), graph.branches
            )
        rng = np.random.default_rng([run.config.seed, iteration])
        for kind, captions in texts.items():
            chosen = [captions[k] for k in np.sort(rng.permutation(len(captions))[:views])]
            for place, value in np.ndenumerate(drifts(run, params, trajectory.transitions, base + chosen)):
                if np.isfinite(value):
                    k, p, b, i = place
                    counts[kind, b] += 1
                    row = (kind, iteration, prompts[p], graph.trained[b] + shift, i, k, float(value))
                    rows.append(dict(zip(FIELDS, row)))
        iteration += 1
    return rows


def summary(rows: list[dict]) -> dict[str, dict[str, dict[str, float]]]:
    """{kind: {step: number of pairs and quantiles of the drift}}."""
    out: dict = {}
    for kind in sorted({r["kind"] for r in rows}):
        for step in sorted({r["step"] for r in rows}):
            values = np.array([r["drift"] for r in rows if (r["kind"], r["step"]) == (kind, step)])
            if len(values):
                points = {f"p{q}": float(np.percentile(values, q)) for q in (50, 90, 99)}
                out.setdefault(kind, {})[str(step)] = {"pairs": len(values), "mean": float(values.mean()), **points}
    return out


def write(rows: list[dict], out: Path, title: str) -> dict[str, dict[str, dict[str, float]]]:
    """Writes rows of FIELDS to drift.csv, their `summary` to drift.json and a histogram under a title to drift.png; returns
    the summary."""
    with atomic(out / "drift.csv") as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows)
    quantiles = summary(rows)
    (out / "drift.json").write_text(json.dumps(quantiles, indent=1) + "\n")
    histogram(rows, out / "drift.png", title)
    return quantiles


def table(quantiles: dict[str, dict[str, dict[str, float]]]) -> str:
    """A `summary` for people: a line a kind and step."""
    lines = [f"{'captions':<11}{'step':>5}{'pairs':>7}{'mean':>10}{'median':>10}{'90 %':>10}{'99 %':>10}"]
    for kind, by_step in quantiles.items():
        for step, v in by_step.items():
            numbers = "".join(f"{v[name]:>10.2e}" for name in ("mean", "p50", "p90", "p99"))
            lines.append(f"{kind:<11}{step:>5}{v['pairs']:>7}{numbers}")
    return "\n".join(lines)


def histogram(rows: list[dict], path: Path, title: str) -> None:
    """A panel a step; shares of pairs over the drift, on a logarithmic axis, a line a kind."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    steps = sorted({r["step"] for r in rows})
    values = np.array([r["drift"] for r in rows])
    edges = np.geomspace(max(values[values > 0].min(initial=1.0), 1e-8), max(values.max(), 1e-7), 41)
    figure, panels = plt.subplots(1, len(steps), figsize=(3.6 * len(steps), 3.2), sharey=True, squeeze=False)
    for panel, step in zip(panels[0], steps):
        for kind in sorted({r["kind"] for r in rows}):
            drifts_here = np.array([r["drift"] for r in rows if (r["kind"], r["step"]) == (kind, step)])
            if len(drifts_here):
                panel.hist(
                    drifts_here,
                    edges,
                    weights=np.full(len(drifts_here), 1 / len(drifts_here)),
                    histtype="step",
                    label=kind,
                    linewidth=1.6,
                )
        panel.set(xscale="log", title=f"step {step}", xlabel="|log p(.|c) - log p(.|c_k)|")
    panels[0, 0].set_ylabel("share of pairs")
    panels[0, 0].legend()
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def measure(
    config, out: Path, pairs: int, views: int, offline_file: str = "", trained_in: Path | None = None, *, best: bool = False
) -> list[dict]:
    """Rows of FIELDS for a config's policy, or for the policy that the newest checkpoint of the workdir `trained_in` samples
    with; best: for the weights that its evaluation liked most. Raises UserError."""
    if config.views.enhancer not in ("embedded", "vlm"):
        raise UserError("drift needs captions of pictures: set config.views.enhancer to embedded or vlm")
    if config.views.count < 1:
        config.views.count = config.group_size
    config.train.view_chunk = min(config.train.view_chunk, 1)  # not as many views are compared as are trained
    out.mkdir(parents=True, exist_ok=True)
    run, initial = build(config)
    try:
        offline = FileEnhancer.load(offline_file, views, config.seed, run.prompts) if offline_file else None
        if run.programs.algorithm.objective.density is None:
            raise UserError(f"{config.algorithm.name} has no transition densities to compare")
        with jax.set_mesh(run.mesh):
            weights = initial
            if trained_in:
                weights = trained.weights_of(trained_in, run.programs, initial, best=best, of=sampler_of)[1]
            return collect(run, assemble(weights, run.frozen), pairs, offline, views)
    finally:
        run.close()

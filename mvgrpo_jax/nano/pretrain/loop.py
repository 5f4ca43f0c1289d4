"""The optimisation loop that every pretraining stage shares: AdamW, cosine decay, weight averaging, log, resume."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import serialization
from optax import contrib
from tqdm import tqdm

from mvgrpo_jax.convert.files import atomic
from mvgrpo_jax.core import seeds
from mvgrpo_jax.models.module import Params


def average_decay(step: jax.Array, decay: float) -> jax.Array:
    """The decay of the weight average, small at first so that the initial weights are forgotten."""
    return jnp.minimum(decay, (1.0 + step) / (10.0 + step))


def matrices(params: Params) -> Params:
    """Which leaves Muon orthogonalises: kernels of linear layers, stacked ones matrix by matrix; None for the others."""

    def of(path, leaf):
        is_matrix = path[-1].key == "kernel" and leaf.ndim <= 3
        return contrib.MuonDimensionNumbers(leaf.ndim - 2, leaf.ndim - 1) if is_matrix else None

    return jax.tree_util.tree_map_with_path(of, params)


def train(
    name: str,
    params: Params,
    loss_fn: Callable,
    batch_fn: Callable[[int, np.random.Generator], tuple],
    *,
    steps: int,
    learning_rate: float,
    seed: int,
    folder: Path,
    decay: float = 0.999,
    weight_decay: float = 0.01,
    orthogonal: bool = False,
    save_every: int = 500,
    on_save: Callable[[int, Params], None] | None = None,
) -> Params:
    """Minimises loss_fn(params, average, step, key, *batch) -> (loss, metrics); returns the averaged parameters.

    batch_fn(step, rng) makes the arrays of a step. Batches and noise depend on (seed, step) alone, so a run that was
    stopped goes on from `folder`/NAME.state as if it had not been. The log is `folder`/NAME.csv.
    """
    schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, min(100, steps // 10 + 1), steps, learning_rate / 50)
    if orthogonal:
        rule = contrib.muon(
            schedule,
            weight_decay=weight_decay,
            adam_b2=0.99,
            adam_weight_decay=weight_decay,
            consistent_rms=0.2,
            muon_weight_dimension_numbers=matrices,
        )
    else:
        rule = optax.adamw(schedule, 0.9, 0.99, weight_decay=weight_decay)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), rule)
    state = (params, optimizer.init(params), params)
    start, saved = 0, folder / f"{name}.state"
    if saved.exists():
        stored = serialization.msgpack_restore(saved.read_bytes())
        start = int(stored["step"])
        state = jax.tree.unflatten(jax.tree.structure(state), [jnp.asarray(x) for x in stored["leaves"].values()])

    def step_fn(state, step, batch):
        params, opt_state, average = state
        key = jax.random.fold_in(seeds.key(seed), step)
        (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, average, step, key, *batch)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        d = average_decay(step, decay)
        average = jax.tree.map(lambda a, p: d * a + (1 - d) * p, average, params)
        return (params, opt_state, average), {"loss": loss, **metrics}

    step_fn = jax.jit(step_fn, donate_argnums=0)
    state = jax.tree.map(jnp.copy, state)  # the average starts as the parameters, and a buffer is donated only once
    log_path, rows, began = folder / f"{name}.csv", [], time.time()
    if start and log_path.exists():
        rows = [r for r in csv.DictReader(log_path.open()) if int(r["step"]) < start]
    bar = tqdm(range(start, steps), initial=start, total=steps, desc=name, mininterval=5)
    for step in bar:
        batch = batch_fn(step, np.random.default_rng([seed, 2, step]))
        state, metrics = step_fn(state, jnp.asarray(step), batch)
        if step % 50 == 49 or step + 1 == steps:
            values = {k: float(v) for k, v in metrics.items()}
            rows.append({"step": step, **{k: f"{v:.5f}" for k, v in values.items()}, "seconds": f"{time.time() - began:.0f}"})
            bar.set_postfix({k: f"{v:.4f}" for k, v in values.items()})
        if step % save_every == save_every - 1 or step + 1 == steps:
            leaves = {f"{i:05d}": np.asarray(x) for i, x in enumerate(jax.tree.leaves(state))}
            _save(saved, {"step": step + 1, "leaves": leaves})
            _write_log(log_path, rows)
            if on_save:
                on_save(step + 1, state[2])
    return state[2]


def _save(path: Path, item: dict) -> None:
    part = path.with_suffix(".part")
    part.write_bytes(serialization.msgpack_serialize(item))
    os.replace(part, path)


def _write_log(path: Path, rows: list[dict]) -> None:
    with atomic(path) as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[-1]))
        writer.writeheader()
        writer.writerows(rows)

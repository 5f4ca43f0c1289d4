"""Trained weights out of a workdir: of a checkpoint, or the best ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from mvgrpo_jax import pipelines
from mvgrpo_jax.convert.files import read_json
from mvgrpo_jax.core.precision import dtype_of
from mvgrpo_jax.core.structs import TrainState
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.models.module import Params
from mvgrpo_jax.parallel import hosts
from mvgrpo_jax.run import checkpoint
from mvgrpo_jax.run.programs import Programs, averaged, network_options


class Trained(NamedTuple):
    """config: the run's. step: finished iterations of the weights. weights: what evaluation uses, adapters alone where those
    are trained. base: what is beneath adapters, else None."""

    config: Any
    programs: Programs
    step: int
    weights: Params
    base: Params | None


def read(workdir: Path, mesh, *, step: int | None = None, best: bool = False, dtype: Any = None) -> Trained:
    """Weights of a run on any mesh: of its newest checkpoint that is whole, of the checkpoint of an iteration, or the best.
    dtype: of all weights and of the arithmetic; None: as they are trained and frozen. UserError when they are not there, or
    for both."""
    config = ConfigDict(read_json(workdir / "config.json"))
    kept(workdir, step, best).close()  # before the pipeline is read
    if dtype:
        config.train.dtype = np.dtype(dtype).name
    dtypes = dict.fromkeys(pipelines.WEIGHTS, dtype or dtype_of(config.train.frozen_dtype))
    pipeline = pipelines.load(config.pipeline, dtype=dtypes, mesh=mesh, **network_options(config, jax.devices()[0].platform))
    programs = Programs.build(config, pipeline, mesh)
    base = pipeline.params.pop("transformer")
    trained_dtype = np.float32 if programs.lora else dtype_of(config.train.param_dtype)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, trained_dtype), programs.trained_shapes)
    found, weights = weights_of(workdir, programs, shapes, step=step, best=best)
    if dtype:
        weights = jax.tree.map(lambda x: x.astype(dtype), weights)
    return Trained(config, programs, found, weights, base if programs.lora else None)


def kept(workdir: Path, step: int | None, best: bool) -> checkpoint.Series:
    """The checkpoints among which the wanted one is. UserError when it is not."""
    if best and step is not None:
        raise UserError("the best weights and those of an iteration were asked for; give one of --best and --step")
    folder = workdir / ("best" if best else "checkpoints")
    there = hosts.decide(lambda: checkpoint.steps(folder))
    if not there or step not in (None, *there):
        what = "best weights" if best else "checkpoint" if step is None else f"checkpoint of iteration {step}"
        raise UserError(f"{workdir} keeps no {what}; there are: {', '.join(map(str, sorted(there))) or 'none'}")
    return checkpoint.Series(folder, 1)


def weights_of(
    workdir: Path,
    programs: Programs,
    shapes: Params,
    *,
    step: int | None = None,
    best: bool = False,
    of: Callable[[TrainState], Params] = averaged,
) -> tuple[int, Params]:
    """(iteration, weights) on the programs' mesh. shapes: of what is trained. of: which weights of a checkpoint's state are
    meant, those that evaluation uses or those that sample. Other arguments and errors as `read`."""
    series = kept(workdir, step, best)
    state = jax.eval_shape(programs.updater.init, shapes)
    wanted = checkpoint.abstract(state, programs.state_shardings)
    if best:
        wanted = averaged(wanted)
    try:
        found = series.newest(wanted) if step is None else (step, *series.restore(step, wanted))
    finally:
        series.close()
    if not found:
        raise UserError(f"{series.folder}: nothing there was ever finished; let the run go on to its first checkpoint")
    step, state, _ = found
    return step, state if best else of(state)

"""What a run will have on its disk at most, counted before it begins; and what is said when the disk is full all the same."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp

from mvgrpo_jax import pipelines
from mvgrpo_jax.core.precision import dtype_of
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.run import budget
from mvgrpo_jax.run.programs import Programs, averaged
from mvgrpo_jax.storage import is_remote

MIB, GIB = 2**20, 2**30
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
TEXT = 1024  # bytes of a prompt or caption in a file, generously
LINE = 4096  # of an iteration in metrics.jsonl
TRACKED = 32 * 1024  # of an iteration's numbers in a tracker's files
SHOWN = 16 * 512 * 512 * 3  # of an evaluation's pictures in a tracker's files
CELL, COLUMNS = 112 + 100, 8  # pixels of a picture with its label on a sheet, at most; pictures in a row of an evaluation's
REPORT = 16 * MIB  # with before_after.png, of 16 pairs whatever the run


def predicted(config, programs: Programs, held_out: int) -> dict[str, int]:
    """Bytes by kind, at most. held_out: prompts of an evaluation. What config.text.folder keeps has a bound of its own, and
    traces of config.profile are not counted."""
    trained = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32 if programs.lora else dtype_of(config.train.param_dtype)),
        programs.trained_shapes,
    )
    state = jax.eval_shape(programs.updater.init, trained)
    saved, best = with_overhead(state), with_overhead(averaged(state))
    saves = config.iterations // config.checkpoint.every if config.checkpoint.every else 0
    evaluations = config.iterations // config.eval.every + 2 if config.eval.every else 0
    sheets = config.iterations // config.log.images_every + 1 if config.log.images_every else 0
    exports = 1 + (saves if config.export.at_checkpoints else 0)
    graph, views, prompts = programs.algorithm.graph, budget.views(config), config.prompts_per_iteration
    pixels = programs.policy.tokens * programs.pipeline.pixels_per_token**2
    texts = views * prompts * graph.branches * (TEXT + 32 * len(config.rewards))
    # The newest is complete before the oldest is deleted.
    checkpoints = saved * min(config.checkpoint.keep + 1, saves + 1)
    return {
        "checkpoints": checkpoints,
        "best": best * min(2, evaluations),
        "exports": exports * exported(config, programs),
        "evaluations": evaluations * (held_out * (pixels * 3 + TEXT) + sheet(held_out, COLUMNS) + SHOWN),
        "samples": sheets * (sheet(4 * graph.pictures, graph.pictures) + texts),
        "numbers": config.iterations * (LINE + TRACKED * len(config.log.trackers)),
        "report": REPORT,
    }


def with_overhead(tree) -> int:
    """Bytes of arrays in a checkpoint: compressed they are no larger, and what stands beside them takes a few KiB an array."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(x.shape) * x.dtype.itemsize + 4096 for x in leaves) + MIB


def sheet(count: int, columns: int) -> int:
    """Bytes of a contact sheet that cannot be compressed."""
    return 3 * CELL * CELL * -(-count // columns) * columns


def exported(config, programs: Programs) -> int:
    """Bytes of an export: of adapters both files, of a pipeline all its networks; one file of it may be there twice."""
    dtype = jnp.dtype(dtype_of(config.export.dtype)) if config.export.dtype else None
    if (config.export.kind or ("lora" if programs.lora else "pipeline")) == "lora":
        return 2 * sum(math.prod(x.shape) * 4 for x in jax.tree.leaves(programs.trained_shapes)) + MIB
    total = 4 * MIB  # configs and tokenizers
    for name in pipelines.WEIGHTS:
        item = 4 if name == "transformer" else jnp.dtype(dtype_of(config.train.frozen_dtype)).itemsize
        shapes = jax.tree.leaves(getattr(programs.pipeline, name).shapes)
        total += sum(math.prod(x.shape) for x in shapes) * (dtype.itemsize if dtype else item)
    return total


def describe(bytes_of: dict[str, int]) -> str:
    parts = ", ".join(f"{name} {size / GIB:.3g}" for name, size in bytes_of.items() if size)
    return f"disk: at most {sum(bytes_of.values()) / GIB:.3g} GiB ({parts})"


def warn_if_short(bytes_of: dict[str, int], workdir: Path) -> None:
    """Warns where the disk of a workdir has less free than may be needed."""
    if is_remote(workdir):
        return
    free, needed = shutil.disk_usage(workdir).free, sum(bytes_of.values()) - used(workdir)
    if free < needed:
        warnings.warn(
            f"{workdir} may need {needed / GIB:.3g} GiB more, {free / GIB:.3g} GiB are free; lower config.checkpoint.keep, set "
            "config.export.at_checkpoints=False or make room",
            stacklevel=2,
        )


@contextlib.contextmanager
def explained(workdir: Path) -> Iterator[None]:
    """Makes a UserError of a full disk, wherever a run meets it."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise UserError(
            f"{error.filename or workdir}: could not be written ({error.strerror}); free some space and run the same command "
            "again, it goes on from the last checkpoint"
        ) from error


def used(folder: Path) -> int:
    """Bytes of the files in a folder, some of which may come and go meanwhile."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(os.path.join(root, name)).st_size
    return total

"""What changes as a run goes on, and where it begins: at a checkpoint, or anew."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mvgrpo_jax.configuration import continuation
from mvgrpo_jax.core.structs import TrainState
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.models.module import Params
from mvgrpo_jax.parallel import hosts
from mvgrpo_jax.parallel.hosts import say
from mvgrpo_jax.prompts import stream, streaming
from mvgrpo_jax.run import checkpoint
from mvgrpo_jax.run.build import Run


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

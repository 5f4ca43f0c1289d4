"""The run that bench/chaos.py strikes: flux-nano at its smallest, which says on a file where it is."""

from __future__ import annotations

import os
import time
from pathlib import Path

ITERATIONS = 6
# Where a run can be struck; what it does in the background, the writing of a checkpoint, lies between "checkpoint" and "seal".
PLACES = ("rollout", "captions", "judge", "update", "checkpoint", "seal", "evaluation", "export")


def config_of(processes: int, iterations: int = ITERATIONS, captioner: str = "", judge: str = ""):
    """Two prompts, two samples, two views; a checkpoint after each iteration, an evaluation before each third.

    captioner, judge: the addresses of servers, '' for the embedded ones; a run that does not get all that it asks them for
    ends, so that none goes on with fewer captions or scores than another."""
    from tests.runs import small_config

    c = small_config(iterations=iterations, group_size=2)
    c.views.count, c.checkpoint.every, c.checkpoint.keep = 1, 1, 2
    c.eval.every, c.prompts.eval_count, c.log.images_every = 3, 2, 2
    c.export.dtype, c.watch.silence_s, c.mesh.fsdp = "float32", 6.0, processes
    if captioner:
        c.views.enhancer, c.views.missing, c.views.image.size = "vlm", "stop", 16
        brief = {"attempt_s": 2.0, "request_s": 6.0, "batch_s": 8.0, "retries": 3, "backoff_s": 0.2, "cooldown_s": 1.0}
        c.views.service.update({"endpoints": (captioner,), "model": "m", **brief})
        c.judges.scene = {"kind": "http", "endpoints": (judge,), "on_failure": "stop", **brief}
    return c


def main(workdir: str, marks: str, iterations: str, *servers: str) -> None:
    """Runs, or goes on. marks: a file for each process, MARKS.0, ..., that gets 'PLACE TIME' when a place is entered."""
    import jax

    from mvgrpo_jax.enhancers.online import OnlineSession
    from mvgrpo_jax.errors import reports_errors
    from mvgrpo_jax.rewards import Panel
    from mvgrpo_jax.run import checkpoint, drawing, export, integrity, iteration, loop
    from mvgrpo_jax.run.evaluation import Evaluation

    out = os.open(f"{marks}.{jax.process_index()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def marked(owner, attribute: str, name: str) -> None:
        real = getattr(owner, attribute)

        def run(*args, **kwargs):
            os.write(out, f"{name} {time.time():.4f}\n".encode())
            return real(*args, **kwargs)

        setattr(owner, attribute, run)

    marked(drawing, "begin", "rollout")
    marked(OnlineSession, "captions", "captions")
    marked(Panel, "begin", "judge")
    marked(iteration, "update", "update")
    marked(checkpoint.Series, "save", "checkpoint")
    marked(integrity, "write_list", "seal")
    marked(Evaluation, "run", "evaluation")
    marked(export, "write", "export")
    config = config_of(jax.process_count(), int(iterations), *servers)
    reports_errors(loop.train)(config, Path(workdir))

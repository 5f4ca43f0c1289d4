"""Small runs on the embedded pipeline, and what their checkpoints hold."""

from pathlib import Path

import jax
import numpy as np

from configs import flux_nano
from mvgrpo_jax import pipelines
from mvgrpo_jax.parallel.mesh import make_mesh
from mvgrpo_jax.run import checkpoint, metrics, programs


def small_config(**changes):
    """Two trained steps, three samples, two captions, two prompts: seconds an iteration."""
    c = flux_nano.get_config()
    c.iterations, c.prompts_per_iteration, c.group_size = 4, 2, 3
    c.views.count = 2
    c.sampling.steps, c.algorithm.mvgrpo.trained_steps = 4, (0, 1)
    c.eval.every, c.eval.steps, c.prompts.eval_count = 2, 2, 3
    c.checkpoint.every = 2
    c.ema.decay = 0.5
    c.optimizer.learning_rate = 1e-3
    c.rewards.clip = 1.0
    c.log.trackers = ()  # TensorFlow alone is seconds of a process
    c.update(changes)
    return c


def leaves(workdir, step, config):
    """Every array of a checkpoint."""
    pipeline = pipelines.load(config.pipeline, dtype=np.float32)
    mesh = make_mesh()
    built = programs.Programs.build(config, pipeline, mesh)
    shapes = jax.eval_shape(built.updater.init, pipeline.params["transformer"])
    store = checkpoint.Checkpoints(Path(workdir), 3)
    state, data = store.restore(step, checkpoint.abstract(shapes, built.state_shardings))
    return [np.asarray(x) for x in jax.tree.leaves(state)], data


def numbers(workdir):
    """The metrics of a run without its times."""
    return [
        {k: v for k, v in row.items() if not k.startswith(("time/", "memory/")) and not k.endswith("_s")}
        for row in metrics.read(workdir)
    ]

"""MV-GRPO on the embedded pipeline: the laptop run behind `make demo`.

    python -m mvgrpo_jax.main --config=configs/flux_nano.py --workdir=runs/nano

Hardware: 2 CPU cores. Group, guidance, shift, noise level and K = G are the paper's and its authors'; the number of
steps, the trained steps, the learning rate and the batch are ours, chosen for a small model.
"""

from configs import common


def get_config():
    c = common.get_config()
    c.iterations = 60
    c.prompts_per_iteration = 4
    c.sampling.steps = 10
    c.sampling.trained_steps = (0, 2, 4)
    c.optimizer.learning_rate = 1e-4
    c.checkpoint.every = 20
    c.eval.every = 20
    c.eval.steps = 10
    return c

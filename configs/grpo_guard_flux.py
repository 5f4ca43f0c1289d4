"""GRPO-Guard on FLUX.1-dev (arXiv 2510.22319).

    python -m mvgrpo_jax.main --config=configs/grpo_guard_flux.py --workdir=DIR \
        --config.pipeline=/data/FLUX.1-dev --config.prompts.train=train.txt --config.prompts.eval=eval.txt

Its authors published SD3.5-M: 16 GPUs, G 24, learning rate 1e-4, clip 2e-6 (4e-6 for PickScore), deviation of the group, no KL,
two updates a rollout, average of weights. The rest is configs/flow_grpo_flux.py: ours. Not run here at this size;
configs/flux_nano.py with --config.algorithm.name=grpo_guard is.
"""

from configs import flow_grpo_flux


def get_config():
    c = flow_grpo_flux.get_config()
    c.algorithm.name = "grpo_guard"
    c.optimizer.learning_rate = 1e-4
    return c

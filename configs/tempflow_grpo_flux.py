"""TempFlow-GRPO on FLUX.1-dev (arXiv 2508.04324), its authors' set-up.

    python -m mvgrpo_jax.main --config=configs/tempflow_grpo_flux.py --workdir=DIR \
        --config.pipeline=/data/FLUX.1-dev --config.prompts.train=train.txt --config.prompts.eval=eval.txt

Theirs: 8 GPUs, 1024 px, 10 steps of diffusers' schedule, 4 seeds of 6 draws a prompt, 48 prompts, KL weight 0.004, clip 1e-4,
gradient checkpointing, HPSv3. Adapters as in configs/flow_grpo_flux.py, on whose code theirs is built. The judge is read from
--config.judges.hpsv3.folder and base (configs/mvgrpo_flux_hpsv3.py). Ours: noise level 0.9, at which their kappa 1.73 is the
mean that they say it is. Not run here at this size; configs/flux_nano.py with --config.algorithm.name=tempflow_grpo is.
"""

from configs import common, flow_grpo_flux


def get_config():
    c = flow_grpo_flux.get_config()
    c.algorithm.name = "tempflow_grpo"
    common.judged_by(c, hpsv3=1.0)
    c.image.height = c.image.width = 1024
    c.sampling.steps = 10
    c.eval.steps = 50
    c.train.minibatches = 1
    return c

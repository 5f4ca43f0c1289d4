"""Granular-GRPO on FLUX.1-dev (arXiv 2510.01982), its authors' full fine-tuning.

    python -m mvgrpo_jax.main --config=configs/granular_grpo_flux.py --workdir=DIR \
        --config.pipeline=/data/FLUX.1-dev --config.prompts.train=train.txt --config.prompts.eval=eval.txt

Theirs: 16 GPUs with a prompt each, 720 px, 16 steps, shift 3, eta 0.7, the first 8 steps singular, strides 1 and 2, G 12, an
optimiser step for each trained step, learning rate 2e-6, 301 iterations, HPSv2.1 + CLIP. The judges are read from
--config.judges.hpsv2.weights and base and --config.judges.clip.folder (docs/judges.md). Not run here at this size;
configs/flux_nano.py with --config.algorithm.name=granular_grpo is.
"""

from configs import common, mvgrpo_flux


def get_config():
    c = mvgrpo_flux.get_config()
    c.algorithm.name = "granular_grpo"
    common.judged_by(c, hpsv2=1.0, clip=1.0)
    c.iterations = 301
    c.prompts_per_iteration = 16
    c.image.height = c.image.width = 720
    c.train.update_per = "timestep"
    return c

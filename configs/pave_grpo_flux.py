"""Pave-GRPO on FLUX.1-dev (Bujiazi/GRPO-Series), its authors' full fine-tuning.

    python -m mvgrpo_jax.main --config=configs/pave_grpo_flux.py --workdir=DIR \
        --config.pipeline=/data/FLUX.1-dev --config.prompts.train=train.txt --config.prompts.eval=eval.txt

Theirs: 8 GPUs with a prompt each, 512 px, 16 steps, S = 0, 2, 4, 6, eta 0.8, segments 2 and 3, G 12, learning rate 2e-6, T5
length 256, sigma in bfloat16, gradient checkpointing, HPSv3. The judge is read from --config.judges.hpsv3.folder and base
(configs/mvgrpo_flux_hpsv3.py). Not run here at this size; configs/flux_nano.py with --config.algorithm.name=pave_grpo is.
"""

from configs import common, mvgrpo_flux


def get_config():
    c = mvgrpo_flux.get_config()
    c.algorithm.name = "pave_grpo"
    common.judged_by(c, hpsv3=1.0)
    c.sampling.timestep = "bfloat16"
    return c

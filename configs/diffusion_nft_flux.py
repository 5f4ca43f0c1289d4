"""DiffusionNFT on FLUX.1-dev (arXiv 2509.16117), with the settings of Flow-Factory's Flux example.

    python -m mvgrpo_jax.main --config=configs/diffusion_nft_flux.py --workdir=DIR \
        --config.pipeline=/data/FLUX.1-dev --config.prompts.train=train.txt --config.prompts.eval=eval.txt

The authors published SD3.5-M. Flow-Factory's on Flux: 8 GPUs, 384 px, 8 Euler steps, 48 prompts of 16 samples, beta 1, two
trained times of each sample from the first 70 % of the grid, deviation of the group, no KL, adapters of rank 64 and alpha 128,
learning rate 3e-4, PickScore. The average of weights that they sample from (decay 0.001 n up to 0.5 after iteration n) is the
old policy under decay 1. The judge is read from --config.judges.pickscore.folder and base (docs/judges.md). Not run here at
this size; configs/flux_nano.py with --config.algorithm.name=diffusion_nft is.
"""

from configs import common, mvgrpo_flux


def get_config():
    c = mvgrpo_flux.get_config()
    c.algorithm.name = "diffusion_nft"
    common.judged_by(c, pickscore=1.0)
    c.group_size = 16
    c.prompts_per_iteration = 48
    c.image.height = c.image.width = 384
    c.sampling.steps = 8
    c.lora.rank, c.lora.alpha = 64, 128.0
    c.lora.targets = c.lora.targets[:3]
    c.optimizer.learning_rate = 3e-4
    own = c.algorithm.diffusion_nft
    own.solver, own.times, own.span, own.kl, own.global_std = "euler", 2, 0.7, 0.0, False
    return c

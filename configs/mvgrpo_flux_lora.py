"""MV-GRPO on FLUX.1-dev with adapters: configs/mvgrpo_flux.py, rank 64, alpha 128, on a frozen bfloat16 base.

    python -m mvgrpo_jax.main --config=configs/mvgrpo_flux_lora.py --workdir=DIR \
        --config.pipeline=/data/FLUX.1-dev --config.prompts.train=hpd_train.txt --config.prompts.eval=hpd_eval.txt

Rank, alpha, Gaussian start and learning rate 1e-4 are those of the paper's authors' later code; that code adapts the double
blocks' layers and the single blocks' q, k, v, ours also the single blocks' MLP and output. Not run here at this size.
"""

from configs import mvgrpo_flux


def get_config():
    c = mvgrpo_flux.get_config()
    c.lora.rank = 64
    c.lora.alpha = 128.0
    c.optimizer.learning_rate = 1e-4
    return c

"""MV-GRPO on FLUX.1-dev, the paper's set-up (arXiv 2603.12648).

    python -m mvgrpo_jax.main --config=configs/mvgrpo_flux.py --workdir=DIR \
        --config.pipeline=/data/FLUX.1-dev --config.prompts.train=hpd_train.txt --config.prompts.eval=hpd_eval.txt

The paper's: shift 3, guidance 3.5, learning rate 2e-6, bfloat16 mixed precision, AdamW. Its authors' later code's: G 12, 16
steps, trained steps 0, 2, 4, 6, noise level 0.7, 512 px, weight decay 1e-4, T5 length 256. Not run here at this size.
"""

from configs import common


def get_config():
    c = common.get_config()
    c.pipeline = "FLUX.1-dev"
    c.prompts.train = "prompts/train.txt"
    c.prompts.eval = "prompts/eval.txt"
    c.image.height = c.image.width = 512
    c.sampling.max_sequence_length = 256
    common.judged_by(c, clip=1.0)
    c.judges.clip.folder = "clip-vit-large-patch14"
    c.eval.steps = 28
    c.views.enhancer = "offline"
    c.views.file = "prompts/captions.jsonl"
    c.train.dtype = "bfloat16"
    c.train.frozen_dtype = "bfloat16"
    c.train.remat = "full"
    return c

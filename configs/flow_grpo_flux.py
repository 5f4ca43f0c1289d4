"""Flow-GRPO on FLUX.1-dev (arXiv 2505.05470), its authors' PickScore set-up with adapters.

    python -m mvgrpo_jax.main --config=configs/flow_grpo_flux.py --workdir=DIR \
        --config.pipeline=/data/FLUX.1-dev --config.prompts.train=train.txt --config.prompts.eval=eval.txt

Theirs: 32 GPUs, 512 px, 6 steps of diffusers' schedule, noise level 0.9, 48 prompts of 24 samples, one deviation for the batch,
clip 1e-4, no KL, adapters of rank 64 and alpha 128 on the attention and the double blocks' feed-forward layers, learning rate
3e-4, two updates a rollout (the second off-policy), average of weights 0.9 every 8 updates with warm-up, T5 length 128, 28
steps for evaluation. The judge is read from --config.judges.pickscore.folder and base (docs/judges.md). Not run here at this
size; configs/flux_nano.py with --config.algorithm.name=flow_grpo is.
"""

from configs import common, mvgrpo_flux


def get_config():
    c = mvgrpo_flux.get_config()
    c.algorithm.name = "flow_grpo"
    common.judged_by(c, pickscore=1.0)
    c.group_size = 24
    c.prompts_per_iteration = 48
    c.sampling.steps = 6
    c.sampling.shift = 0.0
    c.sampling.max_sequence_length = 128
    c.train.minibatches = 2
    c.lora.rank, c.lora.alpha = 64, 128.0
    c.lora.targets = c.lora.targets[:3]
    c.optimizer.learning_rate = 3e-4
    c.ema.decay, c.ema.every, c.ema.warmup = 0.9, 8, True
    return c

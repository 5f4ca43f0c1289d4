"""DanceGRPO on FLUX.1-dev (arXiv 2505.07818), its authors' full fine-tuning.

    python -m mvgrpo_jax.main --config=configs/dancegrpo_flux.py --workdir=DIR \
        --config.pipeline=/data/FLUX.1-dev --config.prompts.train=train.txt --config.prompts.eval=eval.txt

Theirs: 16 GPUs (8 with accumulation 12), 720 px, 16 steps, shift 3, eta 0.3, G 12, learning rate 1e-5, weight decay 1e-4, norm
of the gradient 1, four rollouts accumulated on 16 GPUs (64 prompts an update), float32 master weights, 300 iterations, HPSv2.1,
sigma truncated to thousandths. The judge is read from --config.judges.hpsv2.weights and base (docs/judges.md). Not run here at
this size; configs/flux_nano.py with --config.algorithm.name=dancegrpo is.
"""

from configs import common, mvgrpo_flux


def get_config():
    c = mvgrpo_flux.get_config()
    c.algorithm.name = "dancegrpo"
    common.judged_by(c, hpsv2=1.0)
    c.prompts_per_iteration = 64
    c.image.height = c.image.width = 720
    c.sampling.timestep = "truncated"
    c.train.prompt_chunk = 16
    c.optimizer.learning_rate = 1e-5
    return c

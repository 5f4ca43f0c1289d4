"""MixGRPO on FLUX.1-dev (arXiv 2507.21802), its authors' full fine-tuning.

    python -m mvgrpo_jax.main --config=configs/mixgrpo_flux.py --workdir=DIR \
        --config.pipeline=/data/FLUX.1-dev --config.prompts.train=train.txt --config.prompts.eval=eval.txt

Theirs: 32 GPUs, 720 px, 25 steps, shift 3, eta 0.7, window of 4 that moves by one every 25 iterations, G 12, learning rate
1e-5, clip 1e-4, three rollouts accumulated (96 prompts an update), HPSv2.1 + PickScore + ImageReward with advantages added.
Flash: --config.algorithm.mixgrpo.tail=0.4 --config.algorithm.mixgrpo.solver=dpm2; Flash*: also movement=fixed and tail=0.2. The
judges are read from --config.judges.hpsv2.weights and base, pickscore.folder and base, imagereward.weights and base
(docs/judges.md). Not run here at this size; configs/flux_nano.py with --config.algorithm.name=mixgrpo is.
"""

from configs import common, mvgrpo_flux


def get_config():
    c = mvgrpo_flux.get_config()
    c.algorithm.name = "mixgrpo"
    common.judged_by(c, hpsv2=1.0, pickscore=1.0, imagereward=1.0)
    c.prompts_per_iteration = 96
    c.image.height = c.image.width = 720
    c.sampling.steps = 25
    c.train.prompt_chunk = 32
    c.optimizer.learning_rate = 1e-5
    return c

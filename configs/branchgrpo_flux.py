"""BranchGRPO on FLUX.1-dev (arXiv 2509.06040), its authors' full fine-tuning.

    python -m mvgrpo_jax.main --config=configs/branchgrpo_flux.py --workdir=DIR \
        --config.pipeline=/data/FLUX.1-dev --config.prompts.train=train.txt --config.prompts.eval=eval.txt

Theirs: 8 GPUs, 720 px, 20 steps, eta 0.3, splits 0, 3, 6, 9 into two (16 leaves), noise four times as wide at splits, clip
1e-3, learning rate 1e-5, batch 2 with accumulation 12 on 8 GPUs (192 trees an update). Pruning:
--config.algorithm.branchgrpo.prune_depths and prune_width. HPSv2.1, read from --config.judges.hpsv2.weights and base
(docs/judges.md). Ours: sigma truncated as in DanceGRPO. Not run here at this size; configs/flux_nano.py with
--config.algorithm.name=branchgrpo is.
"""

from configs import common, mvgrpo_flux


def get_config():
    c = mvgrpo_flux.get_config()
    c.algorithm.name = "branchgrpo"
    common.judged_by(c, hpsv2=1.0)
    c.group_size = 16
    c.prompts_per_iteration = 192
    c.image.height = c.image.width = 720
    c.sampling.steps = 20
    c.sampling.timestep = "truncated"
    c.train.prompt_chunk = 32
    c.optimizer.learning_rate = 1e-5
    return c

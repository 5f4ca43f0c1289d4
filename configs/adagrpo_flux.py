"""AdaGRPO on FLUX.1-dev (Bujiazi/GRPO-Series), its authors' full fine-tuning.

    python -m mvgrpo_jax.main --config=configs/adagrpo_flux.py --workdir=DIR \
        --config.pipeline=/data/FLUX.1-dev --config.prompts.train=train.txt --config.prompts.eval=eval.txt

Theirs: 8 GPUs with a prompt each, 512 px, 16 steps, S = 0, 2, 4, 6, eta 0.7, 10 candidates for each prompt, G 12, learning rate
2e-6, 300 iterations, T5 length 256, sigma in bfloat16, HPSv3; under DeepSpeed an optimiser step for each trained step, as here.
The judge is read from --config.judges.hpsv3.folder and base (configs/mvgrpo_flux_hpsv3.py). Not run here at this size;
configs/flux_nano.py with --config.algorithm.name=adagrpo is.
"""

from configs import common, mvgrpo_flux


def get_config():
    c = mvgrpo_flux.get_config()
    c.algorithm.name = "adagrpo"
    common.judged_by(c, hpsv3=1.0)
    c.sampling.timestep = "bfloat16"
    c.train.update_per = "timestep"
    return c

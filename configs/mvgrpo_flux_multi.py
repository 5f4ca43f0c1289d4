"""MV-GRPO on FLUX.1-dev under HPSv3 and CLIP, the paper's multi-reward setting.

    huggingface-cli download apple/DFN5B-CLIP-ViT-H-14 --local-dir /data/DFN5B-CLIP-ViT-H-14
    python -m mvgrpo_jax.main --config=configs/mvgrpo_flux_multi.py --workdir=DIR --config.pipeline=/data/FLUX.1-dev \
        --config.prompts.train=hpd_train.txt --config.prompts.eval=hpd_eval.txt --config.views.file=captions.jsonl \
        --config.judges.hpsv3.folder=/data/HPSv3/HPSv3.safetensors --config.judges.hpsv3.base=/data/Qwen2-VL-7B-Instruct \
        --config.judges.clip.folder=/data/DFN5B-CLIP-ViT-H-14

The other parts as in configs/mvgrpo_flux_hpsv3.py. CLIP is DFN5B's ViT-H, whose scale is that of the paper's table. Each
judge's rewards are normalised in their group and added with equal weights (algorithm.mvgrpo.combine); how the paper mixes them
is not published. One node of 8 x H200 holds it: by `plan` an iteration takes 41.6 s, the two judges 4.5 s of them, and 41.6 GiB
of a device at its fullest. Compiled for that, not run at this size.
"""

from configs import common, mvgrpo_flux


def get_config():
    c = mvgrpo_flux.get_config()
    common.judged_by(c, hpsv3=1.0, clip=1.0)
    return c

"""MV-GRPO on FLUX.1-dev under HPSv3, the paper's first single-reward setting.

    huggingface-cli download black-forest-labs/FLUX.1-dev --local-dir /data/FLUX.1-dev
    huggingface-cli download MizzenAI/HPSv3 HPSv3.safetensors --local-dir /data/HPSv3
    huggingface-cli download Qwen/Qwen2-VL-7B-Instruct --exclude '*.safetensors' --local-dir /data/Qwen2-VL-7B-Instruct
    python -m mvgrpo_jax.main --config=configs/mvgrpo_flux_hpsv3.py --workdir=DIR --config.pipeline=/data/FLUX.1-dev \
        --config.prompts.train=hpd_train.txt --config.prompts.eval=hpd_eval.txt --config.views.file=captions.jsonl \
        --config.judges.hpsv3.folder=/data/HPSv3/HPSv3.safetensors --config.judges.hpsv3.base=/data/Qwen2-VL-7B-Instruct

The judge's 8 B parameters are spread over the mesh like the transformer's; judges.hpsv3.offload=True keeps them in the hosts'
memory while it is not asked. As configs/mvgrpo_flux.py but for the judge; with captions of the samples (the paper's stronger
enhancer) add --config.views.enhancer=vlm and configs/mvgrpo_flux_vlm.py's servers. One node of 8 x H200 holds it: by `plan` the
judge takes 4.5 s an iteration, 1.8 GiB of weights and 1.5 GiB of temporaries a device. Compiled for that, not run at this size.
"""

from configs import common, mvgrpo_flux


def get_config():
    c = mvgrpo_flux.get_config()
    common.judged_by(c, hpsv3=1.0)
    return c

"""MV-GRPO on FLUX.1-dev under UnifiedReward-v2, the paper's second single-reward setting.

    vllm serve CodeGoat24/UnifiedReward-2.0-qwen3vl-8b --served-model-name UnifiedReward --port 8080 \
        --enable-prefix-caching --limit-mm-per-prompt.image 1
    python -m mvgrpo_jax.main --config=configs/mvgrpo_flux_unifiedreward.py --workdir=DIR --config.pipeline=/data/FLUX.1-dev \
        --config.prompts.train=hpd_train.txt --config.prompts.eval=hpd_eval.txt --config.views.file=captions.jsonl \
        --config.judges.unifiedreward.endpoints="('http://judge-0:8080/v1', 'http://judge-1:8080/v1')"

The judge is asked over the network, the captions of one picture at one replica, whose prefix cache holds the picture; the mean
of its three scores counts (judges.unifiedreward.use). A picture without a valid answer trains nothing; over
judges.unifiedreward.max_invalid of them the run stops. As configs/mvgrpo_flux.py but for the judge. launch/sidecars/ has the
servers. One node of 8 x H200 holds it: by `plan` an iteration takes 37.1 s beside the judge, and 39.4 GiB of a device at its
fullest. Compiled for that, not run at this size.
"""

from configs import common, mvgrpo_flux


def get_config():
    c = mvgrpo_flux.get_config()
    common.judged_by(c, unifiedreward=1.0)
    return c

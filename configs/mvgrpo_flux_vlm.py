"""MV-GRPO on FLUX.1-dev with captions of the samples by a vision-language model, the paper's stronger enhancer.

    vllm serve Qwen/Qwen3-VL-8B-Instruct --max-model-len 2048 --limit-mm-per-prompt '{"image":1,"video":0}'
    python -m mvgrpo_jax.main --config=configs/mvgrpo_flux_vlm.py --workdir=DIR --config.pipeline=/data/FLUX.1-dev \
        --config.views.service.endpoints="('http://captioner:8000/v1',)"

As configs/mvgrpo_flux.py, with K = G = 12: one caption for each sample. launch/sidecars/ has the servers, and sizing.py says
how many. Not run here at this size.
"""

from configs import mvgrpo_flux


def get_config():
    c = mvgrpo_flux.get_config()
    c.views.enhancer = "vlm"
    c.views.file = ""
    return c

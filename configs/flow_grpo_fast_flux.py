"""Flow-GRPO-Fast on FLUX.1-dev: three stochastic steps of six, CPS kernel, its authors' set-up with adapters.

    python -m mvgrpo_jax.main --config=configs/flow_grpo_fast_flux.py --workdir=DIR \
        --config.pipeline=/data/FLUX.1-dev --config.prompts.train=train.txt --config.prompts.eval=eval.txt

As configs/flow_grpo_flux.py. Theirs: window of 3 within the first half, Flow-CPS at level 0.8, clip 1e-5, deviation of the
group. --config.algorithm.flow_grpo_fast.form=branch is the form in which the group is drawn from one ODE lane. Not run here at
this size; configs/flux_nano.py with --config.algorithm.name=flow_grpo_fast is.
"""

from configs import flow_grpo_flux


def get_config():
    c = flow_grpo_flux.get_config()
    c.algorithm.name = "flow_grpo_fast"
    return c

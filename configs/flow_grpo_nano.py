"""Flow-GRPO on the embedded pipeline: every step stochastic, all but the last trained, one view.

    python -m mvgrpo_jax.main --config=configs/flow_grpo_nano.py --workdir=runs/flow

Hardware: 2 CPU cores. An iteration costs more updates than MV-GRPO's: its samples share no state.
"""

from configs import flux_nano


def get_config():
    c = flux_nano.get_config()
    c.algorithm.name = "flow_grpo"
    c.algorithm.combine = "rewards"
    c.views.count = 0
    return c

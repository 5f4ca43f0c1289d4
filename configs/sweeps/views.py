"""How many views: K = 0 to 12 on the embedded pipeline, three seeds.

    python launch/sweep.py --sweep configs/sweeps/views.py --out runs/sweeps/views

Hardware: 2 CPU cores, 3 to 9 minutes a run. The paper's ablation of K, on another world.
"""

from configs.sweeps import grid

CONFIG = "configs/flux_nano.py"


def get_sweep():
    return grid(views__count=(0, 1, 2, 4, 8, 12), seed=(0, 1, 2))

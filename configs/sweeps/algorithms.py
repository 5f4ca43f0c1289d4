"""Every algorithm on the embedded pipeline with its defaults, equal iterations, three seeds.

    python launch/sweep.py --sweep configs/sweeps/algorithms.py --out runs/sweeps/algorithms

Hardware: 2 CPU cores, 2 to 10 minutes a run. bench/study.py compares them with an equal budget instead.
"""

from configs.sweeps import grid
from mvgrpo_jax import algorithms

CONFIG = "configs/flux_nano.py"


def get_sweep():
    return grid(algorithm__name=tuple(algorithms.names()), seed=(0, 1, 2))

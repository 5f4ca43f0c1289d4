"""Sweeps: each file names a config and lists the overrides of its runs; launch/sweep.py runs them or writes their jobs.

A file has CONFIG, the path of a config, and get_sweep() -> a list of {key: value}, keys as in --config.KEY=VALUE.
"""

import itertools
from typing import Any

Overrides = dict[str, Any]


def grid(**axes: tuple) -> list[Overrides]:
    """Every combination of the values of each key; dots in a key are written as two underscores, `optimizer__learning_rate`."""
    names = [name.replace("__", ".") for name in axes]
    return [dict(zip(names, values)) for values in itertools.product(*axes.values())]


def across(*parts: list[Overrides]) -> list[Overrides]:
    """Every combination of one entry of each list, joined."""
    return [{k: v for part in combination for k, v in part.items()} for combination in itertools.product(*parts)]

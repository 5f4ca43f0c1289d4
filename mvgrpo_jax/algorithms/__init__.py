"""One small file an algorithm; a name in the config resolves to a module here by import.

A module has DEFAULTS, the settings that appear as config.algorithm.NAME, and make(config, options) -> Algorithm.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from mvgrpo_jax.algorithms.base import Algorithm
from mvgrpo_jax.errors import UserError, did_you_mean


def names() -> list[str]:
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != "base")


def module(name: str) -> ModuleType:
    """UserError lists what exists."""
    if name not in names():
        raise UserError(f"unknown algorithm {name!r};{did_you_mean(name, names())} there are: {', '.join(names())}")
    return importlib.import_module(f"mvgrpo_jax.algorithms.{name}")


def defaults() -> dict[str, dict]:
    """The settings of every algorithm, by name."""
    return {name: dict(module(name).DEFAULTS) for name in names()}


def captions(config) -> int:
    """K, the captions beside the prompt: config.views.count, or where that is -1 the algorithm's own number. A module says it
    as captions(config); without that it is 0, and the algorithm is the single-view one of its paper."""
    if config.views.count < -1:
        raise UserError(f"config.views.count must be 0 or more, or -1 for the algorithm's own number; got {config.views.count}")
    if config.views.enhancer == "none":
        return 0
    if config.views.count >= 0:
        return config.views.count
    return getattr(module(config.algorithm.name), "captions", lambda config: 0)(config)


def make(config) -> Algorithm:
    """The algorithm that config.algorithm.name says, with its settings config.algorithm.NAME. Raises UserError."""
    name = config.algorithm.name
    algorithm = module(name)
    try:
        return algorithm.make(config, config.algorithm[name])
    except ValueError as error:
        raise UserError(f"config for {name}: {error}") from None

"""One small file an algorithm; a name in the config resolves to a module here by import."""

from __future__ import annotations

import importlib
import pkgutil

from mvgrpo_jax.algorithms.base import Algorithm
from mvgrpo_jax.errors import UserError, did_you_mean


def names() -> list[str]:
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != "base")


def make(config) -> Algorithm:
    """The algorithm that config.algorithm.name says. UserError lists what exists."""
    name = config.algorithm.name
    if name not in names():
        raise UserError(f"unknown algorithm {name!r};{did_you_mean(name, names())} there are: {', '.join(names())}")
    try:
        return importlib.import_module(f"mvgrpo_jax.algorithms.{name}").make(config)
    except ValueError as error:
        raise UserError(f"config for {name}: {error}") from None

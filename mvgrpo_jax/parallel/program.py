"""Compiled programs that have a name: traces show it, and an error that one raises says whose it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

NOTE = "in the program "  # what an error's note begins with


class Program:
    """jax.jit(function, **options), whose module is called `name` and whose operations stand in a scope (default: the name).

    The scope is what a profile shows above the operations of several programs that do one thing, as anchors and tails, which
    are a rollout's parts.
    """

    def __init__(self, name: str, function: Callable, scope: str = "", **options: Any):
        self.name = name
        scoped = jax.named_scope(scope or name)(function)
        scoped.__name__ = scoped.__qualname__ = name.replace(" ", "_")
        self._jitted = jax.jit(scoped, **options)
        self.lower, self._cache_size = self._jitted.lower, self._jitted._cache_size

    def __call__(self, *arguments: Any) -> Any:
        """An error of the runtime has a note that names the program, where it was raised before the call returned."""
        try:
            return self._jitted(*arguments)
        except jax.errors.JaxRuntimeError as error:
            error.add_note(f"{NOTE}{self.name}")
            raise


def named_by(error: BaseException) -> str:
    """The name of the program that raised an error, '' where it is not known."""
    notes = [note for note in getattr(error, "__notes__", ()) if note.startswith(NOTE)]
    return notes[0].removeprefix(NOTE) if notes else ""

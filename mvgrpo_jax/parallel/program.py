"""Compiled programs that have a name: traces show it, and an error of the runtime is known by it."""

from __future__ import annotations

import collections
import contextlib
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import jax

# (name, weak reference to an array) of the newest calls: a program may fail long after its call has returned.
_calls: collections.deque[tuple[str, weakref.ref]] = collections.deque(maxlen=32)

# Told of every call: (name, when it was made, an array of its result), the array that is smallest.
Observer = Callable[[str, float, jax.Array], None]
_observers: list[Observer] = []


@contextlib.contextmanager
def observed(observer: Observer) -> Iterator[None]:
    """Tells an observer of the calls of all programs meanwhile."""
    _observers.append(observer)
    try:
        yield
    finally:
        _observers.remove(observer)


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
        began = time.perf_counter()
        try:
            result = self._jitted(*arguments)
        except jax.errors.JaxRuntimeError as error:
            error.program = self.name
            raise
        leaves = jax.tree.leaves(result)
        if isinstance(leaves[0], jax.Array):
            _calls.append((self.name, weakref.ref(leaves[0])))
            for observer in _observers:
                observer(self.name, began, min(reversed(leaves), key=lambda leaf: leaf.size))
        return result


def named_by(error: BaseException) -> str:
    """The name of the program that an error of the runtime came from, asked once: the first of the newest calls that failed, or
    else the one that raised the error; '' where neither is known. What is given a failed program's result fails too."""
    calls = list(_calls)
    _calls.clear()
    for name, reference in calls:
        try:
            if (array := reference()) is not None and not array.is_deleted():
                array.block_until_ready()
        except jax.errors.JaxRuntimeError:
            return name
    return getattr(error, "program", "")

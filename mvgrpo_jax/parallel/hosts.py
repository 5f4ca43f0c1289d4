"""What moves between the processes of a run, and which of them writes files."""

from __future__ import annotations

import jax
import numpy as np


def to_host(x: jax.Array) -> np.ndarray:
    """The whole array on this host, also where other processes hold parts of it."""
    if x.is_fully_addressable:
        return np.asarray(x)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(x, tiled=True))


def is_chief() -> bool:
    """Whether this process writes the files that all processes of a run have in common."""
    return jax.process_index() == 0


def agree(flag: bool) -> bool:
    """Whether the flag is raised in any process; every process calls this together."""
    if jax.process_count() == 1:
        return flag
    from jax.experimental import multihost_utils

    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def exchange(text: str) -> list[str]:
    """The texts of all processes, in their order; every process calls this together."""
    if jax.process_count() == 1:
        return [text]
    from jax.experimental import multihost_utils

    mine = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.asarray(mine.size, np.int32)).reshape(-1)
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: mine.size] = mine
    rows = multihost_utils.process_allgather(padded).reshape(len(sizes), -1)
    return [row[:size].tobytes().decode() for row, size in zip(rows, sizes)]


def merge(values: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """values [..., rest] in which each process is right where `owner` [...] names it, with the right ones of all processes;
    every process calls this together."""
    if jax.process_count() == 1:
        return values
    from jax.experimental import multihost_utils

    of_processes = multihost_utils.process_allgather(values)
    index = owner.reshape(1, *owner.shape, *[1] * (values.ndim - owner.ndim))
    return np.take_along_axis(of_processes, index, axis=0)[0]

"""What moves between the processes of a run, and which of them writes files."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from mvgrpo_jax.errors import UserError


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


def decide(choose: Callable[[], Any]) -> Any:
    """What the first process's choose() returns, a JSON value, in every process; its UserError is raised in every process.
    All call this together; only the first one calls `choose`."""
    if jax.process_count() == 1:
        return choose()
    said: dict[str, Any] = {}
    if is_chief():
        try:
            said = {"value": choose()}
        except UserError as error:
            said = {"error": str(error)}
    said = json.loads(exchange(json.dumps(said))[0])
    if "error" in said:
        raise UserError(said["error"])
    return said["value"]

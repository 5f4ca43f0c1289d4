"""What moves between the processes of a run, and which of them writes files."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax._src import distributed  # the key-value store that the processes of jax.distributed share has no public name

from mvgrpo_jax.errors import UserError

# Python handles no signal while it waits for another process's text: it looks up so often.
LOOK_UP_MS = 1000
_calls = itertools.count()


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
    return "raised" in exchange("raised" if flag else "")


def exchange(text: str) -> list[str]:
    """The texts of all processes, in their order; every process calls this together, in its main thread.

    They travel through the store of jax.distributed, without a device and without a compiled program. It waits for as long as
    the others take.
    """
    return [text] if jax.process_count() == 1 else [data.decode() for data in _exchange(text.encode())]


def _exchange(mine: bytes) -> list[bytes]:
    client, number, me = distributed.global_state.client, next(_calls), jax.process_index()
    key = "mvgrpo_jax/exchange/{}/{}".format
    client.key_value_set_bytes(key(number, me), mine)
    all_of_them = [_wait(client, key(number, i)) for i in range(jax.process_count())]
    if number:  # whoever takes part in this exchange has read all of the one before
        client.key_value_delete(key(number - 1, me))
    return all_of_them


def exchange_arrays(mine: np.ndarray) -> list[np.ndarray]:
    """As `exchange`, of arrays that have the same type on all processes, and any shape [n, ...]."""
    if jax.process_count() == 1:
        return [mine]
    return [np.frombuffer(data, mine.dtype).reshape(-1, *mine.shape[1:]) for data in _exchange(mine.tobytes())]


def _wait(client, key: str) -> bytes:
    while True:
        try:
            return client.blocking_key_value_get_bytes(key, LOOK_UP_MS)
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise


def merge(values: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """values [..., rest] in which each process is right where `owner` [...] names it, with the right ones of all processes;
    every process calls this together. What is wrong does not travel."""
    if jax.process_count() == 1:
        return values
    merged = np.empty_like(values)
    for process, theirs in enumerate(exchange_arrays(values[owner == jax.process_index()])):
        merged[owner == process] = theirs
    return merged


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


def from_chief(make: Callable[[], Any], like: Any) -> Any:
    """The tree of arrays that the first process's make() returns, in every process; its UserError is raised in every process.
    All call this together; only the first one calls `make`. like: a tree of arrays of the same shapes and types."""
    if jax.process_count() == 1:
        return make()
    from jax.experimental import multihost_utils

    made = []
    decide(lambda: made.append(make()))
    trees = made or [jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), like)]
    return jax.tree.map(np.asarray, multihost_utils.broadcast_one_to_all(trees[0]))


def say(text: str) -> None:
    """Prints once, however many processes there are."""
    if is_chief():
        print(text)

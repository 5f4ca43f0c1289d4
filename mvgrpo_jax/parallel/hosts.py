"""What moves between the processes of a run, and which of them writes files."""

from __future__ import annotations

import itertools

import jax
import numpy as np
from jax._src import distributed  # the key-value store that the processes of jax.distributed share has no public name

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
    if jax.process_count() == 1:
        return [text]
    client, number, me = distributed.global_state.client, next(_calls), jax.process_index()
    key = "mvgrpo_jax/exchange/{}/{}".format
    client.key_value_set_bytes(key(number, me), text.encode())
    texts = [_wait(client, key(number, i)).decode() for i in range(jax.process_count())]
    if number:  # whoever takes part in this exchange has read all of the one before
        client.key_value_delete(key(number - 1, me))
    return texts


def _wait(client, key: str) -> bytes:
    while True:
        try:
            return client.blocking_key_value_get_bytes(key, LOOK_UP_MS)
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise

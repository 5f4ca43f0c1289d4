"""Whether a checkpoint is whole: a list of its files with their sizes is written into it just before it is committed, and what
is read is compared with sums of what was saved.

A state of many gigabytes is not read to find that it ends early; and a missing file of a small part is no error to orbax. Nor
is a bit that turned over: its files have checksums of their tables, not of arrays.
"""

from __future__ import annotations

import json
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mvgrpo_jax.storage import files, is_remote, size

LIST = "files.json"
COMMITTED = "commit_success.txt"  # orbax's, written last; on a disk the folder gets its name last
CHANGES = ("_CHECKPOINT_METADATA",)  # orbax's, written once more at the commit
UNFINISHED = "it was never finished"


def write_list(folder: Path) -> None:
    """Lists the files of a checkpoint that is complete but for its commit."""
    sizes = {name: None if name in CHANGES else size(folder / name) for name in files(folder)}
    (folder / LIST).write_text(json.dumps(sizes, indent=0, sort_keys=True) + "\n")


@jax.jit
def _sums(leaves: list[jax.Array]) -> jax.Array:
    def total(x):
        bits = x if x.dtype == bool else jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}")
        return jnp.sum(bits.astype(jnp.uint32), dtype=jnp.uint32)

    return jnp.stack([total(x) for x in leaves])


def fingerprint(state: Any, data: dict) -> dict[str, Any]:
    """Of each array the sum of its elements' bits as numbers, modulo 2^32, computed where the array is; of the data a checksum.
    Every process calls this together; the same for any mesh."""
    text = json.dumps(data, sort_keys=True)
    return {"arrays": np.asarray(_sums(jax.tree.leaves(state))).tolist(), "data": zlib.crc32(text.encode())}


def altered(expected: dict[str, Any], found: dict[str, Any]) -> str:
    """What is wrong where two fingerprints differ, '' where they do not."""
    if expected["data"] != found["data"]:
        return "its data is not what was saved"
    pairs = list(zip(expected["arrays"], found["arrays"], strict=True))
    wrong = sum(a != b for a, b in pairs)
    return f"{wrong} of its {len(pairs)} arrays are not what was saved" if wrong else ""


def fault(folder: Path) -> str:
    """What is wrong with a checkpoint, '' when it is whole."""
    if is_remote(folder) and size(folder / COMMITTED) is None:
        return UNFINISHED
    try:
        listed = json.loads((folder / LIST).read_text())
    except FileNotFoundError:
        return f"{LIST} is missing"
    except (OSError, ValueError):
        return f"{LIST} cannot be read"
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda name: size(folder / name), listed))
    for (name, expected), got in zip(listed.items(), found):
        if got is None:
            return f"{name} is missing"
        if expected not in (None, got):
            return f"{name} has {got} bytes, not {expected}"
    return ""

"""Whether a checkpoint is whole: a list of its files with their sizes is written into it just before it is committed.

A state of many gigabytes is not read to find that it ends early; and a missing file of a small part is no error to orbax.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mvgrpo_jax.storage import files, is_remote, size

LIST = "files.json"
COMMITTED = "commit_success.txt"  # orbax's, written last; on a disk the folder gets its name last
CHANGES = ("_CHECKPOINT_METADATA",)  # orbax's, written once more at the commit
UNFINISHED = "it was never finished"


def write_list(folder: Path) -> None:
    """Lists the files of a checkpoint that is complete but for its commit."""
    sizes = {name: None if name in CHANGES else size(folder / name) for name in files(folder)}
    (folder / LIST).write_text(json.dumps(sizes, indent=0, sort_keys=True) + "\n")


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

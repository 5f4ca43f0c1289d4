"""Component folder <-> parameter tree. Every key is consumed once and every leaf filled once, or an error lists them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mvgrpo_jax.convert.files import TensorFiles, write_tensors
from mvgrpo_jax.convert.naming import REDUNDANT, Entry, entries, from_torch, to_torch
from mvgrpo_jax.errors import UserError, did_you_mean
from mvgrpo_jax.models.module import Network, Params

# transformers 5 writes CLIPTextModel without this prefix, older versions with it; both are in use.
_OPTIONAL_PREFIX = "text_model."


def _resolve(wanted: dict[str, Entry], present: list[str]) -> dict[str, str]:
    """Name in the file -> name in the table."""
    names = {n: n for n in present if not REDUNDANT.fullmatch(n)}
    if not any(n.startswith(_OPTIONAL_PREFIX) for n in names) and all(n.startswith(_OPTIONAL_PREFIX) for n in wanted):
        names = {n: _OPTIONAL_PREFIX + n for n in names}
    return names


def import_params(
    network: Network,
    folder: str | Path,
    *,
    dtype: Any = None,
    place: Callable[[tuple[str, ...], np.ndarray], Any] = lambda path, array: jax.numpy.asarray(array),
) -> Params:
    """Reads a component folder into a parameter tree.

    dtype: None keeps the file's. place(path, array) puts each finished leaf on its device or devices; only one leaf is
    held on the host at a time. Raises UserError with every missing, unexpected or misshaped key.
    """
    files = TensorFiles(folder)
    wanted = entries(network)
    names = _resolve(wanted, files.names())
    source = {ours: theirs for theirs, ours in names.items()}

    problems = [f"missing: {n}" for n in wanted if n not in source]
    problems += [f"unexpected: {t}.{did_you_mean(o, wanted)}" for t, o in names.items() if o not in wanted]
    for name, entry in wanted.items():
        if name in source and (got := files.shape(source[name])) != entry.shape:
            problems.append(f"shape of {source[name]}: expected {list(entry.shape)}, found {list(got)}")
    if problems:
        shown = "\n  ".join(problems[:20])
        more = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise UserError(
            f"{folder}: weights do not fit the model that its config.json describes ({len(problems)} problems); "
            f"check that config and weights belong together\n  {shown}{more}"
        )

    leaves: dict[tuple[str, ...], list[Entry]] = {}
    for entry in wanted.values():
        leaves.setdefault(entry.path, []).append(entry)
    params: Params = {}
    for path, group in leaves.items():
        parts = [from_torch(files.read(source[e.name]), path[-1]) for e in sorted(group, key=lambda e: e.layer or 0)]
        array = parts[0] if group[0].layer is None else np.stack(parts)
        node = params
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = place(path, array if dtype is None else array.astype(dtype))
    return params


def checkpoint_tensors(network: Network, params: Params, dtype: Any = None) -> Iterator[tuple[str, np.ndarray]]:
    """(name, array) of every checkpoint tensor, in the layout and under the names that torch knows."""
    table = entries(network)
    fetched: dict[tuple[str, ...], np.ndarray] = {}
    for name, entry in table.items():
        if entry.path not in fetched:
            node: Any = params
            for key in entry.path:
                node = node[key]
            fetched = {entry.path: np.asarray(jax.device_get(node))}
        array = fetched[entry.path]
        array = to_torch(array if entry.layer is None else array[entry.layer], entry.path[-1])
        yield name, array if dtype is None else array.astype(dtype)


def export_params(network: Network, params: Params, path: str | Path, *, dtype: Any = None, strip: str = "") -> None:
    """Writes a parameter tree as one safetensors file, atomically. `strip` removes a prefix of every name."""
    write_tensors(lambda: ((n.removeprefix(strip), a) for n, a in checkpoint_tensors(network, params, dtype)), Path(path))

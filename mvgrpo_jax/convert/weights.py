"""Component folder <-> parameter tree. Every key is consumed once and every leaf filled once, or an error lists them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from mvgrpo_jax.convert import placing
from mvgrpo_jax.convert.naming import Entry, entries, spare, tied, to_torch
from mvgrpo_jax.convert.placing import Leaf
from mvgrpo_jax.convert.sources import STEMS, Renamed, Source, TensorFiles
from mvgrpo_jax.convert.writing import write_folder
from mvgrpo_jax.errors import UserError, did_you_mean
from mvgrpo_jax.models.module import Network, Params
from mvgrpo_jax.parallel.hosts import to_host

# transformers 5 writes CLIPTextModel without this prefix, older versions with it; both are in use.
_OPTIONAL_PREFIX = "text_model."
_SHOWN = 8  # unused keys that a warning names


def checked(network: Network, source: Source) -> tuple[Source, dict[str, Entry]]:
    """The source under the table's names, and the table. Raises UserError with every missing, unexpected or misshaped key.

    As transformers does, a tied table is taken from whichever name has it, and keys of other parts of the model that an
    encoder is cut from are left out; one warning lists those.
    """
    wanted = entries(network)
    names = {n: n for n in source.names()}
    if all(n.startswith(_OPTIONAL_PREFIX) for n in wanted) and not any(n.startswith(_OPTIONAL_PREFIX) for n in names):
        names = {_OPTIONAL_PREFIX + n if _OPTIONAL_PREFIX + n in wanted else n: n for n in names}
    silent, unused = spare(wanted, names)
    held = {n: own for n, own in names.items() if n not in silent and n not in unused}
    held |= {n: names[own] for n, own in tied(wanted, names).items()}
    problems = [f"missing: {n}" for n in wanted if n not in held]
    problems += [f"unexpected: {held[n]}.{did_you_mean(n, wanted)}" for n in held if n not in wanted]
    for name, entry in wanted.items():
        if name in held and (got := tuple(source.shape(held[name]))) != entry.shape:
            problems.append(f"shape of {held[name]}: expected {list(entry.shape)}, found {list(got)}")
    if problems:
        shown = "\n  ".join(problems[:20])
        more = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise UserError(
            f"{source.where}: weights do not fit the model that its config.json describes ({len(problems)} problems); "
            f"check that config and weights belong together\n  {shown}{more}"
        )
    if unused:
        more = f" and {len(unused) - _SHOWN} more" if len(unused) > _SHOWN else ""
        shown = ", ".join(names[n] for n in unused[:_SHOWN])
        warnings.warn(f"{source.where}: {len(unused)} keys are not used by this part of the model: {shown}{more}", stacklevel=2)
    return Renamed(source, {n: held[n] for n in wanted}), wanted


def import_params(
    network: Network,
    place: str | Path | Source,
    *,
    dtype: Any = None,
    sharding: Callable[[tuple[str, ...]], NamedSharding] | None = None,
    keep: Callable[[tuple[str, ...], jax.Array], Any] = lambda path, array: array,
) -> Params:
    """Reads a component's weights into a parameter tree, leaf by leaf; see placing for who reads what.

    place: a folder, or an open source. dtype: None keeps the file's. sharding(path): where a leaf goes; every process of a run
    calls this together then. keep(path, leaf): what the tree gets for a finished leaf. Raises UserError with every missing,
    unexpected or misshaped key.
    """
    source, wanted = checked(network, place if hasattr(place, "names") else TensorFiles(place))
    groups: dict[tuple[str, ...], list[Entry]] = {}
    for entry in wanted.values():
        groups.setdefault(entry.path, []).append(entry)
    leaves = [Leaf.of(source, group, dtype, sharding and sharding(path)) for path, group in groups.items()]
    params: Params = {}
    placed = placing.place(leaves)
    for path in groups:
        node = params
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = keep(path, next(placed))  # named by nobody else: what is not kept makes room for the next
    return params


class ParamsSource:
    """A parameter tree as a source: names and layout as torch knows them, one leaf on the host at a time."""

    where = "parameters"

    def __init__(self, network: Network, params: Params):
        self.params, self.table = params, entries(network)

    def names(self) -> list[str]:
        return list(self.table)

    def leaf(self, name: str):
        node: Any = self.params
        for key in self.table[name].path:
            node = node[key]
        return node

    def shape(self, name: str) -> tuple[int, ...]:
        return self.table[name].shape

    def dtype(self, name: str) -> np.dtype:
        return np.dtype(self.leaf(name).dtype)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        entry = self.table[name]
        leaf = self.leaf(name)
        array = leaf if entry.layer is None else leaf[entry.layer]
        array = to_torch(to_host(array) if isinstance(array, jax.Array) else np.asarray(array), entry.path[-1])
        return array if stop is None and not start else array[start:stop]


def export_params(network: Network, params: Params | Source, folder: Path, stem: str, *, dtype: Any = None) -> None:
    """Writes a parameter tree, or a source, into a component's folder, atomically, in shards where it is large. stem: one of
    sources.STEMS. In a pod every process takes part in gathering each tensor, and the first one writes it."""
    assert stem in STEMS
    source = ParamsSource(network, params) if isinstance(params, dict) else params
    if jax.process_index() == 0:
        write_folder(source, folder, stem, dtype=dtype, quiet=True)
    else:
        for name in source.names():
            source.read(name)

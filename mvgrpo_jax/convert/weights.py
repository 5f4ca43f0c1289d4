"""Component folder <-> parameter tree. Every key is consumed once and every leaf filled once, or an error lists them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mvgrpo_jax.convert.naming import Entry, entries, from_torch, spare, tied, to_torch
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


def stacked(read: list[Callable[[], np.ndarray]], place: Callable[[np.ndarray], jax.Array], layered: bool) -> jax.Array:
    """One leaf on one device. The layers of a stack go there one by one, so that the host never holds the whole leaf."""
    if not layered:
        return place(read[0]())
    out = None
    for i, layer in enumerate(read):
        part = place(layer())
        out = _room(part, len(read)) if out is None else out
        out = _put(out, part, i)
    return out


@partial(jax.jit, static_argnums=1)
def _room(part: jax.Array, count: int) -> jax.Array:
    return jnp.zeros((count, *part.shape), part.dtype)


@partial(jax.jit, donate_argnums=0)
def _put(stack: jax.Array, part: jax.Array, index) -> jax.Array:
    return jax.lax.dynamic_update_index_in_dim(stack, part, index, 0)


def import_params(
    network: Network,
    place: str | Path | Source,
    *,
    dtype: Any = None,
    sharding: Callable[[tuple[str, ...]], jax.sharding.Sharding] | None = None,
    keep: Callable[[tuple[str, ...], jax.Array], Any] = lambda path, array: array,
) -> Params:
    """Reads a component's weights into a parameter tree, tensor by tensor.

    place: a folder, or an open source. dtype: None keeps the file's. sharding(path): where a leaf goes; each device reads
    only its part of it, and the host holds one layer of one leaf at a time. keep(path, leaf): what the tree gets for a
    finished leaf. Raises UserError with every missing, unexpected or misshaped key.
    """
    source, wanted = checked(network, place if hasattr(place, "names") else TensorFiles(place))
    leaves: dict[tuple[str, ...], list[Entry]] = {}
    for entry in wanted.values():
        leaves.setdefault(entry.path, []).append(entry)
    params: Params = {}
    for path, group in leaves.items():
        group = sorted(group, key=lambda e: e.layer or 0)
        layered = group[0].layer is not None

        def layer(entry: Entry, index: tuple[slice, ...], leaf: str = path[-1]) -> np.ndarray:
            # Rows of the file are the last axis of a kernel and the first of anything else.
            rows = index[-1 if leaf == "kernel" else 0] if index else slice(None)
            array = from_torch(source.read(entry.name, rows.start or 0, rows.stop), leaf)
            rest = tuple(slice(None) if i is rows else i for i in index)
            array = array[rest] if rest else array
            return array if dtype is None else array.astype(dtype)

        shape = from_torch(np.broadcast_to(np.int8(0), group[0].shape), path[-1]).shape
        if sharding is None:
            whole = (slice(None),) * len(shape)
            array = stacked([partial(layer, e, whole) for e in group], jnp.asarray, layered)
        else:
            where = sharding(path)
            full = (len(group), *shape) if layered else shape
            parts = []
            for device, index in where.addressable_devices_indices_map(full).items():
                own = tuple(index)[1:] if layered else tuple(index)
                put = partial(jax.device_put, device=device)
                parts.append(stacked([partial(layer, e, own) for e in group], put, layered))
            array = jax.make_array_from_single_device_arrays(full, where, parts)
        node = params
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = keep(path, array)
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

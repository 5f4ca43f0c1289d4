"""The device mesh. Axes: 'data' (replicas), 'fsdp' (parameters and batch split), 'tensor' (heads and hidden units split).

An island is a set of devices that fast links join: the GPUs of a node (NVLink), the chips of a TPU slice (ICI), the devices of
a process on CPUs. Islands are joined by a slower network (Ethernet or InfiniBand, a data centre's network).

With fewer prompts than devices, 'data' and 'fsdp' are each cut in two: the devices along 'data_lanes' and 'fsdp_lanes' form
groups that share prompts and split their lanes (rules.RULES).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh

from mvgrpo_jax.errors import UserError

AXES = ("data", "fsdp", "tensor")
# A base beneath adapters may take so much of a device's memory; the rest is for activations, adapters and their optimiser.
BASE_SHARE = 0.5
# What an island is called by platform; on all others a node.
NAMES = {"tpu": ("slice", "slices"), "cpu": ("process", "processes")}


class Topology(NamedTuple):
    """platform: JAX's name of it; islands: how many; devices: of each island."""

    platform: str
    islands: int
    devices: int


class Choice(NamedTuple):
    """Sizes of the mesh's axes, and why they are so."""

    sizes: dict[str, int]
    reason: str


def islands(devices: Sequence) -> list[list]:
    """The devices of each island. JAX numbers a GPU's node and a TPU's slice alike; where it does not there is one slice."""
    out: dict[int, list] = {}
    for device in devices:
        index = device.process_index if device.platform == "cpu" else getattr(device, "slice_index", 0)
        out.setdefault(index, []).append(device)
    return [out[index] for index in sorted(out)]


def topology(groups: list[list]) -> Topology:
    """UserError unless all islands have the same number of devices."""
    counts = {len(group) for group in groups}
    if len(counts) > 1:
        raise UserError(f"nodes or slices of {sorted(counts)} devices were found; a run needs the same number on each")
    return Topology(groups[0][0].platform, len(groups), counts.pop())


def choose(where: Topology, parts: int, base: int = 0, memory: int = 0) -> Choice:
    """The mesh of a run that names none.

    parts: into so many the parameters can be cut (rules.divisor). base: bytes of what is frozen beneath adapters, 0 where
    everything is trained. memory: bytes that a program may use on a device, 0 where unknown.
    """
    count, (island, many) = where.islands * where.devices, NAMES.get(where.platform, ("node", "nodes"))
    if count == 1:
        return Choice(dict.fromkeys(AXES, 1), "there is one device")
    if where.platform == "cpu" and where.islands == 1:
        return Choice(dict.fromkeys(AXES, 1), "one CPU device, unless config.mesh.* asks for more")
    if 0 < base <= BASE_SHARE * memory:
        sizes = f"{base / 2**30:.1f} GiB on each device of {memory / 2**30:.1f} GiB"
        reason = f"the base beneath the adapters is whole, {sizes}: nothing but adapters' gradients travels"
        return Choice({"data": count, "fsdp": 1, "tensor": 1}, reason)
    fsdp = math.gcd(where.devices, parts)
    reason = f"parameters are shared by {fsdp} devices of a {island}"
    reason += ", more do not divide them" if fsdp < where.devices else ""
    reason += f"; only gradients cross {many}" if where.islands > 1 else ""
    return Choice({"data": count // fsdp, "fsdp": fsdp, "tensor": 1}, reason)


def make_mesh(data: int = 1, fsdp: int = 1, tensor: int = 1, groups: list[list] | None = None, prompts: int = 0) -> Mesh:
    """A mesh over the devices of some islands (default: all there are); one size may be -1, 'what is left'.

    'data' goes over the islands where they divide it; inside one, axes follow the links. prompts: how many a batch has at least
    (0: as many as can be); where they do not divide over data x fsdp, groups of devices share them. UserError when the sizes do
    not fit.
    """
    groups = islands(jax.devices()) if groups is None else groups
    devices = [device for group in groups for device in group]
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
    free = [name for name, size in sizes.items() if size == -1]
    if len(free) > 1:
        raise UserError(f"only one mesh size may be -1, got {sizes}")
    if free:
        sizes[free[0]] = len(devices) // math.prod(s for s in sizes.values() if s != -1)
    need = math.prod(sizes.values())
    if need < 1 or need > len(devices) or (jax.process_count() > 1 and need != len(devices)):
        raise UserError(f"mesh {sizes} needs {need} devices, there are {len(devices)}; set config.mesh.* to fit")
    shape = tuple(sizes.values())
    whole = np.asarray(devices[:need]).reshape(shape)
    if need == len(devices) and devices[0].platform != "cpu" and not sizes["data"] % len(groups):
        inner = (sizes["data"] // len(groups), *shape[1:])
        parts = [mesh_utils.create_device_mesh(inner, group, allow_split_physical_axes=True) for group in groups]
        whole = np.concatenate(parts)
    return Mesh(*_shared(whole, prompts))


def _shared(devices: np.ndarray, prompts: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Devices [data, fsdp, tensor] in groups that share prompts, and the names of their axes."""
    data, fsdp, tensor = devices.shape
    over_data = math.gcd(prompts, data)  # gcd(0, n) is n
    over_fsdp = math.gcd(prompts // over_data, fsdp)
    if over_data * over_fsdp == data * fsdp:
        return devices, AXES
    shape = (over_data, data // over_data, over_fsdp, fsdp // over_fsdp, tensor)
    return devices.reshape(shape), ("data", "data_lanes", "fsdp", "fsdp_lanes", "tensor")


def check_devices(expected: int) -> None:
    """UserError where the processes of a run see fewer devices than `expected`; 0 expects nothing."""
    if jax.device_count() < expected:
        raise UserError(
            f"config.mesh.devices is {expected}, but {seen()} are there; start a process for each device, or let each see all "
            "devices of its host (docs/pods.md), or set config.mesh.devices=0"
        )


def seen() -> str:
    """'N processes x M devices'; M of this process."""
    return f"{jax.process_count()} processes x {jax.local_device_count()} devices"

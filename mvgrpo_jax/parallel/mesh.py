"""The device mesh. Axes: 'data' (replicas), 'fsdp' (parameters and batch split), 'tensor' (heads and hidden units split)."""

from __future__ import annotations

import jax
import numpy as np
from jax.sharding import Mesh

from mvgrpo_jax.errors import UserError

AXES = ("data", "fsdp", "tensor")


def make_mesh(data: int = 1, fsdp: int = 1, tensor: int = 1, devices=None) -> Mesh:
    """A mesh over the devices; one size may be -1, 'what is left'. UserError when the sizes do not fit."""
    devices = jax.devices() if devices is None else devices
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
    free = [name for name, size in sizes.items() if size == -1]
    if len(free) > 1:
        raise UserError(f"only one mesh size may be -1, got {sizes}")
    if free:
        rest = int(np.prod([s for s in sizes.values() if s != -1]))
        sizes[free[0]] = len(devices) // rest
    need = int(np.prod(list(sizes.values())))
    if need < 1 or need > len(devices) or (jax.process_count() > 1 and need != len(devices)):
        raise UserError(f"mesh {sizes} needs {need} devices, there are {len(devices)}; set config.mesh.* to fit")
    return Mesh(np.asarray(devices[:need]).reshape(*sizes.values()), AXES)


def check_batch(count: int, what: str, mesh: Mesh) -> None:
    """UserError unless `count` divides over the mesh's batch axes."""
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    if count % parts:
        raise UserError(
            f"{what} is {count} and must divide over mesh data x fsdp = {mesh.shape['data']} x {mesh.shape['fsdp']} "
            f"= {parts}; raise it to a multiple or shrink the mesh"
        )

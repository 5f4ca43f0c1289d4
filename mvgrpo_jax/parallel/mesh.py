"""The device mesh. Axes: 'data' (replicas), 'fsdp' (parameters and batch split), 'tensor' (heads and hidden units split).

With fewer prompts than devices, 'data' and 'fsdp' are each cut in two: the devices along 'data_lanes' and 'fsdp_lanes' form
groups that share prompts and split their lanes (rules.RULES).
"""

from __future__ import annotations

import math

import jax
import numpy as np
from jax.sharding import Mesh

from mvgrpo_jax.errors import UserError

AXES = ("data", "fsdp", "tensor")


def make_mesh(data: int = 1, fsdp: int = 1, tensor: int = 1, devices=None, prompts: int = 0) -> Mesh:
    """A mesh over the devices; one size may be -1, 'what is left'. prompts: how many a batch has at least (0: as many as can
    be); where they do not divide over data x fsdp, groups of devices share them. UserError when the sizes do not fit."""
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
    whole = np.asarray(devices[:need]).reshape(*sizes.values())
    data, fsdp, tensor = whole.shape
    over_data = math.gcd(prompts, data)  # gcd(0, n) is n
    over_fsdp = math.gcd(prompts // over_data, fsdp)
    if over_data * over_fsdp == data * fsdp:
        return Mesh(whole, AXES)
    shape = (over_data, data // over_data, over_fsdp, fsdp // over_fsdp, tensor)
    return Mesh(whole.reshape(shape), ("data", "data_lanes", "fsdp", "fsdp_lanes", "tensor"))

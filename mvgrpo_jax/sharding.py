"""Where arrays live: the mesh, the logical axes of activations, and the axes of every parameter, in one place.

Mesh axes: 'data' (replicas), 'fsdp' (parameters and batch split), 'tensor' (heads and hidden units split).
"""

from __future__ import annotations

import re
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mvgrpo_jax.errors import UserError

AXES = ("data", "fsdp", "tensor")

# Logical axis -> mesh axes. 'layers' is the scanned axis and is never split.
RULES: dict[str, tuple[str, ...] | None] = {
    "batch": ("data", "fsdp"),
    "embed": ("fsdp",),
    "hidden": ("tensor",),
    "rank_side": ("fsdp", "tensor"),
    "layers": None,
    None: None,
}

# Parameter path -> logical axes of its last dimensions; a scanned stack has 'layers' before them. First match wins.
PARAMETERS: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    # Adapters: split along the layer's side of each factor, whatever the layer's own split.
    (r"(.*/)?lora_a", ("rank_side", None)),
    (r"(.*/)?lora_b", (None, "rank_side")),
    # Projections into heads and hidden units, column-parallel.
    (
        r".*/(to_q|to_k|to_v|add_q_proj|add_k_proj|add_v_proj|proj_mlp|q_proj|k_proj|v_proj|fc1|q|k|v|wi_0|wi_1)/kernel",
        ("embed", "hidden"),
    ),
    (r".*/net/0/proj/kernel", ("embed", "hidden")),
    (r".*/(to_q|to_k|to_v|add_q_proj|add_k_proj|add_v_proj|proj_mlp|q_proj|k_proj|v_proj|fc1)/bias", ("hidden",)),
    (r".*/net/0/proj/bias", ("hidden",)),
    # Projections back, row-parallel.
    (r".*/(to_out/0|to_add_out|net/2|out_proj|fc2|o|wo)/kernel", ("hidden", "embed")),
    (r"single_transformer_blocks/proj_out/kernel", ("hidden", "embed")),
    # Everything else that is large: split over fsdp along its input.
    (r"(encoder|decoder)/(.*/)?conv\w*/kernel", (None, None, None, None)),
    (r".*/patch_embedding/kernel", (None, None, None, None)),
    (r".*/(to_q|to_k|to_v)/kernel", ("embed", "hidden")),
    (r"(.*/)?\w+/kernel", ("embed", None)),
    (r".*embed.*/embedding|shared/embedding", (None, "embed")),
    (r".*/embedding", (None, None)),
    (r"(.*/)?(bias|scale|class_embedding)", (None,)),
    (r"logit_scale", ()),
)


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


def spec(axes: tuple[str | None, ...]) -> P:
    """Logical axes -> PartitionSpec."""
    return P(*(RULES[a] for a in axes))


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Pins leading axes of an activation to their mesh axes; nothing without an ambient mesh (jax.set_mesh)."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    return jax.lax.with_sharding_constraint(x, spec((*axes, *[None] * (x.ndim - len(axes)))))


def path_name(path: tuple) -> str:
    return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def parameter_spec(name: str, shape: tuple[int, ...], mesh: Mesh, layered: bool) -> P:
    """The PartitionSpec of one parameter. UserError when no rule matches it or a size does not divide."""
    for pattern, axes in PARAMETERS:
        if re.fullmatch(pattern, name) and len(axes) + layered == len(shape):
            break
    else:
        raise UserError(f"no sharding rule matches parameter {name} of shape {shape}; add one to sharding.PARAMETERS")
    axes = (*["layers"] * layered, *axes)
    used = [a for axis in axes for a in RULES[axis] or ()]
    if len(set(used)) < len(used):
        raise UserError(f"the rule for parameter {name} uses a mesh axis twice: {axes}")
    for size, axis in zip(shape, axes):
        parts = int(np.prod([mesh.shape[a] for a in RULES[axis] or ()]))
        if size % parts:
            raise UserError(
                f"parameter {name} {list(shape)}: {size} does not divide into {parts} parts over mesh axes {RULES[axis]}; "
                "choose another config.mesh"
            )
    return spec(axes)


def parameter_shardings(shapes: Any, mesh: Mesh, stacks: tuple[str, ...]) -> Any:
    """The sharding of every leaf of a parameter tree (or of a tree that holds copies of it, like an optimiser's)."""
    prefixes = tuple(s.replace(".", "/") + "/" for s in stacks)

    def place(path, leaf):
        if not leaf.shape:
            return NamedSharding(mesh, P())
        name = path_name(path)
        layered = name.startswith(prefixes) if prefixes else False
        return NamedSharding(mesh, parameter_spec(name, leaf.shape, mesh, layered))

    return jax.tree_util.tree_map_with_path(place, shapes)


def like_parameters(tree: Any, params: Any, shardings: Any, mesh: Mesh) -> Any:
    """Shardings of a tree in which whole copies of `params` occur (optimiser moments, averages); the rest is replicated."""
    structure = jax.tree.structure(params)
    is_copy = lambda node: jax.tree.structure(node) == structure
    return jax.tree.map(lambda node: shardings if is_copy(node) else NamedSharding(mesh, P()), tree, is_leaf=is_copy)


def batch_sharding(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Splits one axis over the batch axes of the mesh."""
    return NamedSharding(mesh, P(*[None] * axis, RULES["batch"]))


def check_batch(count: int, what: str, mesh: Mesh) -> None:
    """UserError unless `count` divides over the mesh's batch axes."""
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    if count % parts:
        raise UserError(
            f"{what} is {count} and must divide over mesh data x fsdp = {mesh.shape['data']} x {mesh.shape['fsdp']} "
            f"= {parts}; raise it to a multiple or shrink the mesh"
        )


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
    if jax.process_count() == 1:
        return flag
    from jax.experimental import multihost_utils

    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def exchange(text: str) -> list[str]:
    """The texts of all processes, in their order; every process calls this together."""
    if jax.process_count() == 1:
        return [text]
    from jax.experimental import multihost_utils

    own = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.asarray(own.size, np.int32)).reshape(-1)
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: own.size] = own
    rows = multihost_utils.process_allgather(padded).reshape(len(sizes), -1)
    return [row[:size].tobytes().decode() for row, size in zip(rows, sizes)]

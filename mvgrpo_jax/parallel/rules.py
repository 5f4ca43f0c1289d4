"""Where arrays live on a mesh: the logical axes of activations and the axes of every parameter, in one place."""

from __future__ import annotations

import math
import re
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mvgrpo_jax.errors import UserError

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


def logical_axes(name: str, shape: tuple[int, ...], layered: bool) -> tuple[str | None, ...]:
    """The logical axis of each dimension of a parameter. UserError when no rule matches it."""
    for pattern, axes in PARAMETERS:
        if re.fullmatch(pattern, name) and len(axes) + layered == len(shape):
            return (*["layers"] * layered, *axes)
    raise UserError(f"no sharding rule matches parameter {name} of shape {shape}; add one to parallel.rules.PARAMETERS")


def parameter_spec(name: str, shape: tuple[int, ...], mesh: Mesh, layered: bool) -> P:
    """The PartitionSpec of one parameter. UserError when no rule matches it or a size does not divide."""
    axes = logical_axes(name, shape, layered)
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

    def place(path, leaf):
        if not leaf.shape:
            return NamedSharding(mesh, P())
        name = path_name(path)
        return NamedSharding(mesh, parameter_spec(name, leaf.shape, mesh, is_layered(name, stacks)))

    return jax.tree_util.tree_map_with_path(place, shapes)


def is_layered(name: str, stacks: tuple[str, ...]) -> bool:
    """Whether a parameter belongs to a scanned stack."""
    return name.startswith(tuple(s.replace(".", "/") + "/" for s in stacks))


def divisor(shapes: Any, stacks: tuple[str, ...]) -> int:
    """Into how many parts 'fsdp' can cut every parameter: the greatest common divisor of the dimensions that it splits."""
    sizes = [0]
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        name = path_name(path)
        axes = logical_axes(name, leaf.shape, is_layered(name, stacks)) if leaf.shape else ()
        sizes += [size for size, axis in zip(leaf.shape, axes) if "fsdp" in (RULES[axis] or ())]
    return math.gcd(*sizes)


def like_parameters(tree: Any, params: Any, shardings: Any, mesh: Mesh) -> Any:
    """Shardings of a tree in which whole copies of `params` occur (optimiser moments, averages); the rest is replicated."""
    structure = jax.tree.structure(params)

    def is_copy(node):
        return jax.tree.structure(node) == structure

    return jax.tree.map(lambda node: shardings if is_copy(node) else NamedSharding(mesh, P()), tree, is_leaf=is_copy)


def batch_sharding(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Splits one axis over the batch axes of the mesh."""
    return NamedSharding(mesh, P(*[None] * axis, RULES["batch"]))

"""Where arrays live on a mesh: the logical axes of activations and the axes of every parameter, in one place."""

from __future__ import annotations

import contextlib
import contextvars
import math
import re
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mvgrpo_jax.errors import UserError

# Logical axis -> mesh axes. 'prompts' are split over the groups of devices that mesh.make_mesh forms; the devices of a group
# share its prompts and split the 'lanes' of each among them (its latents, its pictures, or its views). 'batch' is both, one
# after the other: prompts x lanes in one dimension. 'layers' is the scanned axis and is never split.
RULES: dict[str, tuple[str, ...] | None] = {
    "prompts": ("data", "fsdp"),
    "lanes": ("data_lanes", "fsdp_lanes"),
    "batch": ("data", "fsdp", "data_lanes", "fsdp_lanes"),
    "embed": ("fsdp", "fsdp_lanes"),
    "hidden": ("tensor",),
    "rank_side": ("fsdp", "fsdp_lanes", "tensor"),
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
        r".*/(to_q|to_k|to_v|add_q_proj|add_k_proj|add_v_proj|proj_mlp|q_proj|k_proj|v_proj|fc1|q|k|v|wi_0|wi_1"
        r"|gate_proj|up_proj)/kernel",
        ("embed", "hidden"),
    ),
    (r".*/net/0/proj/kernel", ("embed", "hidden")),
    (r".*/(to_q|to_k|to_v|add_q_proj|add_k_proj|add_v_proj|proj_mlp|q_proj|k_proj|v_proj|fc1)/bias", ("hidden",)),
    (r".*/net/0/proj/bias", ("hidden",)),
    # Projections back, row-parallel.
    (r".*/(to_out/0|to_add_out|net/2|out_proj|fc2|o|wo|o_proj|down_proj)/kernel", ("hidden", "embed")),
    (r"single_transformer_blocks/proj_out/kernel", ("hidden", "embed")),
    # Everything else that is large: split over fsdp along its input.
    (r"(encoder|decoder)/(.*/)?conv\w*/kernel", (None, None, None, None)),
    (r".*/patch_embedding/kernel", (None, None, None, None)),
    (r".*/patch_embed/proj/kernel", (None, None, None, None, None)),
    (r"rm_head/\d+/kernel", (None, None)),  # of a reward model: small, and 16 wide in the end
    (r".*/(to_q|to_k|to_v)/kernel", ("embed", "hidden")),
    (r"(.*/)?\w+/kernel", ("embed", None)),
    (r".*embed.*/embedding|shared/embedding", (None, "embed")),
    (r".*/embedding", (None, None)),
    (r"(.*/)?(bias|scale|class_embedding)", (None,)),
    (r"logit_scale", ()),
)


_LANES_TAKEN = contextvars.ContextVar("lanes_taken", default=False)


@contextlib.contextmanager
def lanes_taken():
    """Within it, code is traced for one lane of a prompt: an outer dimension is split over the lanes (jax.vmap with
    spmd_axis_name=axes_of("lanes")), and 'batch' is 'prompts'."""
    token = _LANES_TAKEN.set(True)
    try:
        yield
    finally:
        _LANES_TAKEN.reset(token)


def axes_of(axis: str | None, mesh=None) -> tuple[str, ...]:
    """The axes over which a mesh, or the ambient one, splits a logical axis; none without a mesh."""
    mesh = jax.sharding.get_abstract_mesh() if mesh is None else mesh
    if _LANES_TAKEN.get():
        axis = {"batch": "prompts", "lanes": None}.get(axis, axis)
    return () if mesh.empty else tuple(a for a in RULES[axis] or () if a in mesh.shape)


def spec(axes: tuple[str | None, ...], mesh=None) -> P:
    """Logical axes -> PartitionSpec."""
    return P(*(axes_of(a, mesh) or None for a in axes))


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Pins leading axes of an activation to their mesh axes; nothing without an ambient mesh (jax.set_mesh)."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    return jax.lax.with_sharding_constraint(x, spec((*axes, *[None] * (x.ndim - len(axes)))))


def parts(axis: str | None, mesh=None) -> int:
    """Into how many parts a mesh, or the ambient one, splits a logical axis."""
    mesh = jax.sharding.get_abstract_mesh() if mesh is None else mesh
    return math.prod(mesh.shape[a] for a in axes_of(axis, mesh))


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
    used = [a for axis in axes for a in axes_of(axis, mesh)]
    if len(set(used)) < len(used):
        raise UserError(f"the rule for parameter {name} uses a mesh axis twice: {axes}")
    for size, axis in zip(shape, axes):
        if size % (count := parts(axis, mesh)):
            raise UserError(
                f"parameter {name} {list(shape)}: {size} does not divide into {count} parts over mesh axes "
                f"{axes_of(axis, mesh)}; choose another config.mesh"
            )
    return spec(axes, mesh)


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


def placements(net, mesh: Mesh) -> Callable[[tuple], NamedSharding]:
    """sharding(path): where each parameter of a network lives on the mesh."""
    shardings = parameter_shardings(net.shapes, mesh, tuple(net.stacks))

    def of(path):
        node = shardings
        for key in path:
            node = node[key]
        return node

    return of


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


def sharding(mesh: Mesh, *axes: str | None) -> NamedSharding:
    """Splits leading dimensions by logical axes; without any, replicated."""
    return NamedSharding(mesh, spec(axes, mesh))

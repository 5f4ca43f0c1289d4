"""Texts and pictures of many lanes a prompt: spread over the devices, so many a device at a time. Pure: to be jitted by the
caller."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mvgrpo_jax.core.structs import Condition
from mvgrpo_jax.models.module import Params
from mvgrpo_jax.parallel import spread
from mvgrpo_jax.pipelines.flux import Pipeline, decode
from mvgrpo_jax.pipelines.text import encode


def encode_lanes(pipeline: Pipeline, params: dict[str, Params], ids_clip, ids_t5, dtype, most: int) -> Condition:
    """Token ids [P, n, S] of both encoders -> Condition [P, n]. most: texts that a device encodes at a time."""
    flat = tuple(spread.flatten(ids) for ids in (ids_clip, ids_t5))
    encoded = spread.by_parts(lambda ids: encode(pipeline, params, *ids, dtype), flat, most)
    return jax.tree.map(lambda a: spread.unflatten(a, ids_clip.shape[0])[:, : ids_clip.shape[1]], encoded)


def encode_views(pipeline: Pipeline, params: dict[str, Params], ids_clip, ids_t5, dtype, most: int) -> Condition:
    """Token ids [V, P, R, S] -> Condition [V, P, R]. Views that are split over the lanes of the mesh are encoded there."""
    views, prompts, branches = ids_clip.shape[:3]
    rows = (jnp.moveaxis(a, 1, 0).reshape(prompts, views * branches, -1) for a in (ids_clip, ids_t5))
    encoded = encode_lanes(pipeline, params, *rows, dtype, most)
    return jax.tree.map(lambda a: jnp.moveaxis(a.reshape(prompts, views, branches, *a.shape[2:]), 0, 1), encoded)


def decode_lanes(
    pipeline: Pipeline, params: Params, latents: jax.Array, grid: tuple[int, int], dtype, most: int
) -> tuple[jax.Array, jax.Array]:
    """Packed latents [P, n, L, C] -> (pictures uint8 [P, m, H, W, 3], whether each is finite, bool [P, m]); what is not a
    number becomes gray. m is n, or as parallel/spread.py pads it. most: pictures that a device decodes at a time."""

    def one(x):
        image = decode(pipeline, params, x, grid, dtype)
        finite = jnp.isfinite(image).all((1, 2, 3)) & jnp.isfinite(x).all((1, 2))
        return jnp.round(jnp.nan_to_num(image, nan=0.5) * 255.0).astype(jnp.uint8), finite

    parts = spread.by_parts(one, spread.flatten(latents), most)
    return jax.tree.map(lambda a: spread.unflatten(a, latents.shape[0]), parts)

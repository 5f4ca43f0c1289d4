"""Scales of float8 weights, in every spelling: which tensors of a file they are, and the weights times them.

ComfyUI's older files have `X.scale_weight`, its newer ones and compressed-tensors `X.weight_scale`. Beside them may stand the
scales of activations (`X.scale_input`, `X.input_scale`), a note of the format (`X.comfy_quant`, JSON as bytes) and a marker of
the whole file (`scaled_fp8`): none of these changes a weight.
"""

from __future__ import annotations

import json

import numpy as np

from mvgrpo_jax.convert.formats import INSTEAD
from mvgrpo_jax.errors import UserError

SCALES = (".scale_weight", ".weight_scale")
_NOTES = (".scale_input", ".input_scale", ".comfy_quant")
_MARKER = "scaled_fp8"


def split(tensors: dict, where: str) -> tuple[dict, dict]:
    """(weights, scales by the name of their weight) of a file's tensors; notes and markers are left out.

    A scale or note without its weight stays among the weights, so that it is reported as unexpected. Raises UserError for two
    scales of one weight, for scales that are not numbers, and for a note of another format than float8.
    """
    scales, weights = {}, {}
    for name, tensor in tensors.items():
        suffix = next((s for s in (*SCALES, *_NOTES) if name.endswith(s)), None)
        weight = suffix and name.removesuffix(suffix) + ".weight"
        if weight in tensors:
            if suffix in SCALES:
                if weight in scales:
                    raise UserError(f"{where}: {weight} has two scales, {' and '.join(SCALES)}; expected one of them")
                if tensor.dtype.kind in "biu":
                    raise UserError(f"{where}: {name} is {tensor.dtype}, expected a floating-point scale; {INSTEAD}")
                scales[weight] = tensor
            elif suffix == ".comfy_quant":
                _check(tensor.read(0, None), name, where)
        elif name != _MARKER and not name.endswith("." + _MARKER):
            weights[name] = tensor
    for name, scale in scales.items():
        weight = tensors[name]
        if weight.dtype.kind in "biu":
            raise UserError(f"{where}: {name} is {weight.dtype} with a scale: integer quantisation; {INSTEAD}")
        if _factors(scale.shape, weight.shape) is None:
            raise UserError(
                f"{where}: the scale of {name} has shape {list(scale.shape)}, which does not divide the weight's "
                f"{list(weight.shape)}; expected one number, one a row, or one a block"
            )
    return weights, scales


def _check(note: np.ndarray, name: str, where: str) -> None:
    try:
        content = json.loads(note.tobytes())
        kind, rotated = str(content["format"]), bool(content.get("convrot"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{where}: {name} does not name a format ({error!r}); the file is damaged, copy it again") from None
    if not kind.startswith(("float8_e4m3fn", "float8_e5m2")) or rotated:
        raise UserError(f"{where}: {name} says {kind}{' with rotated weights' * rotated}; {INSTEAD}")


def _factors(scale: tuple[int, ...], weight: tuple[int, ...]) -> tuple[int, ...] | None:
    """How many neighbours along each axis of a weight share a number of its scale; None where that is not whole."""
    if int(np.prod(scale)) == 1:
        return weight
    if len(scale) == 1:
        return (1, *weight[1:]) if scale[0] == weight[0] else None
    while len(scale) > len(weight) and scale[-1] == 1:
        scale = scale[:-1]
    if len(scale) != len(weight) or any(s == 0 or w % s for s, w in zip(scale, weight)):
        return None
    return tuple(w // s for s, w in zip(scale, weight))


def scaled(rows: np.ndarray, scale: np.ndarray, weight: tuple[int, ...], start: int = 0) -> np.ndarray:
    """Float32: rows `start`, `start + 1`, ... of a weight of shape `weight`, times its scale (one number, one a row, or one a
    block of neighbours)."""
    rows, scale = rows.astype(np.float32), scale.astype(np.float32)
    if scale.size == 1:
        return rows * scale.reshape(())
    factors = _factors(scale.shape, weight)
    scale = scale.reshape([w // f for w, f in zip(weight, factors)])
    scale = scale[np.arange(start, start + len(rows)) // factors[0]]
    for axis in range(1, len(weight)):
        scale = np.repeat(scale, factors[axis], axis) if scale.shape[axis] > 1 else scale
    return rows * scale

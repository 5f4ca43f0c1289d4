"""Heads that are layers without activations between them: one linear layer, multiplied out in float64."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from mvgrpo_jax.convert.sources import Source
from mvgrpo_jax.errors import UserError

HEAD = ("head.weight", "head.bias")


class Held:
    """Arrays by name as a source."""

    def __init__(self, arrays: dict[str, np.ndarray], where: str):
        self.arrays, self.where = arrays, where

    def names(self) -> list[str]:
        return list(self.arrays)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.arrays[name].shape

    def dtype(self, name: str) -> np.dtype:
        return self.arrays[name].dtype

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        array = self.arrays[name]
        return array[start:stop] if array.ndim else array


class Joined:
    """Several sources as one; a name is read from the first that has it."""

    def __init__(self, sources: Iterable[Source]):
        self.of: dict[str, Source] = {}
        for source in sources:
            self.of = {name: source for name in source.names()} | self.of
        self.where = ", ".join(dict.fromkeys(source.where for source in self.of.values()))

    def names(self) -> list[str]:
        return list(self.of)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.of[name].shape(name)

    def dtype(self, name: str) -> np.dtype:
        return self.of[name].dtype(name)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        return self.of[name].read(name, start, stop)


def folded(source: Source, prefix: str, shift: float = 0.0, scale: float = 1.0) -> Held:
    """Of the linear layers prefix N, with weight and bias, their product as one layer with one output, minus `shift` and over
    `scale`: the tensors HEAD, float32. UserError where the layers do not make one."""
    numbers = sorted({int(m[1]) for n in source.names() if (m := re.fullmatch(re.escape(prefix) + r"(\d+)\.weight", n))})
    layers = [[f"{prefix}{n}.{part}" for part in ("weight", "bias")] for n in numbers]
    shapes = [tuple(source.shape(name) for name in layer) for layer in layers if layer[1] in source.names()]
    fits = all(len(w) == 2 and b == w[:1] for w, b in shapes) and len(shapes) == len(layers)
    if not layers or not fits or shapes[-1][0][0] != 1 or any(a[0][0] != b[0][1] for a, b in zip(shapes, shapes[1:])):
        raise UserError(
            f"{source.where}: expected linear layers {prefix}N with weight and bias that end in one number, found "
            f"{', '.join(str(list(s[0])) for s in shapes) or 'none'}; check that the file is this judge's"
        )
    weight, bias = None, None
    for layer in layers:
        w, b = (source.read(name).astype(np.float64) for name in layer)
        weight, bias = (w, b) if weight is None else (w @ weight, w @ bias + b)
    values = (weight / scale, (bias - shift) / scale)
    return Held({name: value.astype(np.float32) for name, value in zip(HEAD, values)}, source.where)

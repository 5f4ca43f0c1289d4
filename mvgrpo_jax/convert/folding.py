"""Heads that are layers without activations between them: one linear layer, multiplied out in float64."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

import numpy as np

from mvgrpo_jax.convert.sources import Source
from mvgrpo_jax.errors import UserError

HEAD = ("head.weight", "head.bias")


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


class Folded:
    """Of the linear layers prefix N of a source, with weight and bias, their product as one layer with one output, minus
    `shift` and over `scale`: the tensors HEAD, float32. UserError where the layers do not make one."""

    def __init__(self, source: Source, prefix: str, shift: float = 0.0, scale: float = 1.0):
        self.source, self.where, self.shift, self.scale = source, source.where, shift, scale
        names = set(source.names())
        numbers = sorted({int(m[1]) for n in names if (m := re.fullmatch(re.escape(prefix) + r"(\d+)\.weight", n))})
        self.layers = [(f"{prefix}{n}.weight", f"{prefix}{n}.bias") for n in numbers]
        shapes = [(source.shape(w), source.shape(b)) for w, b in self.layers if b in names]
        fits = all(len(w) == 2 and b == w[:1] for w, b in shapes) and len(shapes) == len(numbers)
        if not shapes or not fits or shapes[-1][0][0] != 1 or any(a[0][0] != b[0][1] for a, b in zip(shapes, shapes[1:])):
            raise UserError(
                f"{self.where}: expected linear layers {prefix}N with weight and bias that end in one number, found "
                f"{', '.join(str(list(w)) for w, _ in shapes) or 'none'}; check that the file is this judge's"
            )
        self.width = shapes[0][0][1]

    @functools.cached_property
    def values(self) -> dict[str, np.ndarray]:
        weight, bias = np.eye(self.width), np.zeros(self.width)
        for layer in self.layers:
            w, b = (self.source.read(name).astype(np.float64) for name in layer)
            weight, bias = w @ weight, w @ bias + b
        values = (weight / self.scale, (bias - self.shift) / self.scale)
        return {name: value.astype(np.float32) for name, value in zip(HEAD, values)}

    def names(self) -> list[str]:
        return list(HEAD)

    def shape(self, name: str) -> tuple[int, ...]:
        return {HEAD[0]: (1, self.width), HEAD[1]: (1,)}[name]

    def dtype(self, name: str) -> np.dtype:
        return np.dtype(np.float32)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        return self.values[name][start:stop]

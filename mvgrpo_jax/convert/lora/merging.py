"""Weights with a LoRA added into them, in the dtype in which they are written."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from mvgrpo_jax.convert.lora.trees import Factors
from mvgrpo_jax.convert.sources import Source
from mvgrpo_jax.convert.writing import dtype_written
from mvgrpo_jax.errors import UserError

TOLERATED = 0.01  # share of the change that rounding may take before it is worth a word


class Merged:
    """A source of weights W + up @ down: added in float32 (float64 for a float64 source), then rounded once, to `dtype`.

    dtype: of floating-point tensors; None keeps each one's own. `report` tells what rounding took from the change, over the
    tensors read so far.
    """

    def __init__(self, source: Source, factors: Factors, dtype: Any = None):
        self.source, self.factors, self.where = source, factors, source.where
        self.asked = dtype
        self.coarse: str = ""  # the dtype of the last adapted weight
        self.weights: set[str] = set()
        self.error = self.change = 0.0  # squared norms

    def names(self) -> list[str]:
        return self.source.names()

    def shape(self, name: str) -> tuple[int, ...]:
        return self.source.shape(name)

    def dtype(self, name: str) -> np.dtype:
        return dtype_written(self.source.dtype(name), self.asked)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Raises UserError where merged values are beyond the range of the dtype."""
        base = self.source.read(name, start, stop)
        pair = self.factors.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
        dtype = self.dtype(name)
        if pair is None:
            return base.astype(dtype, copy=False)
        down, up = pair
        work = np.float64 if base.dtype == np.float64 else np.float32
        base, delta = base.astype(work), up[start:stop].astype(work) @ down.astype(work)
        exact = base + delta
        with np.errstate(over="ignore"):
            out = exact.astype(dtype)
        error = out.astype(work)
        if not np.isfinite(error).all() and np.isfinite(exact).all():
            raise UserError(
                f"{name}: merged values reach {np.abs(exact).max():.3g}, beyond the range of {dtype.name}; "
                "ask for bfloat16 or float32"
            )
        error -= base
        error -= delta
        self.error += float(np.linalg.norm(error)) ** 2
        self.change += float(np.linalg.norm(delta)) ** 2
        self.weights.add(name)
        self.coarse = dtype.name
        return out

    def report(self) -> float:
        """The relative norm of what rounding took from the change. Warns when it is over a hundredth."""
        share = math.sqrt(self.error / self.change) if self.change else 0.0
        if share > TOLERATED:
            warnings.warn(
                f"{self.coarse} cannot hold the LoRA's change to {self.where}: its rounding takes {share:.0%} of the change "
                f"(relative norm over {len(self.weights)} weights); write the weights as float32, or use the LoRA beside them",
                stacklevel=2,
            )
        return share

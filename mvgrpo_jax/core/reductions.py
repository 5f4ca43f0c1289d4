"""Metrics as types that know how they are reduced: over draws, microbatches and optimiser steps.

A metric enters with one value a draw, or with one value in all; `weighted` lets draws count differently, `reduce` joins
everything along all axes, also after a scan has stacked the metrics of its steps, and `value` is the number that is logged.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mean:
    """A weighted mean: `total` of weight x value, and the `weight` itself; of equal shapes."""

    total: jax.Array
    weight: jax.Array

    @classmethod
    def of(cls, values: jax.Array) -> Mean:
        """Values that count alike."""
        values = jnp.asarray(values, jnp.float32)
        return cls(values, jnp.ones_like(values))

    def weighted(self, weight: jax.Array) -> Mean:
        """Each value's share multiplied by a weight of the same shape."""
        return Mean(self.total * weight, self.weight * weight)

    def reduce(self) -> Mean:
        return Mean(self.total.sum(), self.weight.sum())

    def value(self) -> jax.Array:
        return self.total / self.weight


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Min:
    """The smallest of the values, whatever their weights."""

    values: jax.Array

    def weighted(self, weight: jax.Array) -> Min:
        del weight
        return self

    def reduce(self) -> Min:
        return Min(jnp.min(self.values))

    def value(self) -> jax.Array:
        return self.values


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Max:
    """The largest of the values, whatever their weights."""

    values: jax.Array

    def weighted(self, weight: jax.Array) -> Max:
        del weight
        return self

    def reduce(self) -> Max:
        return Max(jnp.max(self.values))

    def value(self) -> jax.Array:
        return self.values


Metric = Mean | Min | Max

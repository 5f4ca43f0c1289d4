"""Counting floating-point operations of a program from its jaxpr: exact for matrix products, platform-free.

XLA's own cost analysis counts a scan's body once; this multiplies by its length.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
from jax.extend.core import jaxprs_in_params


def _dot_general(eqn) -> int:
    (contract, _), _ = eqn.params["dimension_numbers"]
    lhs = eqn.invars[0].aval.shape
    return 2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(lhs[i] for i in contract)


def _convolution(eqn) -> int:
    kernel = eqn.invars[1].aval.shape
    out_channels = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
    return 2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(kernel) // out_channels


def _count(jaxpr) -> int:
    total = 0
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        if name == "dot_general":
            total += _dot_general(eqn)
        elif name == "conv_general_dilated":
            total += _convolution(eqn)
        elif name == "while":
            raise ValueError("a while loop has no length known beforehand; use scan where work is counted")
        elif name == "cond":
            total += max(_count(branch.jaxpr) for branch in eqn.params["branches"])
        else:
            times = eqn.params["length"] if name == "scan" else 1
            total += times * sum(_count(sub) for sub in jaxprs_in_params(eqn.params))
    return total


def count(function: Callable, *args) -> int:
    """Floating-point operations (two per multiply-add) of matrix products and convolutions in function(*args).

    args may be arrays or jax.ShapeDtypeStruct. Raises ValueError at a while loop.
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr)

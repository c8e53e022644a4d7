"""Reductions, and what runs along an axis."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array

from epochal.ops.wrap import Axis, axes, op, reduction, tensor, unary

# fmt: off
__all__ = [
    "all", "amax", "amin", "any", "argmax", "argmin", "average", "count_nonzero", "cumprod", "cumsum", "diff",
    "fliplr", "flipud", "max", "mean", "median", "min", "nanargmax", "nanargmin", "nancumprod", "nancumsum",
    "nanmax", "nanmean", "nanmedian", "nanmin", "nanpercentile", "nanprod", "nanquantile", "nanstd", "nansum",
    "nanvar", "percentile", "prod", "ptp", "quantile", "std", "sum", "trapezoid", "var",
]
# fmt: on


# -- along axes

all = reduction(jnp.all)
amax = reduction(jnp.amax)
amin = reduction(jnp.amin)
any = reduction(jnp.any)
argmax = reduction(jnp.argmax)
argmin = reduction(jnp.argmin)
mean = reduction(jnp.mean)
median = reduction(jnp.median)
nanargmax = reduction(jnp.nanargmax)
nanargmin = reduction(jnp.nanargmin)
nanmax = reduction(jnp.nanmax)
nanmean = reduction(jnp.nanmean)
nanmedian = reduction(jnp.nanmedian)
nanmin = reduction(jnp.nanmin)
nanprod = reduction(jnp.nanprod)
nanstd = reduction(jnp.nanstd)
nansum = reduction(jnp.nansum)
nanvar = reduction(jnp.nanvar)
ptp = reduction(jnp.ptp)
std = reduction(jnp.std)
sum = reduction(jnp.sum)
var = reduction(jnp.var)


@op
def max(x: Any, axis: Axis = None, keepdims: bool = False, initial: Any = None) -> Array:
    """The largest value along `axis`, and at least `initial`."""
    return jnp.max(tensor(x), axes(axis), keepdims=keepdims, initial=initial)


@op
def min(x: Any, axis: Axis = None, keepdims: bool = False, initial: Any = None) -> Array:
    """The smallest value along `axis`, and at most `initial`."""
    return jnp.min(tensor(x), axes(axis), keepdims=keepdims, initial=initial)


@op
def prod(x: Any, axis: Axis = None, keepdims: bool = False, dtype: Any = None) -> Array:
    """The product along `axis`."""
    return jnp.prod(tensor(x), axes(axis), dtype, keepdims=keepdims)


@op
def average(x: Any, axis: Axis = None, weights: Any = None) -> Array:
    """The mean along `axis`, weighted where `weights` are given."""
    return jnp.average(tensor(x), axes(axis), None if weights is None else tensor(weights))


@op
def count_nonzero(x: Any, axis: Axis = None) -> Array:
    """How many values along `axis` are not 0."""
    return jnp.count_nonzero(tensor(x), axes(axis))


@op
def quantile(x: Any, q: Any, axis: Axis = None, method: str = "linear", keepdims: bool = False) -> Array:
    """The values below which the parts `q` (0 … 1) of x lie along `axis`."""
    return jnp.quantile(tensor(x), tensor(q), axes(axis), method=method, keepdims=keepdims)


@op
def nanquantile(x: Any, q: Any, axis: Axis = None, method: str = "linear", keepdims: bool = False) -> Array:
    """`quantile`, NaN left out."""
    return jnp.nanquantile(tensor(x), tensor(q), axes(axis), method=method, keepdims=keepdims)


@op
def percentile(x: Any, q: Any, axis: Axis = None, method: str = "linear", keepdims: bool = False) -> Array:
    """`quantile` with `q` in percent."""
    return jnp.percentile(tensor(x), tensor(q), axes(axis), method=method, keepdims=keepdims)


@op
def nanpercentile(x: Any, q: Any, axis: Axis = None, method: str = "linear", keepdims: bool = False) -> Array:
    """`percentile`, NaN left out."""
    return jnp.nanpercentile(tensor(x), tensor(q), axes(axis), method=method, keepdims=keepdims)


@op
def cumsum(x: Any, axis: int | None = None, dtype: Any = None) -> Array:
    """Running sums along `axis`; of the flattened array for None."""
    return jnp.cumsum(tensor(x), axis, dtype)


@op
def cumprod(x: Any, axis: int | None = None, dtype: Any = None) -> Array:
    """Running products along `axis`; of the flattened array for None."""
    return jnp.cumprod(tensor(x), axis, dtype)


@op
def nancumsum(x: Any, axis: int | None = None, dtype: Any = None) -> Array:
    """`cumsum` with NaN as 0."""
    return jnp.nancumsum(tensor(x), axis, dtype)


@op
def nancumprod(x: Any, axis: int | None = None, dtype: Any = None) -> Array:
    """`cumprod` with NaN as 1."""
    return jnp.nancumprod(tensor(x), axis, dtype)


@op
def diff(a: Any, n: int = 1, axis: int = -1) -> Array:
    """Differences of neighbours along `axis`, taken n times."""
    return jnp.diff(tensor(a), n, axis)


@op
def trapezoid(y: Any, x: Any = None, dx: Any = 1.0, axis: int = -1) -> Array:
    """The integral of y along `axis` by the trapezoidal rule, at the places x or at steps of dx."""
    return jnp.trapezoid(tensor(y), None if x is None else tensor(x), dx, axis)


fliplr = unary(jnp.fliplr)
flipud = unary(jnp.flipud)

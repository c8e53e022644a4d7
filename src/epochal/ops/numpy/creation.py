"""New arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array

from epochal.ops.wrap import Shape, op, tensor, unary

# fmt: off
__all__ = [
    "arange", "array", "bartlett", "blackman", "empty", "empty_like", "eye", "full", "full_like", "geomspace",
    "hamming", "hanning", "identity", "kaiser", "linspace", "logspace", "ones", "ones_like", "tri", "vectorize",
    "zeros", "zeros_like",
]
# fmt: on


# -- new arrays; float32 where no type is given


@op
def array(x: Any, dtype: Any = None) -> Array:
    """A new array of these values."""
    return jnp.array(x, dtype)


@op
def zeros(shape: Shape, dtype: Any = None) -> Array:
    """All 0."""
    return jnp.zeros(shape, dtype or "float32")


@op
def ones(shape: Shape, dtype: Any = None) -> Array:
    """All 1."""
    return jnp.ones(shape, dtype or "float32")


@op
def empty(shape: Shape, dtype: Any = None) -> Array:
    """Any values; here all 0."""
    return jnp.empty(shape, dtype or "float32")


@op
def full(shape: Shape, fill_value: Any, dtype: Any = None) -> Array:
    """All the same value."""
    return jnp.full(shape, tensor(fill_value), dtype or "float32")


@op
def zeros_like(x: Any, dtype: Any = None) -> Array:
    """All 0, in the shape of x, and its type where none is given."""
    return jnp.zeros_like(tensor(x), dtype)


@op
def ones_like(x: Any, dtype: Any = None) -> Array:
    """All 1, in the shape of x, and its type where none is given."""
    return jnp.ones_like(tensor(x), dtype)


@op
def empty_like(x: Any, dtype: Any = None) -> Array:
    """Any values (here 0), in the shape of x, and its type where none is given."""
    return jnp.empty_like(tensor(x), dtype)


@op
def full_like(x: Any, fill_value: Any, dtype: Any = None) -> Array:
    """All the same value, in the shape of x, and its type where none is given."""
    return jnp.full_like(tensor(x), tensor(fill_value), dtype)


@op
def eye(N: int, M: int | None = None, k: int = 0, dtype: Any = None) -> Array:
    """An N by M matrix (M = N when not given) with 1 on its k-th diagonal."""
    return jnp.eye(N, M, k, dtype or "float32")


@op
def identity(n: int, dtype: Any = None) -> Array:
    """The n by n identity."""
    return jnp.identity(n, dtype or "float32")


@op
def tri(N: int, M: int | None = None, k: int = 0, dtype: Any = None) -> Array:
    """An N by M matrix with 1 on and below its k-th diagonal."""
    return jnp.tri(N, M, k, dtype or "float32")


@op
def arange(start: Any, stop: Any = None, step: Any = None, dtype: Any = None) -> Array:
    """The numbers from `start` (0, if there is no `stop`) up to but without `stop`."""
    return jnp.arange(start, stop, step, dtype)


@op
def linspace(
    start: Any,
    stop: Any,
    num: int = 50,
    endpoint: bool = True,
    retstep: bool = False,
    dtype: Any = None,
    axis: int = 0,
) -> Any:
    """Numbers at equal distances; with the distance, if `retstep`."""
    return jnp.linspace(start, stop, num, endpoint, retstep, dtype, axis)


@op
def logspace(
    start: Any, stop: Any, num: int = 50, endpoint: bool = True, base: Any = 10, dtype: Any = None, axis: int = 0
) -> Array:
    """Powers of `base`, their exponents at equal distances."""
    return jnp.logspace(start, stop, num, endpoint, base, dtype, axis)


@op
def geomspace(start: Any, stop: Any, num: int = 50, endpoint: bool = True, dtype: Any = None, axis: int = 0) -> Array:
    """Numbers at equal ratios."""
    return jnp.geomspace(start, stop, num, endpoint, dtype, axis)


bartlett = unary(jnp.bartlett)
blackman = unary(jnp.blackman)
hamming = unary(jnp.hamming)
hanning = unary(jnp.hanning)


@op
def kaiser(x: Any, beta: Any) -> Array:
    """The Kaiser window of x points."""
    return jnp.kaiser(x, beta)


def vectorize(pyfunc: Callable, *, excluded: Any = None, signature: str | None = None) -> Callable:
    """A function of single values as one of arrays of them."""
    return jnp.vectorize(pyfunc, excluded=excluded or set(), signature=signature)

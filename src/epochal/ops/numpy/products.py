"""Products of arrays, and matrices by their diagonals."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array

from epochal.ops.wrap import binary, op, tensor, unary

# fmt: off
__all__ = [
    "corrcoef", "correlate", "cross", "diag", "diagflat", "diagonal", "dot", "einsum", "inner", "kron", "matmul",
    "outer", "slogdet", "tensordot", "trace", "tril", "triu", "vander", "vdot",
]
# fmt: on


# -- products and matrices

dot = binary(jnp.dot)
inner = binary(jnp.inner)
kron = binary(jnp.kron)
matmul = binary(jnp.matmul)
outer = binary(jnp.outer)
vdot = binary(jnp.vdot)
corrcoef = unary(jnp.corrcoef)


@op
def tensordot(x1: Any, x2: Any, axes: Any = 2) -> Array:
    """The sum of products over the last axes of x1 and the first of x2, or over those named."""
    return jnp.tensordot(tensor(x1), tensor(x2), axes)


@op
def einsum(subscripts: str, *operands: Any, **kwargs: Any) -> Array:
    """The sum of products that `subscripts` describe, such as "ij,jk->ik"."""
    return jnp.einsum(subscripts, *[tensor(x) for x in operands], **kwargs)


@op
def cross(x1: Any, x2: Any, axisa: int = -1, axisb: int = -1, axisc: int = -1, axis: int | None = None) -> Array:
    """The cross product of vectors along an axis."""
    return jnp.cross(tensor(x1), tensor(x2), axisa, axisb, axisc, axis)


@op
def correlate(x1: Any, x2: Any, mode: str = "valid") -> Array:
    """The sums of products of x1 and the shifted x2, both of rank 1."""
    return jnp.correlate(tensor(x1), tensor(x2), mode)


@op
def slogdet(x: Any) -> tuple[Array, Array]:
    """Sign and logarithm of the size of a determinant."""
    sign, logarithm = jnp.linalg.slogdet(tensor(x))
    return sign, logarithm


@op
def trace(x: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Array:
    """The sum of a diagonal."""
    return jnp.trace(tensor(x), offset, axis1, axis2)


@op
def diag(x: Any, k: int = 0) -> Array:
    """A diagonal of a matrix, or the matrix that has x on it."""
    return jnp.diag(tensor(x), k)


@op
def diagflat(x: Any, k: int = 0) -> Array:
    """The matrix that has the flattened x on its diagonal."""
    return jnp.diagflat(tensor(x), k)


@op
def diagonal(x: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Array:
    """The diagonals over two axes, along the last axis."""
    return jnp.diagonal(tensor(x), offset, axis1, axis2)


@op
def tril(x: Any, k: int = 0) -> Array:
    """x with 0 above its k-th diagonal."""
    return jnp.tril(tensor(x), k)


@op
def triu(x: Any, k: int = 0) -> Array:
    """x with 0 below its k-th diagonal."""
    return jnp.triu(tensor(x), k)


@op
def vander(x: Any, N: int | None = None, increasing: bool = False) -> Array:
    """The powers of x as columns."""
    return jnp.vander(tensor(x), N, increasing)

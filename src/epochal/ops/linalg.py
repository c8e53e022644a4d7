"""Linear algebra: `jax.numpy.linalg` under Keras's names, over the last two axes of arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import jax.scipy.linalg
from jax import Array
from jax.core import Tracer

from epochal.ops.wrap import Axis, axes, op, tensor, unary

# fmt: off
__all__ = [
    "cholesky", "cholesky_inverse", "det", "eig", "eigh", "inv", "jvp", "lstsq", "lu_factor", "matrix_rank", "norm",
    "pinv", "qr", "solve", "solve_triangular", "svd",
]

# fmt: on

det = unary(jnp.linalg.det)
inv = unary(jnp.linalg.inv)


@op
def solve(a: Any, b: Any) -> Array:
    """x with a x = b."""
    return jnp.linalg.solve(tensor(a), tensor(b))


@op
def solve_triangular(a: Any, b: Any, lower: bool = False) -> Array:
    """x with a x = b, where a has nothing below its diagonal (above it, if `lower`)."""
    return jax.scipy.linalg.solve_triangular(tensor(a), tensor(b), lower=lower)


@op
def lstsq(a: Any, b: Any, rcond: Any = None) -> Array:
    """x for which a x is nearest to b."""
    return jnp.linalg.lstsq(tensor(a), tensor(b), rcond)[0]


@op
def cholesky(x: Any, upper: bool = False) -> Array:
    """The lower (or upper) triangular matrix whose product with its transpose is x.

    Raises:
        ValueError: x is not positive definite; in compiled code the result is NaN.
    """
    factor = jnp.linalg.cholesky(tensor(x), upper=upper)
    if not isinstance(factor, Tracer) and bool(jnp.isnan(factor).any()):
        raise ValueError("Expected a positive definite matrix for cholesky().")
    return factor


@op
def cholesky_inverse(x: Any, upper: bool = False) -> Array:
    """The inverse of the matrix whose Cholesky factor is x."""
    factor = jnp.asarray(x)
    inverse = jax.scipy.linalg.solve_triangular(factor, jnp.eye(factor.shape[-1], dtype=factor.dtype), lower=not upper)
    return inverse @ inverse.T if upper else inverse.T @ inverse


@op
def eig(x: Any) -> tuple[Array, Array]:
    """Eigenvalues and eigenvectors; on a CPU only."""
    values, vectors = jnp.linalg.eig(tensor(x))
    return values, vectors


@op
def eigh(x: Any) -> tuple[Array, Array]:
    """Eigenvalues, rising, and eigenvectors of symmetric matrices."""
    values, vectors = jnp.linalg.eigh(tensor(x))
    return values, vectors


@op
def lu_factor(x: Any) -> tuple[Array, Array]:
    """The lower and the upper triangular factor in one matrix, and how its rows were exchanged."""
    lu, pivots = jax.scipy.linalg.lu_factor(tensor(x))
    return lu, pivots


@op
def qr(x: Any, mode: str = "reduced") -> tuple[Array, Array]:
    """An orthogonal and an upper triangular factor; `mode` is "reduced" or "complete"."""
    if mode not in ("reduced", "complete"):
        raise ValueError(f"Expected mode 'reduced' or 'complete', got {mode!r}.")
    q, r = jnp.linalg.qr(tensor(x), mode)
    return q, r


@op
def svd(x: Any, full_matrices: bool = True, compute_uv: bool = True) -> Any:
    """Left vectors, singular values (falling) and right vectors; the values alone without `compute_uv`."""
    found = jnp.linalg.svd(tensor(x), full_matrices, compute_uv)
    return tuple(found) if compute_uv else found


@op
def pinv(x: Any, rcond: Any = None) -> Array:
    """The pseudo-inverse."""
    return jnp.linalg.pinv(tensor(x), rcond)


@op
def matrix_rank(x: Any, tol: Any = None) -> Array:
    """How many singular values are larger than `tol`."""
    return jnp.linalg.matrix_rank(tensor(x), tol).astype("int32")


@op
def norm(x: Any, ord: Any = None, axis: Axis = None, keepdims: bool = False) -> Array:
    """The norm of vectors along one axis, of matrices along two, or of all values."""
    array = jnp.asarray(x)
    return jnp.linalg.norm(array.astype(jnp.result_type(array, jnp.float32)), ord, axes(axis), keepdims)


def jvp(fun: Callable, primals: Any, tangents: Any, has_aux: bool = False) -> Any:
    """The value of a function and its derivative in the direction `tangents`."""
    return jax.jvp(fun, primals, tangents, has_aux=has_aux)

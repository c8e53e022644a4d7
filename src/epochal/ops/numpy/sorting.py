"""Order, bins and counts."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array

from epochal.ops.wrap import op, tensor

# fmt: off
__all__ = [
    "argpartition", "argsort", "bincount", "digitize", "histogram", "nonzero", "searchsorted", "sort", "unique",
]
# fmt: on


# -- sorting and searching


@op
def sort(x: Any, axis: int = -1) -> Array:
    """x in ascending order along `axis`."""
    return jnp.sort(tensor(x), axis)


@op
def argsort(x: Any, axis: int = -1) -> Array:
    """The indices that put x in ascending order along `axis`."""
    array = jnp.asarray(x)
    return jnp.argsort(array, axis if array.ndim else None)


@op
def argpartition(x: Any, kth: int, axis: int | None = -1) -> Array:
    """The indices that bring the smallest `kth` values along `axis` to the front, in any order."""
    array = jnp.asarray(x)
    return jnp.argpartition(array.ravel() if axis is None else array, kth, 0 if axis is None else axis)


@op
def searchsorted(sorted_sequence: Any, values: Any, side: str = "left") -> Array:
    """Where `values` would go in a sorted array of rank 1 to keep it sorted."""
    return jnp.searchsorted(tensor(sorted_sequence), tensor(values), side)


@op
def digitize(x: Any, bins: Any) -> Array:
    """The number of the bin, between the rising edges `bins`, that each value falls into."""
    return jnp.digitize(tensor(x), tensor(bins))


@op
def bincount(x: Any, weights: Any = None, minlength: int = 0, sparse: bool = False) -> Array:
    """How often each integer occurs (or the sum of its weights), row by row for rank 2; not in compiled code.

    Raises:
        ValueError: a sparse result is asked for.
    """
    if sparse:
        raise ValueError("Expected sparse=False: epochal's arrays are dense.")
    array = jnp.asarray(x)
    w = None if weights is None else jnp.asarray(weights)
    if array.ndim == 1:
        return jnp.bincount(array, w, minlength)
    length = int(jnp.maximum(array.max() + 1, minlength))
    rows = [jnp.bincount(row, None if w is None else w[i], length) for i, row in enumerate(array)]
    return jnp.stack(rows)


@op
def histogram(x: Any, bins: Any = 10, range: Any = None) -> tuple[Array, Array]:
    """How many values fall into each bin, and the bins' edges."""
    return jnp.histogram(tensor(x), bins, range)


@op
def unique(
    x: Any,
    sorted: bool = True,
    return_index: bool = False,
    return_inverse: bool = False,
    return_counts: bool = False,
    axis: int | None = None,
    size: int | None = None,
    fill_value: Any = None,
) -> Any:
    """The values that occur, each once; in compiled code `size` must say how many to expect."""
    return jnp.unique(
        tensor(x),
        return_index,
        return_inverse,
        return_counts,
        axis,
        equal_nan=False,
        size=size,
        fill_value=fill_value,
        sorted=sorted,
    )


@op
def nonzero(x: Any) -> tuple[Array, ...]:
    """The indices of the values that are not 0, an array per axis; not in compiled code."""
    return jnp.nonzero(tensor(x))

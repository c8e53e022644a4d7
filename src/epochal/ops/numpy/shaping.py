"""Shapes: arrays joined, cut, turned and padded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array

from epochal.ops.wrap import Axis, Shape, axes, op, tensor
from epochal.tracing.symbolic import SymbolicTensor

# fmt: off
__all__ = [
    "append", "array_split", "broadcast_to", "concatenate", "dsplit", "dstack", "expand_dims", "flip", "get_item",
    "hsplit", "hstack", "meshgrid", "moveaxis", "ndim", "pad", "ravel", "repeat", "reshape", "roll", "rot90",
    "size", "split", "squeeze", "stack", "swapaxes", "take", "take_along_axis", "tile", "transpose",
    "unravel_index", "view", "vsplit", "vstack",
]
# fmt: on


# -- shapes


@op
def reshape(x: Any, newshape: Any) -> Array:
    """x in another shape; one size may be -1, or None as in `shape` of a symbolic tensor."""
    sizes = newshape if isinstance(newshape, int) else [-1 if n is None else n for n in newshape]
    return jnp.reshape(jnp.asarray(x), sizes)


@op
def ravel(x: Any) -> Array:
    """x as one axis."""
    return jnp.ravel(tensor(x))


@op
def expand_dims(x: Any, axis: int | Sequence[int]) -> Array:
    """x with an axis of size 1 more, at each place named."""
    return jnp.expand_dims(tensor(x), axes(axis))


@op
def squeeze(x: Any, axis: Axis = None) -> Array:
    """x without the axes of size 1, or those of them named."""
    return jnp.squeeze(tensor(x), axes(axis))


@op
def transpose(x: Any, axes: Sequence[int] | None = None) -> Array:
    """x with its axes in this order; reversed for None."""
    return jnp.transpose(tensor(x), axes)


@op
def swapaxes(x: Any, axis1: int, axis2: int) -> Array:
    """x with two axes exchanged."""
    return jnp.swapaxes(tensor(x), axis1, axis2)


@op
def moveaxis(x: Any, source: int | Sequence[int], destination: int | Sequence[int]) -> Array:
    """x with axes moved to other places, the others keeping their order."""
    return jnp.moveaxis(tensor(x), axes(source), axes(destination))


@op
def broadcast_to(x: Any, shape: Shape) -> Array:
    """x repeated to this shape."""
    return jnp.broadcast_to(tensor(x), shape)


@op
def flip(x: Any, axis: Axis = None) -> Array:
    """x backwards along these axes."""
    return jnp.flip(tensor(x), axes(axis))


@op
def rot90(array: Any, k: int = 1, axes: Sequence[int] = (0, 1)) -> Array:
    """The array turned k times by a quarter, from the first of the two axes to the second."""
    return jnp.rot90(tensor(array), k, (axes[0], axes[1]))


@op
def roll(x: Any, shift: Any, axis: Axis = None) -> Array:
    """x moved on along `axis`, what leaves at the end coming in at the start."""
    return jnp.roll(tensor(x), shift, axes(axis))


@op
def repeat(x: Any, repeats: Any, axis: int | None = None) -> Array:
    """Each value so many times in a row along `axis`; of the flattened array for None."""
    return jnp.repeat(tensor(x), repeats, axis)


@op
def tile(x: Any, repeats: Any) -> Array:
    """x so many times side by side along each axis."""
    return jnp.tile(tensor(x), repeats)


@op
def pad(x: Any, pad_width: Any, mode: str = "constant", constant_values: Any = None) -> Array:
    """x with cells added before and after each axis.

    Raises:
        ValueError: `constant_values` beside another mode than "constant".
    """
    if constant_values is None:
        return jnp.pad(tensor(x), pad_width, mode)
    if mode != "constant":
        raise ValueError(f"Expected constant_values with mode='constant' only, got mode={mode!r}.")
    return jnp.pad(tensor(x), pad_width, mode, constant_values=constant_values)


@op
def get_item(x: Any, key: Any) -> Array:
    """x[key]."""
    return jnp.asarray(x)[key]


@op
def take(x: Any, indices: Any, axis: int | None = None) -> Array:
    """The values at these indices along `axis`; of the flattened array for None."""
    return jnp.take(tensor(x), tensor(indices), axis)


@op
def take_along_axis(x: Any, indices: Any, axis: int | None = None) -> Array:
    """The values at these indices along `axis`, other ones for each place along the other axes."""
    return jnp.take_along_axis(tensor(x), tensor(indices), axis)


@op
def unravel_index(indices: Any, shape: Any) -> tuple[Array, ...]:
    """Indices into the flattened array as indices per axis."""
    return jnp.unravel_index(tensor(indices), shape)


def ndim(x: Any) -> int:
    """The number of axes; known of a symbolic tensor too."""
    return x.ndim if isinstance(x, SymbolicTensor) else jnp.ndim(tensor(x))


@op
def size(x: Any) -> int:
    """The number of values."""
    return jnp.size(tensor(x))


@op
def view(x: Any, dtype: Any = None) -> Array:
    """The same bits as another type."""
    return jnp.asarray(x).view(dtype)


# -- several arrays


@op
def concatenate(xs: Sequence[Any], axis: int | None = 0) -> Array:
    """Arrays one after the other along `axis`."""
    return jnp.concatenate([tensor(x) for x in xs], axis)


@op
def stack(x: Sequence[Any], axis: int = 0) -> Array:
    """Arrays of one shape side by side along a new axis."""
    return jnp.stack([tensor(part) for part in x], axis)


@op
def hstack(xs: Sequence[Any]) -> Array:
    """Arrays one after the other along the second axis (the first, where there is one only)."""
    return jnp.hstack([tensor(x) for x in xs])


@op
def vstack(xs: Sequence[Any]) -> Array:
    """Arrays one after the other along the first axis; of rank 1 they are rows."""
    return jnp.vstack([tensor(x) for x in xs])


@op
def dstack(xs: Sequence[Any]) -> Array:
    """Arrays one after the other along the third axis."""
    return jnp.dstack([tensor(x) for x in xs])


@op
def append(x1: Any, x2: Any, axis: int | None = None) -> Array:
    """x2 after x1 along `axis`; both flattened for None."""
    return jnp.append(tensor(x1), tensor(x2), axis)


@op
def split(x: Any, indices_or_sections: Any, axis: int = 0) -> list[Array]:
    """x cut along `axis` into so many equal parts, or at these indices."""
    return jnp.split(tensor(x), indices_or_sections, axis)


@op
def array_split(x: Any, indices_or_sections: Any, axis: int = 0) -> list[Array]:
    """`split` into parts that may differ by one."""
    return jnp.array_split(tensor(x), indices_or_sections, axis)


@op
def hsplit(x: Any, indices_or_sections: Any) -> list[Array]:
    """`split` along the second axis."""
    return jnp.hsplit(tensor(x), indices_or_sections)


@op
def vsplit(x: Any, indices_or_sections: Any) -> list[Array]:
    """`split` along the first axis."""
    return jnp.vsplit(tensor(x), indices_or_sections)


@op
def dsplit(x: Any, indices_or_sections: Any) -> list[Array]:
    """`split` along the third axis."""
    return jnp.dsplit(tensor(x), indices_or_sections)


@op
def meshgrid(*x: Any, indexing: str = "xy") -> list[Array]:
    """Coordinates of all points of the grid that arrays of rank 1 span, an array per axis."""
    return list(jnp.meshgrid(*[tensor(part) for part in x], indexing=indexing))

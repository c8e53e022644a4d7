"""Ops on the arrays themselves, and control flow: `jax.lax` under Keras's names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from epochal.ops.wrap import op, tensor
from epochal.tracing.symbolic import SymbolicTensor

# fmt: off
__all__ = [
    "associative_scan", "cast", "cond", "convert_to_numpy", "convert_to_tensor", "custom_gradient", "dtype",
    "fori_loop", "is_tensor", "map", "saturate_cast", "scan", "scatter", "scatter_update", "shape", "slice",
    "slice_update", "stop_gradient", "switch", "unstack", "vectorized_map", "while_loop",
]


# fmt: on


@op
def convert_to_tensor(x: Any, dtype: Any = None, sparse: bool | None = None, ragged: bool | None = None) -> Array:
    """Anything array-like as an array, of `dtype` where that is given.

    Raises:
        ValueError: a sparse or ragged array is asked for.
    """
    if sparse or ragged:
        raise ValueError("Expected neither sparse nor ragged: epochal's arrays are dense.")
    return jnp.asarray(x, dtype)


def convert_to_numpy(x: Any) -> np.ndarray:
    """A NumPy array of its own with these values."""
    return np.array(x)


def is_tensor(x: Any) -> bool:
    """Whether x is one of JAX's arrays."""
    return isinstance(x, Array)


@op
def cast(x: Any, dtype: Any) -> Array:
    """x as another type."""
    return jnp.asarray(x, dtype)


@op
def saturate_cast(x: Any, dtype: Any) -> Array:
    """x as another type, first cut off at the smallest and largest number of that type."""
    array, wanted = jnp.asarray(x), jnp.dtype(dtype)
    (own_low, own_high), (low, high) = _limits(array.dtype), _limits(wanted)
    limits = (np.asarray(limit, array.dtype) for limit in (max(own_low, low), min(own_high, high)))
    return jnp.clip(array, *limits).astype(wanted)


def _limits(dtype: Any) -> tuple[int | float, int | float]:
    """The smallest and the largest number of a type."""
    if jnp.issubdtype(dtype, jnp.bool_):
        return 0, 1
    if jnp.issubdtype(dtype, jnp.floating):
        return float(jnp.finfo(dtype).min), float(jnp.finfo(dtype).max)
    return int(jnp.iinfo(dtype).min), int(jnp.iinfo(dtype).max)


def shape(x: Any) -> tuple[int | None, ...]:
    """The shape as a tuple; of a symbolic tensor, with None for sizes that are not known."""
    return x.shape if isinstance(x, SymbolicTensor) else tuple(jnp.shape(tensor(x)))


def dtype(x: Any) -> str:
    """The type's name, such as "float32"."""
    return x.dtype if isinstance(x, SymbolicTensor) else jnp.asarray(x).dtype.name


@op
def stop_gradient(variable: Any) -> Array:
    """The same values, as a constant to differentiation."""
    return jax.lax.stop_gradient(jnp.asarray(variable))


def custom_gradient(f: Callable) -> Callable:
    """A function with a derivative of your own: `f` returns (value, function from the output's gradient to the
    inputs')."""
    return jax.custom_gradient(f)


# -- parts of arrays


@op
def slice(inputs: Any, start_indices: Any, shape: Sequence[int]) -> Array:
    """The block of this shape that starts there; -1 takes all that is left of an axis."""
    x = jnp.asarray(inputs)
    sizes = [n - int(start) if s == -1 else s for n, start, s in zip(x.shape, start_indices, shape, strict=True)]
    return jax.lax.dynamic_slice(x, start_indices, sizes)


@op
def slice_update(inputs: Any, start_indices: Any, updates: Any) -> Array:
    """The inputs with the block that starts there replaced."""
    return jax.lax.dynamic_update_slice(jnp.asarray(inputs), jnp.asarray(updates), start_indices)


@op
def scatter(indices: Any, values: Any, shape: Sequence[int]) -> Array:
    """Zeros of this shape with `values` added at `indices`.

    Args:
        indices: shape (n, axes): the first axes' index of each value.
        values: shape (n, ...).
        shape: the result's.
    """
    updates = jnp.asarray(values)
    return jnp.zeros(tuple(shape), updates.dtype).at[_places(indices)].add(updates)


@op
def scatter_update(inputs: Any, indices: Any, updates: Any, reduction: str | None = None) -> Array:
    """The inputs with `updates` at `indices` (as `scatter`'s), or put together with what is there.

    Args:
        inputs: any shape.
        indices: shape (n, axes).
        updates: shape (n, ...).
        reduction: None replaces; "add", "mul", "max" and "min" do what they say.

    Raises:
        ValueError: another reduction.
    """
    places = jnp.asarray(inputs).at[_places(indices)]
    ways = {None: places.set, "add": places.add, "mul": places.multiply, "max": places.max, "min": places.min}
    if reduction not in ways:
        raise ValueError(f"Expected a reduction of {list(ways)}, got {reduction!r}.")
    return ways[reduction](jnp.asarray(updates))


def _places(indices: Any) -> tuple[Array, ...]:
    return tuple(jnp.moveaxis(jnp.asarray(indices), -1, 0))


@op
def unstack(x: Any, num: int | None = None, axis: int = 0) -> list[Array]:
    """The parts of x along `axis`, which they lack; `num` must be their number where it is given."""
    parts = list(jnp.unstack(jnp.asarray(x), axis=axis))
    if num is not None and num != len(parts):
        raise ValueError(f"Expected num={len(parts)} for axis {axis} of shape {jnp.shape(x)}, got {num}.")
    return parts


# -- control flow, in compiled code too


@op
def cond(pred: Any, true_fn: Callable, false_fn: Callable) -> Any:
    """What one of two functions without arguments returns; both must return the same shapes and types."""
    return jax.lax.cond(tensor(pred), true_fn, false_fn)


@op
def switch(index: Any, branches: Sequence[Callable], *operands: Any) -> Any:
    """What the function with this number makes of the operands; out of range, the nearest."""
    return jax.lax.switch(index, branches, *operands)


@op
def map(f: Callable, xs: Any) -> Any:
    """`f` of each part along the first axis, one after the other, the results stacked."""
    return jax.lax.map(f, xs)


@op
def vectorized_map(function: Callable, elements: Any) -> Any:
    """`function` of all parts along the first axis at once, the results stacked."""
    return jax.vmap(function)(elements)


@op
def scan(
    f: Callable,
    init: Any,
    xs: Any = None,
    length: int | None = None,
    reverse: bool = False,
    unroll: int | bool = 1,
) -> tuple[Any, Any]:
    """Goes along the first axis: f(carry, x) -> (carry, y). Returns the last carry, and all y stacked."""
    return jax.lax.scan(f, init, xs, length, reverse, unroll)


@op
def associative_scan(f: Callable, elems: Any, reverse: bool = False, axis: int = 0) -> Any:
    """All running results of an associative f(a, b) along `axis`, in logarithmic depth."""
    return jax.lax.associative_scan(f, elems, reverse, axis)


@op
def fori_loop(lower: Any, upper: Any, body_fun: Callable, init_val: Any) -> Any:
    """Starts with `init_val`, and for i = lower … upper - 1 replaces it by body_fun(i, value)."""
    return jax.lax.fori_loop(lower, upper, body_fun, init_val)


@op
def while_loop(cond: Callable, body: Callable, loop_vars: Any, maximum_iterations: int | None = None) -> Any:
    """Replaces `loop_vars` by body(*loop_vars) as long as cond(*loop_vars) holds.

    Args:
        cond: gives a bool.
        body: gives new values in the structure of `loop_vars`.
        loop_vars: a tuple or list of arrays, or one array.
        maximum_iterations: stop after so many.
    """
    several = isinstance(loop_vars, tuple | list)
    start = tuple(loop_vars) if several else (loop_vars,)

    def goes_on(carry: Any) -> Any:
        count, values = carry
        more = cond(*values)
        return more if maximum_iterations is None else more & (count < maximum_iterations)

    def step(carry: Any) -> Any:
        count, values = carry
        new = body(*values)
        return count + 1, tuple(new) if several else (new,)

    values = jax.lax.while_loop(goes_on, step, (0, start))[1]
    return values if several else values[0]

"""How a function becomes an op: it takes anything array-like, and symbolic tensors, and is known by its name."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from epochal.registry.configurable import register_functions
from epochal.tracing.symbolic import apply, is_symbolic

# fmt: on

Shape = int | Sequence[int]

F = TypeVar("F", bound=Callable)
Axis = int | Sequence[int] | None


@runtime_checkable
class Unary(Protocol):
    """An op of one array."""

    def __call__(self, x: Any) -> Array: ...


@runtime_checkable
class Binary(Protocol):
    """An op of two arrays that broadcast."""

    def __call__(self, x1: Any, x2: Any) -> Array: ...


@runtime_checkable
class Bitwise(Protocol):
    """An op of two arrays of integers that broadcast."""

    def __call__(self, x: Any, y: Any) -> Array: ...


@runtime_checkable
class Reduction(Protocol):
    """An op that takes one axis, several, or all of them together."""

    def __call__(self, x: Any, axis: Axis = None, keepdims: bool = False) -> Array: ...


def op(function: F) -> F:
    """The function as an op: with symbolic tensors among its arguments it is a call of a graph, to be made later."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not is_symbolic((args, kwargs)):
            return function(*args, **kwargs)
        args, kwargs = jax.tree.map(_as_data, (args, kwargs))
        return apply(call, *args, **kwargs)

    register_functions("ops", {function.__name__: call})
    return cast(F, call)


def _as_data(value: Any) -> Any:
    """Types by their names, so that the call can be written down."""
    return jnp.dtype(value).name if isinstance(value, type | np.dtype) else value


def tensor(x: Any) -> Any:
    """An argument as JAX's functions take it: lists, variables and other array-likes become arrays."""
    return x if isinstance(x, Array | np.ndarray | np.generic | bool | int | float | complex) else jnp.asarray(x)


def axes(axis: Axis) -> Any:
    """An axis, or several as a tuple, which JAX asks for."""
    return tuple(axis) if isinstance(axis, list) else axis


def _named(call: Callable, function: Any, name: str | None, what: str) -> Any:
    call.__name__ = call.__qualname__ = name or function.__name__
    call.__doc__ = f"JAX's `{function.__name__}`, {what}."
    return op(call)


def unary(function: Callable, name: str | None = None) -> Unary:
    """The op that applies `function` to each element: any shape -> the same shape."""

    def call(x: Any) -> Array:
        return function(tensor(x))

    return _named(call, function, name, "of an array")


def binary(function: Callable, name: str | None = None) -> Binary:
    """The op that applies `function` to two arrays."""

    def call(x1: Any, x2: Any) -> Array:
        return function(tensor(x1), tensor(x2))

    return _named(call, function, name, "of two arrays")


def bitwise(function: Callable, name: str | None = None) -> Bitwise:
    """The op that applies `function` to the bits of two arrays of integers."""

    def call(x: Any, y: Any) -> Array:
        return function(tensor(x), tensor(y))

    return _named(call, function, name, "of two arrays of integers")


def reduction(function: Callable, name: str | None = None) -> Reduction:
    """The op that applies `function` along axes; they are left out of the result, or of size 1 if `keepdims`."""

    def call(x: Any, axis: Axis = None, keepdims: bool = False) -> Array:
        return function(tensor(x), axis=axes(axis), keepdims=keepdims)

    return _named(call, function, name, "along `axis` (None: all axes together)")

"""The arrays of a metric that keeps a state of its own."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


@jax.tree_util.register_pytree_node_class  # so that JAX's functions take it
class MetricVariable:
    """An array that a metric changes batch by batch; in arithmetic it is its value.

    Args:
        value: the value before any batch.
        name: for error messages.

    Attributes:
        value: the value now; inside compiled training one that is being traced.
        first: the value before any batch.
    """

    def __init__(self, value: Any, name: str = "variable"):
        self.value, self.first, self.name = value, value, name

    def assign(self, value: Any) -> None:
        """Replaces the value, keeping its type.

        Raises:
            ValueError: another shape.
        """
        new = jnp.asarray(value, self.dtype)
        if new.shape != self.shape:
            raise ValueError(f"Expected shape {self.shape} for the variable {self.name!r}, got {new.shape}.")
        self.value = new

    def assign_add(self, value: Any) -> None:
        """Adds to the value."""
        self.assign(self.value + value)

    def assign_sub(self, value: Any) -> None:
        """Takes from the value."""
        self.assign(self.value - value)

    def numpy(self) -> np.ndarray:
        """The value as a NumPy array."""
        return np.asarray(self.value)

    @property
    def shape(self) -> tuple[int, ...]:
        """The value's shape."""
        return self.value.shape

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def dtype(self) -> Any:
        """The value's type."""
        return self.value.dtype

    def __jax_array__(self) -> Array:
        return jnp.asarray(self.value)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.value, dtype, copy=copy)

    def __float__(self) -> float:
        return float(self.value)

    def __int__(self) -> int:
        return int(self.value)

    def __bool__(self) -> bool:
        return bool(self.value)

    def __getitem__(self, index: Any) -> Any:
        return self.value[index]

    def __repr__(self) -> str:
        return f"<MetricVariable {self.name!r} value={self.value}>"

    __hash__ = object.__hash__

    def tree_flatten(self) -> tuple[tuple[Any], str]:
        """For JAX: the value, and what is fixed."""
        return (self.value,), self.name

    @classmethod
    def tree_unflatten(cls, name: str, values: tuple[Any]) -> MetricVariable:
        """For JAX: the inverse of `tree_flatten`."""
        return cls(values[0], name)


def _operator(function: Callable, swapped: bool = False) -> Callable:
    def method(self: MetricVariable, other: Any) -> Any:
        other = other.value if isinstance(other, MetricVariable) else other
        return function(other, self.value) if swapped else function(self.value, other)

    return method


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"):
    _function = getattr(operator, _name)
    setattr(MetricVariable, f"__{_name}__", _operator(_function))
    setattr(MetricVariable, f"__r{_name}__", _operator(_function, swapped=True))
for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    setattr(MetricVariable, f"__{_name}__", _operator(getattr(operator, _name)))
MetricVariable.__neg__ = lambda self: -self.value  # type: ignore[attr-defined]
MetricVariable.__abs__ = lambda self: abs(self.value)  # type: ignore[attr-defined]

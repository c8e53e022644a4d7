"""Penalties on weights and outputs that are added to the loss."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Shaped

from epochal.registry.configurable import Configurable
from epochal.registry.lookup import find
from epochal.registry.serialize import deserialize

__all__ = [
    "L1",
    "L1L2",
    "L2",
    "OrthogonalRegularizer",
    "Regularizer",
    "get",
    "l1",
    "l1_l2",
    "l2",
    "orthogonal_regularizer",
]


def __dir__() -> list[str]:
    return list(__all__)


class Regularizer(Configurable):
    """The base of all regularizers: an object called with an array, which gives a scalar penalty."""

    _saved_family = "regularizers"

    def __call__(self, x: Shaped[Array | np.ndarray, "*shape"]) -> Shaped[Array, ""]:
        """The penalty on `x`, an array of any shape."""
        raise NotImplementedError(f"{type(self).__name__} has no __call__(self, x)")


class L1L2(Regularizer):
    """The penalty l1 * sum(|x|) + l2 * sum(x²).

    Args:
        l1: the factor of the absolute values; None is 0.
        l2: the factor of the squares; None is 0.

    Raises:
        ValueError: a factor that is not a finite number >= 0.
    """

    def __init__(self, l1: Any = 0.0, l2: Any = 0.0):
        self.l1 = _factor("l1", 0.0 if l1 is None else l1)
        self.l2 = _factor("l2", 0.0 if l2 is None else l2)

    def __call__(self, x: Shaped[Array | np.ndarray, "*shape"]) -> Shaped[Array, ""]:
        penalty = jnp.zeros((), x.dtype)
        if self.l1:
            penalty += self.l1 * jnp.abs(x).sum()
        if self.l2:
            penalty += self.l2 * jnp.square(x).sum()
        return penalty


class L1(L1L2):
    """The penalty l1 * sum(|x|)."""

    def __init__(self, l1: Any = 0.01):
        super().__init__(l1=0.01 if l1 is None else l1)


class L2(L1L2):
    """The penalty l2 * sum(x²)."""

    def __init__(self, l2: Any = 0.01):
        super().__init__(l2=0.01 if l2 is None else l2)


class OrthogonalRegularizer(Regularizer):
    """The penalty factor * mean(|cosine|) over all pairs of rows, or of columns, of a matrix.

    Args:
        factor: a number >= 0.
        mode: "rows" or "columns".

    Raises:
        ValueError: a bad `factor` or `mode`; when called, an array that is not a matrix.
    """

    def __init__(self, factor: Any = 0.01, mode: str = "rows"):
        self.factor = _factor("factor", factor)
        self.mode = find("mode", mode, {"rows": "rows", "columns": "columns"})

    def __call__(self, x: Shaped[Array | np.ndarray, "*shape"]) -> Shaped[Array, ""]:
        if x.ndim != 2:
            raise ValueError(f"Expected a matrix for OrthogonalRegularizer, got shape {x.shape}.")
        vectors = jnp.asarray(x if self.mode == "rows" else x.T)
        # The floor under the square keeps the gradient of a zero vector finite.
        squares = jnp.square(vectors).sum(axis=1, keepdims=True)
        vectors = vectors / jnp.sqrt(jnp.maximum(squares, jnp.finfo(vectors.dtype).tiny))
        n = len(vectors)
        cosines = (vectors @ vectors.T) * (1 - jnp.eye(n, dtype=vectors.dtype))
        return self.factor * jnp.abs(cosines).sum() / max(n * (n - 1), 1)  # each pair stands there twice


def l1(l1: Any = 0.01) -> L1:
    """The penalty l1 * sum(|x|)."""
    return L1(l1)


def l2(l2: Any = 0.01) -> L2:
    """The penalty l2 * sum(x²)."""
    return L2(l2)


def l1_l2(l1: Any = 0.01, l2: Any = 0.01) -> L1L2:
    """The penalty l1 * sum(|x|) + l2 * sum(x²)."""
    return L1L2(l1, l2)


def orthogonal_regularizer(factor: Any = 0.01, mode: str = "rows") -> OrthogonalRegularizer:
    """The penalty factor * mean(|cosine|) over all pairs of rows, or of columns, of a matrix."""
    return OrthogonalRegularizer(factor, mode)


NAMES: dict[str, Callable[..., Regularizer]] = {
    "l1": l1,
    "l2": l2,
    "l1_l2": l1_l2,
    "L1": L1,
    "L2": L2,
    "L1L2": L1L2,
    "orthogonal_regularizer": OrthogonalRegularizer,
    "OrthogonalRegularizer": OrthogonalRegularizer,
}


def get(identifier: Any) -> Callable | None:
    """The regularizer meant by `identifier`.

    Args:
        identifier: a name ("l1", "l2", "l1_l2", each with factors of 0.01), a `Regularizer` or its class, a function
            from an array to a scalar, a configuration as Keras or epochal writes it, or None.

    Raises:
        ValueError: an unknown name, or an object of another kind.
    """
    if identifier is None:
        return None
    if isinstance(identifier, str):
        return find("regularizer", identifier, NAMES)()
    if isinstance(identifier, Mapping):
        if "class_name" in identifier:
            return find("regularizer", identifier["class_name"], NAMES)(**identifier.get("config", {}))
        return deserialize(dict(identifier))
    if callable(identifier):
        makes_one = inspect.isclass(identifier) or any(identifier is f for f in (l1, l2, l1_l2, orthogonal_regularizer))
        made: Any = identifier() if makes_one else identifier
        return made
    raise ValueError(f"Expected the name of a regularizer, a Regularizer or a function, got {identifier!r}.")


def _factor(name: str, value: Any) -> float:
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0:
        raise ValueError(f"Expected a finite number >= 0 for {name}, got {value!r}.")
    return float(value)

"""The base of all losses, and how the losses of a batch become one number."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Num

from epochal.losses.shapes import ArrayLike, broadcast_weights, rank_matched
from epochal.registry.configurable import Configurable
from epochal.registry.naming import function_name, snake_case

REDUCTIONS = ("sum_over_batch_size", "mean", "sum", "mean_with_sample_weight", "none", None)


class Loss(Configurable):
    """The base of all losses; a loss of your own overrides `call`.

    Args:
        name: the name in logs; the class's name in snake case by default.
        reduction: "sum_over_batch_size" or "mean" (the mean over examples and positions), "sum",
            "mean_with_sample_weight" (the sum divided by the weights' sum), "none" or None (no reduction).
        dtype: the type of the result; float32 by default.

    Raises:
        ValueError: an unknown reduction.
    """

    _saved_family = "losses"

    def __init__(self, name: str | None = None, reduction: str | None = "sum_over_batch_size", dtype: Any = None):
        if reduction not in REDUCTIONS:
            raise ValueError(f"Expected a reduction of {', '.join(map(repr, REDUCTIONS))}, got {reduction!r}.")
        self.name = name or snake_case(type(self).__name__)
        self.reduction = reduction
        self.dtype = dtype

    def call(self, y_true: Any, y_pred: Any) -> Array:
        """The loss of every example (and position), shape (n, ...): pure, and never reduced over the examples."""
        raise NotImplementedError(f"{type(self).__name__} needs a method call(self, y_true, y_pred).")

    def valid(self, y_true: Any, y_pred: Any) -> Bool[Array, " ..."] | None:
        """Which values of `call` count, in its shape; None when all do."""
        return None

    def __call__(self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None) -> Array:
        """The loss of a batch, weighted and reduced.

        Args:
            y_true: targets.
            y_pred: predictions, shape (n, ...).
            sample_weight: weights aligned from the left: (n,), (n, 1), (n, t) or (n, t, 1).

        Raises:
            ValueError: shapes that disagree, or weights for a loss that is one number for the whole batch.
        """
        y, p = rank_matched(y_true, y_pred)
        values = jnp.asarray(self.call(y, p))
        result = reduce(values, self.reduction, sample_weight, self.valid(y, p))
        return result if self.dtype is None else result.astype(self.dtype)


def reduce(
    values: Num[Array, "*s"],
    reduction: str | None,
    sample_weight: ArrayLike | None = None,
    valid: Bool[Array, "*s"] | None = None,
) -> Num[Array, " ..."]:
    """Values per example brought to one number, as Keras does it.

    Args:
        values: shape (n, ...), or () from a loss that reduced by itself.
        reduction: one of `REDUCTIONS`.
        sample_weight: weights aligned from the left.
        valid: which values count; a mean divides by the number of these.

    Raises:
        ValueError: weights for a single number.
    """
    if values.ndim == 0:
        if sample_weight is not None:
            raise ValueError(
                "A loss that is one number for the batch cannot be weighted. Return one value per example."
            )
        return values
    weights = None if sample_weight is None else broadcast_weights(sample_weight, values.shape)
    if valid is not None:
        weights = valid.astype(jnp.float32) if weights is None else weights * valid
    weighted = values if weights is None else values * weights
    if reduction in (None, "none"):
        return weighted
    if reduction == "sum":
        return jnp.sum(weighted)
    count: Any = math.prod(values.shape) if valid is None else jnp.sum(valid)
    if reduction == "mean_with_sample_weight" and weights is not None:
        count = jnp.sum(weights)
    return jnp.sum(weighted) / jnp.where(count == 0, 1, count)


class LossFunctionWrapper(Loss):
    """A function fn(y_true, y_pred, **kwargs) as a loss.

    Args:
        fn: gives the loss per example (and position), or one number for the batch.
        name: the function's `__name__` by default.
        kwargs: passed on to `fn`.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: Any = None,
        **kwargs: Any,
    ):
        super().__init__(name or function_name(fn), reduction, dtype)
        self.fn = fn
        self._kwargs = kwargs

    def call(self, y_true: Any, y_pred: Any) -> Array:
        return jnp.asarray(self.fn(*rank_matched(y_true, y_pred), **self._kwargs))

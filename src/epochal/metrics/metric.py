"""What a metric is: additive sums over examples, and the number they stand for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Shaped

from epochal.config import Configurable
from epochal.losses.loss import Loss, function_name, snake_case
from epochal.losses.shapes import ArrayLike, broadcast_weights, rank_matched

Stats: TypeAlias = dict[str, Array]
# The same, summed up on the host: float64 arrays, or NumPy's numbers.
Sums: TypeAlias = Mapping[str, Any]
# What a metric comes to: a number, or one per threshold or class.
Value: TypeAlias = float | np.ndarray


class Metric(Configurable):
    """The base of all metrics; a metric of your own overrides `stats` and `value`.

    `stats` runs inside compiled code, once per batch; the sums are added up over batches, devices and hosts, and
    `value` makes the number of them at the end. So a metric is exact however the data is cut into batches.

    Args:
        dtype: kept for Keras's sake; sums are float32 on the device and float64 on the host.
        name: the name in logs; the class's name in snake case by default.
    """

    # Whether the value stays the same when one number is taken off all targets and predictions (of an output). If so,
    # training takes the first target off, and float32 sums stay exact where the targets' mean is far from 0.
    shift_invariant = False

    # What update_state has summed up, on the host; None before the first update.
    _sums: Any = None

    def __init__(self, dtype: Any = None, name: str | None = None):
        self.name = name or snake_case(type(self).__name__)
        self.dtype = dtype

    # -- two pure functions

    def stats(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Stats:
        """The sums of a batch: name -> array. Those of two batches, added, are those of both.

        Args:
            y_true: targets, shape (n, ...).
            y_pred: predictions, shape (n, ...).
            sample_weight: weights aligned from the left: (n,) or (n, t, ...). A weight of 0 must leave no trace.
        """
        raise NotImplementedError(f"{type(self).__name__} needs a method stats(self, y_true, y_pred, sample_weight).")

    def value(self, sums: Sums) -> Value:
        """The metric of all examples, from their sums; NumPy on the host, without warnings where nothing was summed."""
        raise NotImplementedError(f"{type(self).__name__} needs a method value(self, sums).")

    # -- the same as a running state

    def initial(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """The state before any example. The arguments tell shapes and types only; `jax.ShapeDtypeStruct`s will do."""
        shapes = jax.eval_shape(self.stats, y_true, y_pred, sample_weight)
        return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    def update(self, state: Any, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """The state after a batch: `state` plus the batch's sums."""
        return jax.tree.map(jnp.add, state, self.stats(y_true, y_pred, sample_weight))

    # -- Keras's face

    def update_state(self, *args: Any, **kwargs: Any) -> None:
        """Adds a batch: the arguments of `stats`."""
        sums = jax.tree.map(lambda s: np.asarray(s, np.float64), self.stats(*args, **kwargs))
        self._sums = sums if self._sums is None else jax.tree.map(lambda a, b: np.asarray(a + b), self._sums, sums)

    def result(self) -> Value:
        """The metric of all batches since the last reset; 0.0 before the first."""
        return 0.0 if self._sums is None else self.value(self._sums)

    def reset_state(self) -> None:
        """Forgets all batches."""
        self._sums = None

    def __call__(self, *args: Any, **kwargs: Any) -> Value:
        """Adds a batch and returns the result so far."""
        self.update_state(*args, **kwargs)
        return self.result()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} name={self.name}>"


def weighted(values: Shaped[Array, "*s"], sample_weight: Any) -> Shaped[Array, "*s"]:
    """Values times weights, where 0 * NaN is 0: what stands in a padding row never shows."""
    if sample_weight is None:
        return values
    weights = broadcast_weights(sample_weight, values.shape)
    return jnp.where(weights == 0, 0, values * weights)


def mean_stats(values: ArrayLike, sample_weight: Any = None) -> Stats:
    """The sums of a weighted mean: values times weights, and weights; several positions of an example are averaged."""
    numbers = jnp.atleast_1d(jnp.asarray(values)).astype(jnp.float32)
    inner = tuple(range(1, numbers.ndim))
    total = jnp.sum(jnp.mean(weighted(numbers, sample_weight), axis=inner))
    if sample_weight is None:
        return {"total": total, "count": jnp.asarray(numbers.shape[0], jnp.float32)}
    weights = broadcast_weights(sample_weight, numbers.shape)
    return {"total": total, "count": jnp.sum(jnp.mean(weights, axis=inner))}


def ratio(a: Any, b: Any) -> Any:
    """a / b in float64, and 0 where b is 0."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.divide(a, b, out=np.zeros(np.broadcast_shapes(a.shape, b.shape)), where=b != 0)


class Mean(Metric):
    """The weighted mean of the values it is given; 0 for none."""

    def __init__(self, name: str | None = "mean", dtype: Any = None):
        super().__init__(dtype, name)

    def stats(self, values: Any, sample_weight: Any = None) -> Stats:  # pyright: ignore[reportIncompatibleMethodOverride]
        return mean_stats(values, sample_weight)

    def value(self, sums: Sums) -> Value:
        return float(ratio(sums["total"], sums["count"]))


class Sum(Metric):
    """The weighted sum of the values it is given."""

    def __init__(self, name: str | None = "sum", dtype: Any = None):
        super().__init__(dtype, name)

    def stats(self, values: Any, sample_weight: Any = None) -> Stats:  # pyright: ignore[reportIncompatibleMethodOverride]
        numbers = jnp.atleast_1d(jnp.asarray(values)).astype(jnp.float32)
        return {"total": jnp.sum(weighted(numbers, sample_weight))}

    def value(self, sums: Sums) -> Value:
        return float(sums["total"])


class MeanMetricWrapper(Metric):
    """The mean of what a function fn(y_true, y_pred, **kwargs) gives.

    Args:
        fn: gives a value per example (and position). One number for the batch counts as the value of each of its
            examples, so that a short last batch has its due weight; Keras takes the mean of the batches' numbers.
        name: the function's `__name__` by default.
        kwargs: passed on to `fn`.
    """

    def __init__(self, fn: Callable[..., Any], name: str | None = None, dtype: Any = None, **kwargs: Any):
        super().__init__(dtype, name or function_name(fn))
        self.fn = fn
        self._kwargs = kwargs

    def stats(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Stats:
        y, p = rank_matched(y_true, y_pred)
        return mean_stats(_per_example(self.fn(y, p, **self._kwargs), p), sample_weight)

    def value(self, sums: Sums) -> Value:
        return float(ratio(sums["total"], sums["count"]))


class MeanOfLoss(Metric):
    """The mean of a loss's values per example.

    Args:
        loss: any loss; its reduction does not matter here.
        name: the loss's name by default.
    """

    def __init__(self, loss: Loss, name: str | None = None, dtype: Any = None):
        super().__init__(dtype, name or loss.name)
        self.loss = loss
        self.fn = getattr(loss, "fn", loss)

    def stats(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Stats:
        y, p = rank_matched(y_true, y_pred)
        values = _per_example(self.loss.call(y, p), p)
        return mean_stats(values, _only_valid(values, sample_weight, self.loss.valid(y, p)))

    def value(self, sums: Sums) -> Value:
        return float(ratio(sums["total"], sums["count"]))


def _per_example(values: Any, y_pred: Array) -> Array:
    values = jnp.asarray(values)
    return jnp.broadcast_to(values, y_pred.shape[:1]) if values.ndim == 0 else values


def _only_valid(values: Array, sample_weight: Any, valid: Bool[Array, " ..."] | None) -> Any:
    if valid is None:
        return sample_weight
    return valid if sample_weight is None else broadcast_weights(sample_weight, values.shape) * valid

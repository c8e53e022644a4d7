"""Metrics that are means of a value per example: accuracies, errors and the losses seen as metrics."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from epochal import losses
from epochal.activations import logits_of
from epochal.losses.functions import EPSILON
from epochal.losses.shapes import ArrayLike, Number, aligned, class_labels, paired
from epochal.metrics.metric import MeanMetricWrapper, MeanOfLoss, Metric, Stats, Sums, Value, mean_stats, ratio

# -- accuracies


def accuracy(y_true: ArrayLike, y_pred: ArrayLike) -> Float[Array, " ..."]:
    """1 where prediction and target are equal: (n, ...) and (n, ...) -> (n, ...)."""
    y, p = paired(y_true, y_pred)
    return (y == p).astype(jnp.float32)


def binary_accuracy(y_true: ArrayLike, y_pred: ArrayLike, threshold: Number = 0.5) -> Float[Array, " ..."]:
    """1 where (prediction > threshold) is the target, 0 or 1: (n, ...) and (n, ...) -> (n, ...)."""
    y, p = paired(y_true, y_pred)
    return (y == (p > threshold).astype(y.dtype)).astype(jnp.float32)


def categorical_accuracy(y_true: ArrayLike, y_pred: ArrayLike) -> Float[Array, " ..."]:
    """1 where the greatest prediction is that of the one-hot target: (n, ..., c) and (n, ..., c) -> (n, ...)."""
    y, p = paired(y_true, y_pred)
    return (_largest(y) == _likeliest(p, y_pred)).astype(jnp.float32)


def sparse_categorical_accuracy(y_true: ArrayLike, y_pred: ArrayLike) -> Float[Array, " ..."]:
    """1 where the greatest prediction is that of the target's class number: (n, ...) and (n, ..., c) -> (n, ...)."""
    y, p = class_labels(y_true, y_pred)
    return (y == _likeliest(p, y_pred)).astype(jnp.float32)


def top_k_categorical_accuracy(y_true: ArrayLike, y_pred: ArrayLike, k: int = 5) -> Float[Array, " ..."]:
    """1 where the one-hot target is among the k greatest predictions: (n, ..., c) and (n, ..., c) -> (n, ...)."""
    y, p = paired(y_true, y_pred)
    return _in_top_k(_largest(y), p, k)


def sparse_top_k_categorical_accuracy(
    y_true: ArrayLike, y_pred: ArrayLike, k: int = 5, from_sorted_ids: bool = False
) -> Float[Array, " ..."]:
    """1 where the class number is among the k greatest predictions: (n, ...) and (n, ..., c) -> (n, ...).

    Args:
        y_true: class numbers.
        y_pred: a score per class, or with `from_sorted_ids` class numbers, the best first.
        k: how many predictions count.
    """
    y, p = class_labels(y_true, y_pred)
    if from_sorted_ids:
        return jnp.any(y[..., None] == p[..., :k], axis=-1).astype(jnp.float32)
    return _in_top_k(y.astype(jnp.int32), p, k)


def _largest(p: Array) -> Array:
    """argmax over the last axis, in two plain reductions: on CPU six times as fast as XLA's of pairs."""
    holds = p == jnp.max(p, axis=-1, keepdims=True)
    if jnp.issubdtype(p.dtype, jnp.floating):
        holds |= jnp.isnan(p)  # the first NaN, where there is one
    return _first(holds)


def _likeliest(p: Array, y_pred: Any) -> Array:
    """The class of each prediction; from the logits where the loss uses them, so that nobody needs probabilities."""
    logits = logits_of(y_pred, -1) if p.ndim and p.shape == getattr(y_pred, "shape", None) else None
    if logits is None:
        return _largest(p)
    best = jnp.max(logits, axis=-1, keepdims=True)
    return _first((logits == best) | ~jnp.isfinite(best))  # probabilities of such logits are all NaN: class 0


def _first(holds: Array) -> Array:
    """The first place along the last axis where this is true."""
    numbers = jax.lax.broadcasted_iota(jnp.int32, holds.shape, holds.ndim - 1)
    return jnp.min(jnp.where(holds, numbers, holds.shape[-1]), axis=-1)


def _in_top_k(labels: Array, p: Array, k: int) -> Float[Array, " ..."]:
    """Whether fewer than k predictions exceed the label's. Class numbers out of range are never among them."""
    known = (labels >= 0) & (labels < p.shape[-1])
    own = jnp.take_along_axis(p, jnp.where(known, labels, 0)[..., None], axis=-1)
    above = jnp.sum(p > own, axis=-1)
    return (known & ~jnp.isnan(own[..., 0]) & (above < k)).astype(jnp.float32)


class Accuracy(MeanMetricWrapper):
    """How often prediction and target are equal."""

    def __init__(self, name: str | None = "accuracy", dtype: Any = None):
        super().__init__(accuracy, name, dtype)


class BinaryAccuracy(MeanMetricWrapper):
    """How often (prediction > threshold) is the target."""

    def __init__(self, name: str | None = "binary_accuracy", dtype: Any = None, threshold: Number = 0.5):
        super().__init__(binary_accuracy, name, dtype, threshold=threshold)
        self.threshold = threshold


class CategoricalAccuracy(MeanMetricWrapper):
    """How often the greatest prediction is that of the one-hot target."""

    def __init__(self, name: str | None = "categorical_accuracy", dtype: Any = None):
        super().__init__(categorical_accuracy, name, dtype)


class SparseCategoricalAccuracy(MeanMetricWrapper):
    """How often the greatest prediction is that of the class number."""

    def __init__(self, name: str | None = "sparse_categorical_accuracy", dtype: Any = None):
        super().__init__(sparse_categorical_accuracy, name, dtype)


class TopKCategoricalAccuracy(MeanMetricWrapper):
    """How often the one-hot target is among the k greatest predictions."""

    def __init__(self, k: int = 5, name: str | None = "top_k_categorical_accuracy", dtype: Any = None):
        super().__init__(top_k_categorical_accuracy, name, dtype, k=k)
        self.k = k


class SparseTopKCategoricalAccuracy(MeanMetricWrapper):
    """How often the class number is among the k greatest predictions."""

    def __init__(
        self,
        k: int = 5,
        name: str | None = "sparse_top_k_categorical_accuracy",
        dtype: Any = None,
        from_sorted_ids: bool = False,
    ):
        super().__init__(sparse_top_k_categorical_accuracy, name, dtype, k=k, from_sorted_ids=from_sorted_ids)
        self.k = k
        self.from_sorted_ids = from_sorted_ids


# -- losses as metrics


class MeanSquaredError(MeanOfLoss):
    """The mean of (y - p)²."""

    def __init__(self, name: str | None = "mean_squared_error", dtype: Any = None):
        super().__init__(losses.MeanSquaredError(), name, dtype)


class MeanAbsoluteError(MeanOfLoss):
    """The mean of |y - p|."""

    def __init__(self, name: str | None = "mean_absolute_error", dtype: Any = None):
        super().__init__(losses.MeanAbsoluteError(), name, dtype)


class MeanAbsolutePercentageError(MeanOfLoss):
    """The mean of |y - p| in percent of |y|."""

    def __init__(self, name: str | None = "mean_absolute_percentage_error", dtype: Any = None):
        super().__init__(losses.MeanAbsolutePercentageError(), name, dtype)


class MeanSquaredLogarithmicError(MeanOfLoss):
    """The mean of (log(1 + y) - log(1 + p))²."""

    def __init__(self, name: str | None = "mean_squared_logarithmic_error", dtype: Any = None):
        super().__init__(losses.MeanSquaredLogarithmicError(), name, dtype)


class LogCoshError(MeanOfLoss):
    """The mean of log(cosh(p - y))."""

    def __init__(self, name: str | None = "logcosh", dtype: Any = None):
        super().__init__(losses.LogCosh(), name, dtype)


class Hinge(MeanOfLoss):
    """The mean of max(1 - y p, 0), y in {-1, 1} or {0, 1}."""

    def __init__(self, name: str | None = "hinge", dtype: Any = None):
        super().__init__(losses.Hinge(), name, dtype)


class SquaredHinge(MeanOfLoss):
    """The mean of max(1 - y p, 0)², y in {-1, 1} or {0, 1}."""

    def __init__(self, name: str | None = "squared_hinge", dtype: Any = None):
        super().__init__(losses.SquaredHinge(), name, dtype)


class CategoricalHinge(MeanOfLoss):
    """The mean of max(1 + best wrong score - right score, 0)."""

    def __init__(self, name: str | None = "categorical_hinge", dtype: Any = None):
        super().__init__(losses.CategoricalHinge(), name, dtype)


class KLDivergence(MeanOfLoss):
    """The mean of sum(y log(y / p))."""

    def __init__(self, name: str | None = "kl_divergence", dtype: Any = None):
        super().__init__(losses.KLDivergence(), name, dtype)


class Poisson(MeanOfLoss):
    """The mean of p - y log p."""

    def __init__(self, name: str | None = "poisson", dtype: Any = None):
        super().__init__(losses.Poisson(), name, dtype)


class BinaryCrossentropy(MeanOfLoss):
    """The mean binary crossentropy."""

    def __init__(
        self,
        name: str | None = "binary_crossentropy",
        dtype: Any = None,
        from_logits: bool = False,
        label_smoothing: Number = 0,
    ):
        super().__init__(losses.BinaryCrossentropy(from_logits, label_smoothing), name, dtype)


class CategoricalCrossentropy(MeanOfLoss):
    """The mean crossentropy against one-hot or probability vectors."""

    def __init__(
        self,
        name: str | None = "categorical_crossentropy",
        dtype: Any = None,
        from_logits: bool = False,
        label_smoothing: Number = 0,
        axis: int = -1,
    ):
        super().__init__(losses.CategoricalCrossentropy(from_logits, label_smoothing, axis), name, dtype)


class SparseCategoricalCrossentropy(MeanOfLoss):
    """The mean crossentropy against class numbers, over the positions that are not `ignore_class`.

    Keras counts ignored positions as zeros unless there are weights.
    """

    def __init__(
        self,
        name: str | None = "sparse_categorical_crossentropy",
        dtype: Any = None,
        from_logits: bool = False,
        ignore_class: int | None = None,
        axis: int = -1,
    ):
        super().__init__(losses.SparseCategoricalCrossentropy(from_logits, ignore_class, axis=axis), name, dtype)


# -- similarities and errors with a form of their own


def cosine_similarity(y_true: ArrayLike, y_pred: ArrayLike, axis: int = -1) -> Float[Array, " ..."]:
    """The cosine between targets and predictions along `axis`: the loss of this name with the sign turned."""
    return -losses.cosine_similarity(*paired(y_true, y_pred), axis=axis)


def pearson_correlation(y_true: ArrayLike, y_pred: ArrayLike, axis: int = -1) -> Float[Array, " ..."]:
    """Pearson's correlation of targets and predictions along `axis`; 0 where either is constant (Keras: NaN)."""
    y, p = (_centred(a, axis) for a in paired(y_true, y_pred))
    spread = jnp.sqrt(jnp.sum(y * y, axis=axis) * jnp.sum(p * p, axis=axis))
    return jnp.sum(y * p, axis=axis) / jnp.where(spread == 0, 1.0, spread)


def concordance_correlation(y_true: ArrayLike, y_pred: ArrayLike, axis: int = -1) -> Float[Array, " ..."]:
    """Lin's concordance correlation (1989) of targets and predictions along `axis`: agreement, scale included."""
    y, p = paired(y_true, y_pred)
    y0, p0 = _centred(y, axis), _centred(p, axis)
    apart = jnp.square(jnp.mean(y - p, axis=axis))
    spread = jnp.mean(y0 * y0, axis=axis) + jnp.mean(p0 * p0, axis=axis) + apart
    return 2.0 * jnp.mean(y0 * p0, axis=axis) / (spread + EPSILON)


def _centred(a: Array, axis: int) -> Float[Array, " ..."]:
    a = a.astype(jnp.float32)
    return a - jnp.mean(a, axis=axis, keepdims=True)


class CosineSimilarity(MeanMetricWrapper):
    """The mean cosine between targets and predictions."""

    def __init__(self, name: str | None = "cosine_similarity", dtype: Any = None, axis: int = -1):
        super().__init__(cosine_similarity, name, dtype, axis=axis)


class PearsonCorrelation(MeanMetricWrapper):
    """The mean over examples of the correlation along `axis`."""

    def __init__(self, name: str | None = "pearson_correlation", dtype: Any = None, axis: int = -1):
        super().__init__(pearson_correlation, name, dtype, axis=axis)


class ConcordanceCorrelation(MeanMetricWrapper):
    """The mean over examples of Lin's concordance correlation along `axis`."""

    def __init__(self, name: str | None = "concordance_correlation", dtype: Any = None, axis: int = -1):
        super().__init__(concordance_correlation, name, dtype, axis=axis)


class RootMeanSquaredError(Metric):
    """The square root of the mean of (y - p)² over all examples, not the mean of roots."""

    def __init__(self, name: str | None = "root_mean_squared_error", dtype: Any = None):
        super().__init__(dtype, name)

    def stats(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Stats:
        y, p = (a.astype(jnp.float32) for a in aligned(y_true, y_pred))
        return mean_stats(jnp.square(y - p), sample_weight)

    def value(self, sums: Sums) -> Value:
        return float(np.sqrt(ratio(sums["total"], sums["count"])))

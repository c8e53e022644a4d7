"""Metrics of yes/no decisions at thresholds: counts, precision and recall, points and areas of curves.

All of them sum up the same thing: how many positives and negatives (by weight) lie between one threshold and the next.
Those histograms are additive; every confusion matrix is made of them on the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from epochal.losses.functions import EPSILON
from epochal.losses.shapes import Number, aligned, broadcast_weights
from epochal.metrics.metric import Metric, Stats, Sums, Value, ratio

_MOST = 1_000_000  # thresholds; a model file may ask for any number of them
Thresholds: TypeAlias = Number | Sequence[Number] | np.ndarray | None


class _AtThresholds(Metric):
    """Sums up histograms of the predictions over the thresholds, for positives and for negatives."""

    def __init__(
        self, thresholds: Sequence[Number], name: str | None, dtype: Any, top_k: int | None, class_id: int | None
    ):
        super().__init__(dtype, name)
        self.thresholds = [float(t) for t in thresholds]
        self.top_k = top_k
        self.class_id = class_id
        self._order = np.argsort(self.thresholds, kind="stable")
        self._sorted = np.asarray(self.thresholds, np.float32)[self._order]

    def stats(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Stats:
        y, p = aligned(y_true, y_pred)
        weights = jnp.ones(p.shape, jnp.float32) if sample_weight is None else broadcast_weights(sample_weight, p.shape)
        p = p.astype(jnp.float32)
        if self.top_k is not None:
            p = jnp.where(_among_top(p, self.top_k), p, -jnp.inf)
        if self.class_id is not None:
            y, p, weights = y[..., self.class_id], p[..., self.class_id], weights[..., self.class_id]
        return self._histograms(y.reshape(-1) != 0, p.reshape(-1), weights.reshape(-1))

    def _histograms(self, positive: Array, p: Array, weights: Array) -> Stats:
        between = _bucket(p, self._sorted)
        count = len(self._sorted) + 1
        return {
            "positives": jax.ops.segment_sum(jnp.where(positive, weights, 0.0), between, count),
            "negatives": jax.ops.segment_sum(jnp.where(positive, 0.0, weights), between, count),
        }

    def counts(self, sums: Sums) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """True positives, false positives, true negatives and false negatives at every threshold, as it was given.

        Args:
            sums: histograms of shape (thresholds + 1,) or (thresholds + 1, labels).
        """
        above = [np.cumsum(np.asarray(sums[k], np.float64)[::-1], axis=0)[::-1] for k in ("positives", "negatives")]
        back = np.argsort(self._order, kind="stable")
        tp, fp = (a[1:][back] for a in above)
        return tp, fp, above[1][0] - fp, above[0][0] - tp


def _bucket(p: Float[Array, " n"], thresholds: np.ndarray) -> Int[Array, " n"]:
    """How many of the sorted thresholds each prediction exceeds; NaN exceeds none."""
    return jnp.searchsorted(jnp.asarray(thresholds), jnp.where(jnp.isnan(p), -jnp.inf, p), side="left")


def _among_top(p: Array, k: int) -> Array:
    chosen = jax.lax.top_k(p, min(k, p.shape[-1]))[1]
    return jnp.sum(jax.nn.one_hot(chosen, p.shape[-1], dtype=jnp.int32), axis=-2) > 0


def _listed(thresholds: Thresholds, default: float) -> list[float]:
    if thresholds is None:
        return [default]
    listed = np.atleast_1d(np.asarray(thresholds, np.float64)).tolist()
    if not all(0 <= t <= 1 for t in listed):
        raise ValueError(f"Expected thresholds between 0 and 1, got {thresholds!r}.")
    return listed


def _check_number(num_thresholds: int, least: int) -> None:
    if not least <= num_thresholds <= _MOST:
        raise ValueError(f"Expected num_thresholds of {least} to {_MOST:,}, got {num_thresholds!r}.")


def _one_or_all(values: np.ndarray) -> Value:
    return float(values[0]) if len(values) == 1 else values


# -- counts


class _Count(_AtThresholds):
    """One cell of the confusion matrix, by weight, at every threshold."""

    _cell: int

    def __init__(self, thresholds: Thresholds = None, name: str | None = None, dtype: Any = None):
        super().__init__(_listed(thresholds, 0.5), name, dtype, None, None)

    def value(self, sums: Sums) -> Value:
        return _one_or_all(self.counts(sums)[self._cell])


class TruePositives(_Count):
    """The weight of positives that were predicted so."""

    _cell = 0


class FalsePositives(_Count):
    """The weight of negatives that were predicted positive."""

    _cell = 1


class TrueNegatives(_Count):
    """The weight of negatives that were predicted so."""

    _cell = 2


class FalseNegatives(_Count):
    """The weight of positives that were predicted negative."""

    _cell = 3


class _Share(_AtThresholds):
    """True positives in the predicted or the actual positives."""

    def __init__(
        self,
        thresholds: Thresholds = None,
        top_k: int | None = None,
        class_id: int | None = None,
        name: str | None = None,
        dtype: Any = None,
    ):
        # With top_k the k greatest predictions are positive, whatever their value.
        listed = _listed(thresholds, 0.5 if top_k is None else -1e10)
        super().__init__(listed, name, dtype, top_k, class_id)


class Precision(_Share):
    """True positives in all that was predicted positive; 0 where nothing was.

    Args:
        thresholds: one, or several for several values; a prediction above it is positive. 0.5 by default.
        top_k: only the k greatest predictions along the last axis can be positive.
        class_id: only this entry of the last axis counts.

    Raises:
        ValueError: a threshold outside 0 … 1.
    """

    def value(self, sums: Sums) -> Value:
        tp, fp, _, _ = self.counts(sums)
        return _one_or_all(ratio(tp, tp + fp))


class Recall(_Share):
    """True positives in all positives; 0 where there are none. Arguments and errors as for `Precision`."""

    def value(self, sums: Sums) -> Value:
        tp, _, _, fn = self.counts(sums)
        return _one_or_all(ratio(tp, tp + fn))


# -- points of curves


class _BestUnderConstraint(_AtThresholds):
    """The best of one rate over the thresholds at which another rate is at least `bound`."""

    def __init__(
        self, kind: str, bound: Number, num_thresholds: int, class_id: int | None, name: str | None, dtype: Any
    ):
        if not 0 <= bound <= 1:
            raise ValueError(f"Expected a {kind} between 0 and 1, got {bound!r}.")
        _check_number(num_thresholds, 1)
        self.bound = bound
        self.num_thresholds = num_thresholds
        inner = [0.5] if num_thresholds == 1 else [i / (num_thresholds - 1) for i in range(num_thresholds)]
        super().__init__(inner, name, dtype, None, class_id)

    def value(self, sums: Sums) -> Value:
        constrained, wanted = self.rates(*self.counts(sums))
        return float(np.max(np.where(constrained >= self.bound, wanted, 0.0), initial=0.0))

    def rates(self, tp: Any, fp: Any, tn: Any, fn: Any) -> tuple[np.ndarray, np.ndarray]:
        """The constrained rate and the wanted one, at every threshold."""
        raise NotImplementedError


class SensitivityAtSpecificity(_BestUnderConstraint):
    """The highest sensitivity tp / (tp + fn) where the specificity tn / (tn + fp) is at least `specificity`.

    Raises:
        ValueError: `specificity` outside 0 … 1, or no thresholds.
    """

    def __init__(
        self,
        specificity: Number,
        num_thresholds: int = 200,
        class_id: int | None = None,
        name: str | None = None,
        dtype: Any = None,
    ):
        super().__init__("specificity", specificity, num_thresholds, class_id, name, dtype)

    def rates(self, tp: Any, fp: Any, tn: Any, fn: Any) -> tuple[np.ndarray, np.ndarray]:
        return ratio(tn, tn + fp), ratio(tp, tp + fn)


class SpecificityAtSensitivity(_BestUnderConstraint):
    """The highest specificity tn / (tn + fp) where the sensitivity tp / (tp + fn) is at least `sensitivity`.

    Raises:
        ValueError: `sensitivity` outside 0 … 1, or no thresholds.
    """

    def __init__(
        self,
        sensitivity: Number,
        num_thresholds: int = 200,
        class_id: int | None = None,
        name: str | None = None,
        dtype: Any = None,
    ):
        super().__init__("sensitivity", sensitivity, num_thresholds, class_id, name, dtype)

    def rates(self, tp: Any, fp: Any, tn: Any, fn: Any) -> tuple[np.ndarray, np.ndarray]:
        return ratio(tp, tp + fn), ratio(tn, tn + fp)


class PrecisionAtRecall(_BestUnderConstraint):
    """The highest precision where the recall is at least `recall`.

    Raises:
        ValueError: `recall` outside 0 … 1, or no thresholds.
    """

    def __init__(
        self,
        recall: Number,
        num_thresholds: int = 200,
        class_id: int | None = None,
        name: str | None = None,
        dtype: Any = None,
    ):
        super().__init__("recall", recall, num_thresholds, class_id, name, dtype)

    def rates(self, tp: Any, fp: Any, tn: Any, fn: Any) -> tuple[np.ndarray, np.ndarray]:
        return ratio(tp, tp + fn), ratio(tp, tp + fp)


class RecallAtPrecision(_BestUnderConstraint):
    """The highest recall where the precision is at least `precision`.

    Raises:
        ValueError: `precision` outside 0 … 1, or no thresholds.
    """

    def __init__(
        self,
        precision: Number,
        num_thresholds: int = 200,
        class_id: int | None = None,
        name: str | None = None,
        dtype: Any = None,
    ):
        super().__init__("precision", precision, num_thresholds, class_id, name, dtype)

    def rates(self, tp: Any, fp: Any, tn: Any, fn: Any) -> tuple[np.ndarray, np.ndarray]:
        return ratio(tp, tp + fp), ratio(tp, tp + fn)


# -- areas under curves


class AUC(_AtThresholds):
    """The area under a curve over thresholds, by a Riemann sum.

    Predictions are probabilities; what lies outside 0 … 1 counts as the nearest of both.

    Args:
        num_thresholds: how many, evenly over 0 … 1.
        curve: "ROC" (true against false positive rate), "PR" (precision against recall), or "PRGAIN" (Flach & Kull
            2015).
        summation_method: "interpolation" (for PR that of Davis & Goadrich 2006), "minoring" or "majoring".
        thresholds: thresholds of your own between 0 and 1; 0 and 1 are added.
        multi_label: the mean of a curve per label, for predictions (n, labels).
        num_labels: how many labels, for the sake of Keras; the data tells.
        label_weights: a weight per label.
        from_logits: predictions are logits.

    Raises:
        ValueError: an unknown curve or method, fewer than 2 thresholds, or `num_labels` without `multi_label`.
    """

    def __init__(
        self,
        num_thresholds: int = 200,
        curve: str = "ROC",
        summation_method: str = "interpolation",
        name: str | None = None,
        dtype: Any = None,
        thresholds: Thresholds = None,
        multi_label: bool = False,
        num_labels: int | None = None,
        label_weights: Any = None,
        from_logits: bool = False,
    ):
        _check_auc(num_thresholds, curve, summation_method, multi_label, num_labels)
        inner = [i / (num_thresholds - 1) for i in range(1, num_thresholds - 1)]
        if thresholds is not None:
            inner = sorted(_listed(thresholds, 0.5))
        # A little outside 0 and 1, so that predictions of exactly 0 and 1 lie inside the curve.
        super().__init__([-EPSILON, *inner, 1 + EPSILON], name, dtype, None, None)
        self.num_thresholds = len(self.thresholds)
        self.curve = curve.upper()
        self.summation_method = summation_method.lower()
        self.multi_label = multi_label
        self.num_labels = num_labels
        self.label_weights = None if label_weights is None else np.asarray(label_weights, np.float64)
        self.from_logits = from_logits

    def stats(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Stats:
        y, p = aligned(y_true, y_pred)
        p = p.astype(jnp.float32)
        p = jax.nn.sigmoid(p) if self.from_logits else jnp.clip(p, 0.0, 1.0)
        weights = jnp.ones(p.shape, jnp.float32) if sample_weight is None else broadcast_weights(sample_weight, p.shape)
        if self.multi_label:
            if p.ndim != 2:
                raise ValueError(f"Expected predictions (n, labels) with multi_label=True, got shape {p.shape}.")
            return jax.vmap(self._histograms, in_axes=1, out_axes=1)(y != 0, p, weights)
        if self.label_weights is not None:
            weights = weights * jnp.asarray(self.label_weights, jnp.float32)
        return self._histograms(y.reshape(-1) != 0, p.reshape(-1), weights.reshape(-1))

    def value(self, sums: Sums) -> Value:
        tp, fp, tn, fn = self.counts(sums)
        if self.curve == "PR" and self.summation_method == "interpolation":
            areas = _interpolated_pr(tp, fp, fn)
        else:
            areas = self._riemann(*_CURVES[self.curve](tp, fp, tn, fn))
        if not self.multi_label:
            return float(areas)
        if self.label_weights is None:
            return float(np.mean(areas))
        return float(ratio(np.sum(areas * self.label_weights), np.sum(self.label_weights)))

    def _riemann(self, x: np.ndarray, y: np.ndarray) -> Any:
        heights = {"interpolation": lambda a, b: (a + b) / 2, "minoring": np.minimum, "majoring": np.maximum}
        return np.sum((x[:-1] - x[1:]) * heights[self.summation_method](y[:-1], y[1:]), axis=0)


def _check_auc(num_thresholds: int, curve: str, method: str, multi_label: bool, num_labels: int | None) -> None:
    if curve.upper() not in _CURVES:
        raise ValueError(f"Expected a curve of {', '.join(map(repr, _CURVES))}, got {curve!r}.")
    if method.lower() not in ("interpolation", "minoring", "majoring"):
        raise ValueError(f"Expected summation_method 'interpolation', 'minoring' or 'majoring', got {method!r}.")
    _check_number(num_thresholds, 2)
    if num_labels and not multi_label:
        raise ValueError(f"Expected num_labels only with multi_label=True, got num_labels={num_labels!r}.")


def _roc(tp: Any, fp: Any, tn: Any, fn: Any) -> tuple[np.ndarray, np.ndarray]:
    return ratio(fp, fp + tn), ratio(tp, tp + fn)


def _pr(tp: Any, fp: Any, tn: Any, fn: Any) -> tuple[np.ndarray, np.ndarray]:
    return ratio(tp, tp + fn), ratio(tp, tp + fp)


def _pr_gain(tp: Any, fp: Any, tn: Any, fn: Any) -> tuple[np.ndarray, np.ndarray]:
    odds = ratio(tp + fn, tn + fp)
    recall_gain = np.where(tp == 0, 0.0, 1.0 - odds * ratio(fn, tp))
    return np.maximum(recall_gain, 0.0), np.where(tp == 0, 1.0, 1.0 - odds * ratio(fp, tp))


_CURVES = {"ROC": _roc, "PR": _pr, "PRGAIN": _pr_gain}


def _interpolated_pr(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray) -> Any:
    """Davis & Goadrich 2006: between thresholds, true positives grow linearly with predicted positives.

    With slope s = dtp / dp and intercept i = tp - s p, the integral of precision over recall between two thresholds is
    s (dtp + i log(p0 / p1)) / (tp + fn).
    """
    p = tp + fp
    dtp = tp[:-1] - tp[1:]
    slope = ratio(dtp, np.maximum(p[:-1] - p[1:], 0))
    intercept = tp[1:] - slope * p[1:]
    both = (p[:-1] > 0) & (p[1:] > 0)
    steps = np.where(both, ratio(p[:-1], p[1:]), 1.0)
    return np.sum(ratio(slope * (dtp + intercept * np.log(steps)), tp[1:] + fn[1:]), axis=0)

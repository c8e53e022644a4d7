"""Scores made of sums per class or per output: F-scores and R²."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from epochal.losses.shapes import Number, aligned, broadcast_weights
from epochal.metrics.metric import Metric, Stats, Sums, Value, ratio, weighted
from epochal.support.warn import warn


def _table(metric: Metric, y_true: Any, y_pred: Any, sample_weight: Any) -> tuple[Array, Array, Any]:
    """Targets and predictions as float32 (n, d), and the weights in their shape or None."""
    y, p = (a.astype(jnp.float32) for a in aligned(y_true, y_pred))
    if p.ndim != 2:
        raise ValueError(f"{metric.name} expects predictions of shape (n, outputs), got {p.shape}.")
    return y, p, None if sample_weight is None else broadcast_weights(sample_weight, p.shape)


class FBetaScore(Metric):
    """The weighted harmonic mean of precision and recall, (1 + b²) p r / (b² p + r).

    Args:
        average: None gives a score per class; "micro" counts all classes together; "macro" is the mean over the
            classes; "weighted" the mean weighted by how often each class occurs.
        beta: how much more recall counts than precision.
        threshold: a prediction above it is positive; None: the greatest of a row is.

    Raises:
        ValueError: an unknown average, beta <= 0, a threshold outside 0 … 1, or predictions that are not (n, classes).
    """

    def __init__(
        self,
        average: str | None = None,
        beta: Number = 1.0,
        threshold: Number | None = None,
        name: str | None = "fbeta_score",
        dtype: Any = None,
    ):
        super().__init__(dtype, name)
        if average not in (None, "micro", "macro", "weighted"):
            raise ValueError(f"Expected average None, 'micro', 'macro' or 'weighted', got {average!r}.")
        if beta <= 0:
            raise ValueError(f"Expected beta > 0, got {beta!r}.")
        if threshold is not None and not 0 < threshold <= 1:
            raise ValueError(f"Expected a threshold above 0 and up to 1, got {threshold!r}.")
        self.average = average
        self.beta = beta
        self.threshold = threshold

    def stats(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Stats:
        y, p, weights = _table(self, y_true, y_pred, sample_weight)
        if self.threshold is None:
            # A row of zeros has no greatest prediction: none of it is positive.
            chosen = (p >= jnp.max(p, axis=-1, keepdims=True)) & (jnp.abs(p) > 1e-9)
        else:
            chosen = p > self.threshold
        hit = chosen.astype(jnp.float32)
        cells = {"true_positives": hit * y, "false_positives": hit * (1 - y), "false_negatives": (1 - hit) * y}
        return {name: jnp.sum(weighted(cell, weights), axis=0) for name, cell in cells.items()}

    def value(self, sums: Sums) -> Value:
        tp, fp, fn = (np.asarray(sums[k]) for k in ("true_positives", "false_positives", "false_negatives"))
        if self.average == "micro":
            tp, fp, fn = tp.sum(), fp.sum(), fn.sum()
        square = self.beta**2
        scores = ratio((1 + square) * tp, (1 + square) * tp + square * fn + fp)
        if self.average is None:
            return scores
        occurrences = tp + fn if self.average == "weighted" else np.ones(np.shape(scores))
        return float(ratio(np.sum(scores * occurrences), np.sum(occurrences)))


class F1Score(FBetaScore):
    """The harmonic mean of precision and recall: `FBetaScore` with beta = 1."""

    def __init__(
        self,
        average: str | None = None,
        threshold: Number | None = None,
        name: str | None = "f1_score",
        dtype: Any = None,
    ):
        super().__init__(average, 1.0, threshold, name, dtype)


class R2Score(Metric):
    """The share of the targets' variance that is explained: 1 - sum((y - p)²) / sum((y - mean y)²).

    A constant target gives 1 if it is predicted exactly (Keras: NaN) and 0 if not. The variance comes from float32 sums
    of y and y², taken in training from the first target on; in stand-alone use they are too coarse where the targets'
    mean is more than some hundred standard deviations from 0.

    Args:
        class_aggregation: "uniform_average" of the outputs, "variance_weighted_average", or None for each output.
        num_regressors: the number of independent variables, for the adjusted R²; 0 for the plain one. The number of
            examples in it leaves out those of weight 0; Keras counts an example once per output.

    Raises:
        ValueError: an unknown aggregation, a negative number, or predictions that are not (n, outputs).
    """

    shift_invariant = True

    def __init__(
        self,
        class_aggregation: str | None = "uniform_average",
        num_regressors: int = 0,
        name: str | None = "r2_score",
        dtype: Any = None,
    ):
        super().__init__(dtype, name)
        known = (None, "uniform_average", "variance_weighted_average")
        if class_aggregation not in known:
            raise ValueError(f"Expected class_aggregation of {known}, got {class_aggregation!r}.")
        if num_regressors < 0:
            raise ValueError(f"Expected num_regressors of 0 or more, got {num_regressors!r}.")
        self.class_aggregation = class_aggregation
        self.num_regressors = num_regressors

    def stats(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Stats:
        y, p, weights = _table(self, y_true, y_pred, sample_weight)
        ones = jnp.ones_like(y) if weights is None else weights
        terms = {"sum": y, "squared_sum": y * y, "residual": jnp.square(y - p)}
        sums = {name: jnp.sum(weighted(term, weights), axis=0) for name, term in terms.items()}
        examples = jnp.sum(jnp.any(ones != 0, axis=1)).astype(jnp.float32)
        return sums | {"weight": jnp.sum(ones, axis=0), "examples": examples}

    def value(self, sums: Sums) -> Value:
        total = sums["squared_sum"] - ratio(np.square(sums["sum"]), sums["weight"])
        scores = np.where(total == 0, np.where(sums["residual"] == 0, 1.0, 0.0), 1.0 - ratio(sums["residual"], total))
        if self.class_aggregation == "uniform_average":
            scores = np.mean(scores)
        elif self.class_aggregation == "variance_weighted_average":
            scores = ratio(np.sum(total * scores), np.sum(total))
        scores = self._adjusted(scores, int(sums["examples"]))
        return scores if self.class_aggregation is None else float(scores)

    def _adjusted(self, scores: Any, examples: int) -> Any:
        freedom = examples - self.num_regressors - 1
        if self.num_regressors == 0:
            return scores
        if freedom <= 0:
            message = (
                f"Adjusted R² needs more than {self.num_regressors + 1} examples, got {examples}: plain R² is given."
            )
            warn(message)
            return scores
        return 1.0 - (1.0 - scores) * (examples - 1) / freedom

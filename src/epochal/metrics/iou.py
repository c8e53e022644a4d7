"""Intersection over union of classes, from a confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from epochal.losses.shapes import Number, broadcast_weights
from epochal.metrics.metric import Metric, Stats, Sums, Value, ratio


class IoU(Metric):
    """tp / (tp + fp + fn) of each of `target_class_ids`, averaged over those that occur.

    Weights are floats; Keras cuts them to integers.

    Args:
        num_classes: how many classes there are; positions with another class number are left out.
        target_class_ids: the classes to average.
        ignore_class: positions with this target are left out.
        sparse_y_true: targets are class numbers; False: vectors along `axis`, of which the greatest counts.
        sparse_y_pred: the same for predictions.
        axis: where the classes lie.

    Raises:
        ValueError: a class id that is no class, or targets and predictions of different shapes.
    """

    def __init__(
        self,
        num_classes: int,
        target_class_ids: Sequence[int],
        name: str | None = None,
        dtype: Any = None,
        ignore_class: int | None = None,
        sparse_y_true: bool = True,
        sparse_y_pred: bool = True,
        axis: int = -1,
    ):
        super().__init__(dtype, name)
        self.target_class_ids = [int(i) for i in target_class_ids]
        if not all(0 <= i < num_classes for i in self.target_class_ids):
            raise ValueError(f"Expected target_class_ids in 0 … {num_classes - 1}, got {self.target_class_ids}.")
        self.num_classes = num_classes
        self.ignore_class = ignore_class
        self.sparse_y_true = sparse_y_true
        self.sparse_y_pred = sparse_y_pred
        self.axis = axis

    def stats(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Stats:
        y, p = jnp.asarray(y_true), jnp.asarray(y_pred)
        y = y if self.sparse_y_true else jnp.argmax(y, axis=self.axis)
        p = p if self.sparse_y_pred else jnp.argmax(p, axis=self.axis)
        if y.size != p.size or y.shape[:1] != p.shape[:1]:
            raise ValueError(f"Expected targets and predictions of one shape, got {y.shape} and {p.shape}.")
        weights = jnp.ones(y.shape, jnp.float32) if sample_weight is None else broadcast_weights(sample_weight, y.shape)
        y, p, weights = (a.reshape(-1) for a in (y.astype(jnp.int32), p.astype(jnp.int32), weights))
        c = self.num_classes
        counted = (y >= 0) & (y < c) & (p >= 0) & (p < c)
        if self.ignore_class is not None:
            counted &= y != self.ignore_class
        cells = jnp.where(counted, y * c + p, 0)
        matrix = jax.ops.segment_sum(jnp.where(counted, weights, 0.0), cells, c * c)
        return {"confusion": matrix.reshape(c, c)}

    def value(self, sums: Sums) -> Value:
        matrix = np.asarray(sums["confusion"], np.float64)
        hits = np.diag(matrix)
        union = (matrix.sum(axis=0) + matrix.sum(axis=1) - hits)[self.target_class_ids]
        return float(ratio(np.sum(ratio(hits[self.target_class_ids], union)), np.count_nonzero(union)))


class BinaryIoU(IoU):
    """`IoU` of the classes 0 and 1, where a prediction of at least `threshold` is class 1."""

    def __init__(
        self,
        target_class_ids: Sequence[int] = (0, 1),
        threshold: Number = 0.5,
        name: str | None = None,
        dtype: Any = None,
    ):
        super().__init__(2, target_class_ids, name, dtype)
        self.threshold = threshold

    def stats(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Stats:
        return super().stats(y_true, jnp.asarray(y_pred) >= self.threshold, sample_weight)


class MeanIoU(IoU):
    """`IoU` of all classes."""

    def __init__(
        self,
        num_classes: int,
        name: str | None = None,
        dtype: Any = None,
        ignore_class: int | None = None,
        sparse_y_true: bool = True,
        sparse_y_pred: bool = True,
        axis: int = -1,
    ):
        every = range(num_classes)
        super().__init__(num_classes, every, name, dtype, ignore_class, sparse_y_true, sparse_y_pred, axis)


class OneHotIoU(IoU):
    """`IoU` for one-hot targets."""

    def __init__(
        self,
        num_classes: int,
        target_class_ids: Sequence[int],
        name: str | None = None,
        dtype: Any = None,
        ignore_class: int | None = None,
        sparse_y_pred: bool = False,
        axis: int = -1,
    ):
        super().__init__(num_classes, target_class_ids, name, dtype, ignore_class, False, sparse_y_pred, axis)


class OneHotMeanIoU(MeanIoU):
    """`IoU` of all classes, for one-hot targets."""

    def __init__(
        self,
        num_classes: int,
        name: str | None = None,
        dtype: Any = None,
        ignore_class: int | None = None,
        sparse_y_pred: bool = False,
        axis: int = -1,
    ):
        super().__init__(num_classes, name, dtype, ignore_class, False, sparse_y_pred, axis)

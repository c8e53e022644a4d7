"""Sums over the examples of a batch, and over batches."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from epochal import losses
from epochal.data.feeds.block import Batch
from epochal.losses.shapes import broadcast_weights, rank_matched
from epochal.tracing.masks import get_mask


class CountsNeeded(Exception):
    """What a batch's loss divides by depends on masks or weights: it is known once all pieces have been looked at."""


class WholeOnly(ValueError):
    """A batch cannot be cut into pieces."""


class LossSums(NamedTuple):
    """What the loss of a batch is made of. Those of the pieces of a batch, added, are those of the batch.

    Attributes:
        total: sum(w l); of a loss that is one number for the whole batch, that number.
        count: what a mean divides by; None: the total is the loss.
        positions: per example, where the count is examples times positions; None where it depends on masks or weights.
        whole: whether it is one number for the whole batch, which pieces do not add up to.
    """

    total: Array
    count: Any = None
    positions: int | None = None
    whole: bool = False

    @property
    def loss(self) -> Array:
        """The loss of the batch as one number."""
        return self.total if self.count is None else mean_of(self.total, self.count)


def mean_of(total: Array, count: Any) -> Array:
    """`total` / `count`; the total where nothing counts."""
    return total / jnp.where(count == 0, 1, count)


def loss_sums(loss: losses.Loss, target: Any, prediction: Array, weight: Any, batch: Batch) -> LossSums:
    """The loss of a batch as a total and what it is divided by.

    Weighted by sample weights the loss is sum(w l) / m: divided by the batch's size (times positions), not by the
    weights' sum. Padding counts for nothing, nor does what the prediction's mask leaves out.

    Raises:
        ValueError: weights for a loss that is one number for the whole batch already.
    """
    mask = get_mask(prediction)
    target, prediction = rank_matched(target, prediction)
    values = jnp.asarray(loss.call(target, prediction))
    if values.ndim == 0:
        if weight is not None:
            raise ValueError(
                "sample_weight and class_weight need one value per example, shape (n,); got one number for the whole "
                "batch. Return the values before their mean."
            )
        return LossSums(values, whole=True)
    positions: int | None = math.prod(values.shape[1:])
    count: Any = batch.size * positions
    weights = jnp.ones(()) if weight is None else broadcast_weights(weight, values.shape)
    valid = combined(None, loss.valid(target, prediction), mask)
    if batch.rows is not None or valid is not None:
        counted = broadcast_weights(combined(batch.rows, valid, None), values.shape)
        weights = weights * counted
        if valid is not None:
            count, positions = jnp.sum(counted), None
    total = jnp.sum(values * weights)
    if loss.reduction == "sum":
        return LossSums(total)
    if loss.reduction == "mean_with_sample_weight":
        count, positions = jnp.sum(jnp.broadcast_to(weights, values.shape)), None
    return LossSums(total, count, positions)


def combined(rows: Array | None, mask: Array | None, weight: Any) -> Any:
    """The product of what is given: 0 for padding rows (m,), 0 where a mask (m, t) leaves out, and sample weights."""
    result = None
    for part in (rows, mask, weight):
        if part is None:
            continue
        part = jnp.asarray(part, jnp.float32)
        if result is None:
            result = part
        else:
            rank = max(result.ndim, part.ndim)
            result, part = (a.reshape(*a.shape, *[1] * (rank - a.ndim)) for a in (result, part))
            result = result * part
    return result

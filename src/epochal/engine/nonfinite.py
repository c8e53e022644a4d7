"""Updates whose loss or gradients are not finite: found and left out in the compiled loop, named on the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

WAYS = ("ignore", "skip", "raise")
_SHOWN = 32  # so many example ids are written out


class NonFiniteError(FloatingPointError):
    """Training with `on_nonfinite="raise"` came to a loss or gradient that is not finite.

    The model holds the weights from before that update.

    Attributes:
        epoch: its index, as hooks get it: from 0; None in `train_on_batch`.
        batch: the batch's index in the epoch, from 0.
        examples: the rows of x that the batch consists of; None where data come as batches.
        values: what was not finite: outputs first, then the loss, then gradients by the path of their parameter.
    """

    def __init__(self, message: str, first: First):
        super().__init__(message)
        self.epoch, self.batch, self.examples, self.values = first.epoch, first.batch, first.examples, first.values


class Record(NamedTuple):
    """What a pass remembers of the updates left out. It is carried along on the device, and read with the tally.

    Attributes:
        steps: (), batches of the pass so far.
        count: (), how many of their updates were left out.
        first: (), the index of the first of these batches.
        flags: (k,), which values were not finite in it.
    """

    steps: Array | np.ndarray
    count: Array | np.ndarray
    first: Array | np.ndarray
    flags: Array | np.ndarray


class First(NamedTuple):
    """The first update left out, in words of the host; see `NonFiniteError`."""

    epoch: int | None
    batch: int
    examples: np.ndarray | None
    values: list[str]


def start(values: int, steps: int = 0) -> Record:
    """The record before any batch, or behind so many batches of which nothing is known; `values` are looked at."""
    zero = np.zeros((), np.int32)
    return Record(np.array(steps, np.int32), zero, zero, np.zeros(values, bool))


# -- inside a trace


def judged(record: Record, shown: Sequence[Any], decisive: Sequence[Any], ends: bool) -> tuple[Array, Record]:
    """Whether a batch's update is left out, and the record behind the batch.

    Args:
        record: before it.
        shown: arrays that are looked at to say where it went wrong.
        decisive: arrays that must be finite.
        ends: whether training ends with the first such update, so that none that comes after it counts either.
    """
    decided = jnp.stack([_broken(array) for array in decisive])
    found = decided.any()
    flags = jnp.concatenate([jnp.array([_broken(array) for array in shown], bool), decided])
    first = found & (record.count == 0)
    after = Record(
        steps=record.steps + jnp.int32(1),
        count=record.count + found.astype(jnp.int32),
        first=jnp.where(first, record.steps, record.first),
        flags=jnp.where(first, flags, record.flags),
    )
    return found | (record.count > 0) if ends else found, after


def _broken(array: Any) -> Array:
    array = jnp.asarray(array)
    if not jnp.issubdtype(array.dtype, jnp.inexact):
        return jnp.zeros((), bool)
    return jnp.isnan((array * 0).sum())  # 0 * inf is NaN too; a sum of floats is faster on a CPU than `all` of bools


# -- on the host


def message(first: First, count: int, steps: int | None, culprits: Sequence[int], ends: bool) -> str:
    """What a user is told.

    Args:
        first: the first update left out.
        count: how many were.
        steps: batches in the epoch, as far as known.
        culprits: those of its examples whose own numbers are not finite.
        ends: whether training ends with it.
    """
    place = f"batch {first.batch + 1}{'' if steps is None else f' of {steps}'}"
    wrong = f"not finite there: {_listed(first.values, 4)}."
    if first.epoch is None:
        text = f"train_on_batch(): the update was not made; {wrong}"
    elif ends:
        text = f"Epoch {first.epoch + 1}, {place}; {wrong} The model has the weights from before this update."
    else:
        left = "1 update was" if count == 1 else f"{count} updates were"
        text = f"Epoch {first.epoch + 1}: {left} skipped and left out of the means. The first was {place}; {wrong}"
    if first.examples is None:
        return text
    rows = _listed(first.examples.tolist(), _SHOWN)
    if culprits:
        return f"{text} Row {_listed(culprits, _SHOWN)} of the data is not finite; the batch is rows {rows}."
    return f"{text} The batch is rows {rows} of the data, which are finite: try a lower learning rate, or clipnorm."


def _listed(items: Sequence[Any], most: int) -> str:
    return ", ".join(map(str, items[:most])) + (f", … ({len(items) - most} more)" if len(items) > most else "")

"""Updates whose loss or gradients are not finite: skipped in the compiled loop, counted, and named on the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from epochal.engine.objective.tally import Entry, Pass, Update
from epochal.support.types import Logs
from epochal.support.warn import warn

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


class First(NamedTuple):
    """The first update left out, in words of the host; see `NonFiniteError`."""

    epoch: int | None
    batch: int
    examples: np.ndarray | None
    values: list[str]


# -- inside a trace


def judged(shown: Sequence[Any], decisive: Sequence[Any]) -> tuple[Array, Array]:
    """Whether an update is not finite, and which of the arrays are not, shape (k,).

    Args:
        shown: arrays that are looked at to say where it went wrong.
        decisive: arrays that must be finite.
    """
    decided = jnp.stack([_broken(array) for array in decisive])
    return decided.any(), jnp.concatenate([jnp.array([_broken(array) for array in shown], bool), decided])


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


# -- in the tally


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


class SkippedUpdates(Entry):
    """Counts the updates that are left out, and remembers the first.

    Args:
        values: names of the values that are judged, in the order in which a step computes them.
        ends: whether training ends with the first such update (`on_nonfinite="raise"`).
    """

    name = "skipped"
    sees_skipped = True

    def __init__(self, values: Sequence[str], ends: bool):
        self.values, self.ends = list(values), ends

    def start(self, done: int = 0) -> Record:
        zero = np.zeros((), np.int32)
        return Record(np.array(done, np.int32), zero, zero, np.zeros(len(self.values), bool))

    def trace_key(self, width: int | None) -> Any:
        return self.name, self.ends, len(self.values)

    def judge(self, record: Record, shown: Sequence[Any], decisive: Sequence[Any]) -> tuple[Array, Array, Array]:
        """Whether an update is left out, whether it is not finite, and which arrays are not; see `nonfinite.judged`.

        Where training ends with the first such update, none that comes after it counts either.
        """
        broken, flags = judged(shown, decisive)
        return broken | (record.count > 0) if self.ends else broken, broken, flags

    def add(self, value: Record, update: Update) -> Record:
        if update.broken is None or update.flags is None:
            raise RuntimeError("An update was not judged.")
        first = update.broken & (value.count == 0)
        return Record(
            steps=value.steps + jnp.int32(1),
            count=value.count + update.broken.astype(jnp.int32),
            first=jnp.where(first, value.steps, value.first),
            flags=jnp.where(first, update.flags, value.flags),
        )

    def check(self, value: Record, place: Pass) -> None:
        """Ends training where it is to end. Waits for the device, where training may end so.

        Raises:
            NonFiniteError: an update was left out.
        """
        if self.ends and value.count:
            raise NonFiniteError(*self._told(value, place))

    def end(self, value: Record, place: Pass) -> Logs:
        """Warns where updates of the pass were left out.

        Raises:
            NonFiniteError: as `check`.
        """
        self.check(value, place)
        if value.count:
            warn(self._told(value, place)[0])
        return {}

    def _told(self, record: Record, place: Pass) -> tuple[str, First]:
        batch = int(record.first)
        found = place.feed.found(place.epoch or 0, batch)
        values = [value for value, broken in zip(self.values, record.flags, strict=True) if broken]
        first = First(place.epoch, batch, None if found is None else found[0], values)
        culprits = [] if found is None else found[1]
        return message(first, int(record.count), place.feed.steps, culprits, self.ends), first

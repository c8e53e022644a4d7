"""What a pass adds up, batch by batch, on the device."""

from __future__ import annotations

import abc
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from epochal.data.feeds.block import Batch
from epochal.support.types import Logs


def chosen(bad: Array, before: Any, after: Any) -> Any:
    """All arrays of `before` where an update is left out, else those of `after`."""
    return jax.tree.map(lambda old, new: jnp.where(bad, old, new), before, after)


class Tally(NamedTuple):
    """What a pass has come to so far.

    Attributes:
        sums: (2, k), the additive statistics as a high and a low part, see `accumulate`.
        states: label -> state of each metric that is not a sum, such as a user's own with `update_state`.
        entries: name -> value of each `Entry` of a training pass.
    """

    sums: Array | np.ndarray
    states: dict[str, Any]
    entries: dict[str, Any] = {}  # noqa: RUF012  (a default that nothing writes to)


class Update(NamedTuple):
    """What an entry may look at in an update, inside a trace.

    Attributes:
        size: (), examples in the batch.
        loss: (), what was minimised; None where the model has a `train_step` of its own.
        gradients: of the loss, one array per parameter; empty where the model has a `train_step` of its own.
        skipped: (), whether the update is left out; None where none ever is.
        broken: (), whether the update is not finite; None where that is not asked.
        flags: (k,), which of the values that are judged are not finite; None where that is not asked.
        unpenalized: the gradients without the regularizers' part, of a batch that was split; else empty.
        count: how many micro-batches the batch was split into; None: it was not.
        pieces: name -> what an entry has accumulated over the micro-batches.
    """

    size: Array
    loss: Array | None
    gradients: Sequence[Array]
    skipped: Array | None = None
    broken: Array | None = None
    flags: Array | None = None
    unpenalized: Sequence[Array] = ()
    count: Array | None = None
    pieces: Mapping[str, Any] = {}


class Pass(NamedTuple):
    """A training pass as an entry is told of it on the host.

    Attributes:
        feed: what it goes over; finds a batch's rows.
        epoch: its epoch, from 0; None for a batch of `train_on_batch`.
        width: rows per micro-batch; None where batches are whole.
    """

    feed: Any
    epoch: int | None
    width: int | None


class Entry(abc.ABC):
    """A statistic of training that is carried along on the device: how it begins, and what an update adds.

    It is split, checkpointed, restored and replayed with the pass. A callback hands one over as `entry()`.

    Attributes:
        name: its key in `Tally.entries` and in checkpoints.
        sampled: whether it is added to in one of `period` updates only; the others then run in loops without it.
        sees_skipped: whether updates that are left out are added too.
    """

    name: str
    sampled = False
    sees_skipped = False

    @abc.abstractmethod
    def start(self, done: int = 0) -> Any:
        """The value, a pytree of arrays, behind `done` batches of which nothing is known."""

    @abc.abstractmethod
    def add(self, value: Any, update: Update) -> Any:
        """The value after an update; pure. Where the update is skipped, the value before it is kept."""

    def period(self, width: int | None) -> int:
        """It is added to in one of so many updates of batches in micro-batches of `width` rows; 0: in none."""
        return 1

    def trace_key(self, width: int | None) -> Hashable:
        """What decides the compiled code of `add` and `add_piece`; equal keys share programs."""
        return self

    def start_piece(self) -> Any:
        """What is accumulated over a batch's micro-batches, before the first; None: nothing."""
        return None

    def add_piece(self, carry: Any, gradients: Sequence[Array], rows: Array, size: Array) -> Any:
        """`carry` after a micro-batch of `rows` examples of a batch of `size`; `gradients` are its part of the sum."""
        return carry

    def check(self, value: Any, place: Pass) -> None:  # noqa: B027  (most entries have nothing to check)
        """Called on the host while a pass runs; may raise to end training."""

    def end(self, value: Any, place: Pass) -> Logs:
        """Called on the host at the end of a pass: what is to be among the epoch's logs."""
        return {}

    def joined(self, other: Entry) -> Entry:
        """One entry for this and another of the same name.

        Raises:
            ValueError: they cannot be one.
        """
        raise ValueError(f"Expected entries of different names, got two called {self.name!r}.")


def added(entries: Mapping[str, Entry], values: Mapping[str, Any], update: Update, sampled: bool) -> dict[str, Any]:
    """The values of a tally's entries after an update.

    Args:
        entries: by name, those that the program knows.
        values: before the update; entries without one are left out.
        update: what has come of it.
        sampled: whether this update is among those that sampled entries look at.
    """
    after = dict(values)
    for name, value in values.items():
        entry = entries.get(name)
        if entry is None or (entry.sampled and not sampled):
            continue
        new, skipped = entry.add(value, update), None if entry.sees_skipped else update.skipped
        after[name] = new if skipped is None else chosen(skipped, value, new)
    return after


class Means:
    """Reports what a model's own `train_step` logs: means over the pass, weighted by the batches' sizes.

    Args:
        logs: name -> shape and type of what a step logs; empty before that is known.

    Raises:
        ValueError: something logged is not one number.
    """

    def __init__(self, logs: Mapping[str, Any] | None = None):
        for name, spec in (logs or {}).items():
            if math.prod(spec.shape) != 1:
                raise ValueError(f"Expected train_step() to log numbers; {name!r} has the shape {spec.shape}.")
        self.labels = list(logs or {})
        self.start = Tally(np.zeros((2, len(self.labels) + 1), np.float32), {})

    def measure(self, logs: Mapping[str, Any], batch: Batch, tally: Tally, left_out: Array | None = None) -> Tally:
        """The tally after a batch; see `Objective.measure`."""
        values = [jnp.asarray(logs[label], jnp.float32).reshape(()) * batch.size for label in self.labels]
        return tally._replace(sums=accumulate(tally.sums, jnp.stack([*values, batch.size]), left_out))

    def read(self, tally: Tally) -> Logs:
        """The means so far; NaN where every batch was left out. Waits for the device."""
        *totals, count = np.asarray(tally.sums, np.float64).sum(axis=0)
        return {
            label: float(total / count) if count else math.nan for label, total in zip(self.labels, totals, strict=True)
        }


def mean_of_sums(sums: Mapping[str, np.ndarray]) -> float:
    return float(sums["total"] / sums["count"]) if sums["count"] else math.nan  # every batch was left out


def as_number(value: Any) -> Any:
    array = np.asarray(value)
    return float(array) if array.ndim == 0 else array


def accumulate(sums: Array | np.ndarray, batch: Array, left_out: Array | None = None) -> Array:
    """Adds a batch's statistics (k,) to running sums (2, k): a high and a low part, so that nothing is rounded away.

    Where `left_out` is true the sums stay as they are.

    Two-sum (Knuth, TAOCP 4.2.2): the low part holds the exact error of each addition, whichever way the steps are cut
    into executions. A plain float32 sum would stop counting at 2**24 examples.
    """
    high, low = sums[0], sums[1]
    new = high + batch
    back = new - high
    error = (high - (new - back)) + (batch - back)
    after = jnp.stack([new, low + error])
    return after if left_out is None else jnp.where(left_out, sums, after)

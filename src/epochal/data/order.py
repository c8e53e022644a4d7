"""In which order a pass visits the examples: a function of the run's seed and the pass's number.

With `shuffle="batch"` it depends on the batch size that the pass was begun with, too.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

# Written into checkpoints: a changed algorithm gets a new name, so that an old run is never resumed in another order.
ALGORITHM = "pcg64-permutation-1"


def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of 0 … n-1, shape (n,) int32 (int64 from 2**31 examples on), for epoch `epoch` of a run.

    Seed and epoch are hashed together, so that (seed 0, epoch 1) and (seed 1, epoch 0) are unrelated.
    """
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, epoch))))
    order = generator.permutation(n)
    return order.astype(np.int32) if n < 2**31 else order


def block_order(n: int, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """Keras's `shuffle="batch"`: contiguous batches change places, and rows inside each change places too."""
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, epoch, batch_size))))
    full = n // batch_size
    rows = np.arange(full * batch_size).reshape(full, batch_size)[generator.permutation(full)]
    rows = generator.permuted(rows, axis=1).reshape(-1)
    tail = generator.permutation(np.arange(full * batch_size, n))  # the short batch stays last
    return np.concatenate([rows, tail]).astype(np.int32 if n < 2**31 else np.int64)


def batch_rows(n: int, batch_size: int, shuffle: bool | str, seed: int, number: int) -> np.ndarray:
    """All rows in the order in which pass `number` takes them, in batches of `batch_size`."""
    if shuffle == "batch":
        return block_order(n, batch_size, seed, number)
    if shuffle:
        return epoch_order(n, seed, number)
    return np.arange(n, dtype=np.int32 if n < 2**31 else np.int64)


@dataclass(frozen=True)
class Place:
    """A place between two batches of a run.

    Attributes:
        epoch: the epoch that the next batch belongs to.
        batch: how many batches of that epoch come before it.
        number: the pass over the data that it is taken from.
        offset: how many examples of that pass come before it.
        batch_size: with which that pass was begun; the order "batch" depends on it.
    """

    epoch: int = 0
    batch: int = 0
    number: int = 0
    offset: int = 0
    batch_size: int = 0


class Table(NamedTuple):
    """Batches in the order in which they are taken.

    Attributes:
        rows: (k, m) numbers of examples; a short batch is filled up with its last row.
        sizes: (k,) int32, how many of the m rows are examples.
        passes: (k,) the pass of each batch.
        first: batches before this one are through already.
    """

    rows: np.ndarray
    sizes: np.ndarray
    passes: np.ndarray
    first: int


class Batches:
    """The batches of n examples as one endless stream: pass 0 over the data, pass 1, …, each in an order of its own.

    A pass has ceil(n / m) batches. Epoch e takes the batches number e * s … (e + 1) * s - 1 of the stream, so it
    depends on no other epoch. A run that goes on at a place takes what is left of that place's pass, then the next
    passes: with the batch size it had before, the same batches; with another one, every example once per pass all the
    same.

    Args:
        n: examples.
        batch_size: m.
        shuffle: True (a new order every pass), "batch" or False.
        seed: of the order.
        steps: s, batches per epoch; None is one pass, -1 an epoch without end.
        start: where the run goes on.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        shuffle: bool | str,
        seed: int,
        steps: int | None = None,
        start: Place | None = None,
    ):
        self._n, self._m, self._shuffle, self._seed, self._steps = n, min(batch_size, n), shuffle, seed, steps
        self._start = start or Place()
        self.per_pass = -(-n // self._m)
        self._left = -(-(n - self._start.offset) // self._m)  # batches of the pass in which the run goes on

    @property
    def even(self) -> bool:
        """Whether no batch is short."""
        return self._n % self._m == 0 and (self._n - self._start.offset) % self._m == 0

    def at(self, place: Place) -> Batches:
        """The same batches for a run that goes on at `place`."""
        return Batches(self._n, self._m, self._shuffle, self._seed, self._steps, place)

    def resized(self, epoch: int, batch_size: int) -> Batches:
        """The same passes in batches of another size, from an epoch's beginning or from where the run goes on."""
        start = self.place(epoch, self._start.batch if epoch == self._start.epoch else 0)
        return Batches(self._n, batch_size, self._shuffle, self._seed, self._steps, start)

    def place(self, epoch: int, batch: int) -> Place:
        """Where batch number `batch` of an epoch begins."""
        begin = self._start.batch if epoch == self._start.epoch else 0
        number, offset = self._origin(self._first(epoch) + batch - begin)
        goes_on = offset > 0 and number == self._start.number and self._start.offset > 0
        return Place(epoch, batch, number, offset, self._start.batch_size if goes_on else self._m)

    def length(self, epoch: int) -> int | None:
        """The batches of an epoch, those before the place where the run goes on among them; None: it has no end."""
        if self._steps == -1:
            return None
        before = self._start.batch if epoch == self._start.epoch else 0
        return before + self._first(epoch + 1) - self._first(epoch)

    def rows(self, epoch: int, batch: int) -> np.ndarray | None:
        """The examples of batch number `batch` of an epoch; None where the run went on in a later pass since."""
        start = self._start
        ahead = batch - (start.batch if epoch == start.epoch else 0)
        index = self._first(epoch) + ahead
        if index >= 0:
            rows, sizes = self._rest(*self._origin(index), 1)
            return rows[0, : sizes[0]]
        offset = start.offset + ahead * start.batch_size
        whole = batch_rows(self._n, start.batch_size, self._shuffle, self._seed, start.number)
        return whole[offset : offset + start.batch_size] if offset >= 0 else None

    def tables(self, epoch: int) -> Iterator[Table]:
        """The batches of an epoch: in one table, or in one per pass where it has no end."""
        before = self._start.batch if epoch == self._start.epoch else 0
        first = self._first(epoch)
        if self._steps != -1:
            yield self._table(first, self._first(epoch + 1), before)
            return
        for number in itertools.count():
            last = self._left + number * self.per_pass
            yield self._table(first, last, before)
            first, before = last, 0

    def _first(self, epoch: int) -> int:
        """The number of an epoch's first batch, counted from where the run goes on."""
        later = epoch - self._start.epoch
        if later == 0 or self._steps == -1:
            return 0
        if self._steps is None:
            through = self._start.batch > 0 and self._start.offset == 0  # the place is behind the epoch's last batch
            return (0 if through else self._left) + (later - 1) * self.per_pass
        return later * self._steps - self._start.batch

    def _origin(self, index: int) -> tuple[int, int]:
        """The pass of batch number `index`, and how many examples of the pass come before it."""
        if index < self._left:
            return self._start.number, self._start.offset + index * self._m
        number, within = divmod(index - self._left, self.per_pass)
        return self._start.number + 1 + number, within * self._m

    def _table(self, first: int, last: int, before: int) -> Table:
        """The batches first … last-1, behind rows that stand for the `before` ones that are through."""
        # The epoch that is gone on with has a table as long as any other, so that one program runs both.
        parts = [
            (np.zeros((before, self._m), np.int32), np.full(before, self._m, np.int32), np.zeros(before, np.int64))
        ]
        while first < last:
            number, offset = self._origin(first)
            rows, sizes = self._rest(number, offset, last - first)
            parts.append((rows, sizes, np.full(len(rows), number)))
            first += len(rows)
        return Table(*(np.concatenate(part) for part in zip(*parts, strict=True)), first=before)

    def _rest(self, number: int, offset: int, most: int) -> tuple[np.ndarray, np.ndarray]:
        """At most so many batches of a pass, behind its first `offset` examples."""
        # "batch" orders a pass by its batches: where one goes on, by those it began with.
        m = self._start.batch_size if offset and number == self._start.number else self._m
        rows = batch_rows(self._n, m or self._m, self._shuffle, self._seed, number)[offset : offset + most * self._m]
        steps = -(-len(rows) // self._m)
        padding = steps * self._m - len(rows)
        sizes = np.full(steps, self._m, np.int32)
        sizes[-1] -= padding
        return np.concatenate([rows, np.full(padding, rows[-1], rows.dtype)]).reshape(steps, self._m), sizes

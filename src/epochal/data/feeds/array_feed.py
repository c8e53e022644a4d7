"""Arrays as batches: on the device once where they fit, else in chunks that a thread of its own puts together ahead."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from epochal.data.arrays import Lazy, read_rows
from epochal.data.examples import Examples, fingerprint, found
from epochal.data.feeds.block import PASS_FACTOR, Block, Stretch
from epochal.data.feeds.feed import Feed
from epochal.data.order import Batches, Place, Table
from epochal.data.padding import shared_rows, widened
from epochal.data.streams.workers import Threads
from epochal.runtime import memory


class _Cut(NamedTuple):
    """Batches of a chunk: their examples' numbers in line, the batches' sizes, their passes, and rows of a full one."""

    rows: np.ndarray
    sizes: np.ndarray
    passes: np.ndarray
    width: int


class ArrayFeed(Feed):
    """Arrays; what is fed is an order of their rows, see `order.Batches`.

    They go to the device once if they fit. Arrays on disk, which are never read whole, and what is larger than `SHARE`
    of the memory go in chunks of a few batches: the next one is put together while the device computes the last. The
    order is the same, and so are the results, to the bit.

    Args:
        examples: the data.
        batch_size: m.
        shuffle: True (a new order every pass), "batch" or False.
        seed: of the order.
        exact_tail: give a short last batch its true shape (another compiled program) instead of padding it.
        steps: the batches of an epoch; None is one pass, -1 an epoch without end.
        pivot: one row of targets per output; the first row when not given.
        shared: for evaluation: NumPy arrays of other sizes are to run in the same programs, as long as they are small.
        prepare: checks examples that were read from disk, and brings them to the model's form.

    Attributes:
        chunked: whether data goes to the device in chunks.
    """

    resizable = True
    SHARED_BYTES = 4 * 2**20  # copied in well under a millisecond
    SHARED_WIDTH = 32  # a batch of more examples has room for a multiple of this
    SHARE = 0.5  # of the memory there is, for data; the other half is for the model and what steps work in
    CHUNK_BYTES = 8 * 2**20  # at most three are alive: one that is computed with, one that waits, one in the making
    CHUNK_ROWS = 2**18

    def __init__(
        self,
        examples: Examples,
        batch_size: int,
        shuffle: bool | str,
        seed: int,
        exact_tail: bool,
        steps: int | None = None,
        pivot: Any = None,
        shared: bool = False,
        prepare: Callable[[Examples], Examples] = lambda examples: examples,
    ):
        self.n, self.exact_tail = examples.n, exact_tail
        self.batch_size = min(batch_size, examples.n)
        self._width: int | None = None
        self._batches = Batches(self.n, self.batch_size, shuffle, seed, steps)
        self.steps = self._batches.length(0)
        self._examples, self._prepare = examples, prepare
        self.chunked = examples.lazy or not self._fits()
        data = examples.x, examples.y, examples.weight
        self._room = self._shared_room(data) if shared and not exact_tail and not self.chunked else None
        if self._room is not None:  # no order names the rows that are added
            data = widened(data, self.n, self._room[2])
        pivot = jax.tree.map(_first_row, examples.y) if pivot is None else pivot
        self.data, self.pivot = jax.device_put((None if self.chunked else data, pivot))

    def _fits(self) -> bool:
        """Whether all data may be on the device at once: always, where chunks would take as much."""
        arrays = jax.tree.leaves((self._examples.x, self._examples.y, self._examples.weight))
        size = sum(a.nbytes for a in arrays if not isinstance(a, jax.Array))
        if size <= 2 * self.CHUNK_BYTES or self._batches.per_pass <= 2:
            return True
        return size <= self.SHARE * memory.limit().bytes

    @property
    def padded(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether a batch may hold padding."""
        return not self.exact_tail and (self._room is not None or self._shares or not self._batches.even)

    def _shared_room(self, data: Any) -> tuple[int, int, int] | None:
        """Batches, rows per batch and rows of data that the program has room for; None where it has the true ones."""
        n, leaves, batches = self.n, jax.tree.leaves(data), self._batches.per_pass
        if batches > 1:
            steps, width = 4 ** (((batches - 1).bit_length() + 1) // 2), self.batch_size or n  # a power of four
            rows = steps * width
        else:  # all rows of a batch are computed with: large ones have not many more than examples
            width = shared_rows(n) if n <= self.SHARED_WIDTH else -(-n // self.SHARED_WIDTH) * self.SHARED_WIDTH
            steps, rows = 2, width  # of a block with one step XLA makes another program, with other bits
        small = sum(a.nbytes for a in leaves) / n * rows <= self.SHARED_BYTES
        return (steps, width, rows) if small and all(isinstance(a, np.ndarray) for a in leaves) else None

    def begin(self, epoch: int) -> bool:
        self.steps = self._batches.length(epoch)
        return True

    def epoch(self, epoch: int, chunk: int | None = None) -> Iterator[Stretch]:
        tables = self._batches.tables(epoch)
        if self.chunked:
            yield from self._ahead(cut for table in tables for cut in self._cuts(table))
            return
        for table in tables:
            yield from self._cut(table)

    def share(self, width: int) -> None:
        """From here on one program runs all batch sizes that are multiples of `width`, the size of micro-batches."""
        self._width = None if self.exact_tail or width >= self.n else width

    @property
    def _shares(self) -> bool:
        return self._width is not None and self.batch_size is not None and self.batch_size % self._width == 0

    def _shared(self, table: Table, width: int) -> Stretch:
        """One block whose shape does not depend on the batch size: all rows in line, and where each batch begins."""
        real = np.arange(table.rows.shape[1]) < table.sizes[:, None]
        rows, steps = table.rows[real].astype(np.int32), max(-(-self.n // width), len(table.sizes))
        order = np.resize(rows[-1:], -(-max(len(rows), self.n) // width) * width)
        order[: len(rows)] = rows
        starts, sizes, passes = np.zeros(steps, np.int32), np.zeros(steps, np.int32), np.zeros(steps, np.uint32)
        k = len(table.sizes)
        starts[:k], sizes[:k] = np.cumsum(table.sizes) - table.sizes, table.sizes
        passes[:k] = (table.passes * PASS_FACTOR).astype(np.uint32)
        arrays = jax.device_put((order[None], sizes, passes, starts))
        block = Block(self.data, arrays[0], arrays[1], arrays[2], None, self.pivot, arrays[3])
        return Stretch(block, table.first, table.sizes)

    def _cut(self, table: Table) -> Iterator[Stretch]:
        """One block; with exact tails a block for every run of batches of one size."""
        if self._room is not None:
            yield self._roomy(table, *self._room[:2])
            return
        if self._shares and self._width is not None:
            yield self._shared(table, self._width)
            return
        passes = (table.passes * PASS_FACTOR).astype(np.uint32)
        edges = np.flatnonzero(np.diff(table.sizes)) + 1 if self.exact_tail else []
        start = 0
        for rows, sizes, number in zip(*(np.split(a, edges) for a in (table.rows, table.sizes, passes)), strict=True):
            first = max(table.first - start, 0)
            start += len(rows)
            if first < len(rows):
                rows = rows[:, : sizes[0]] if self.exact_tail else rows
                order, counts, pass_ids = jax.device_put((rows.astype(np.int32), sizes, number))
                yield Stretch(Block(self.data, order, counts, pass_ids, None, self.pivot), first, sizes)

    def _cuts(self, table: Table) -> Iterator[_Cut]:
        """A table in chunks; with exact tails all batches of one are of the same size."""
        passes, width = (table.passes * PASS_FACTOR).astype(np.uint32), table.rows.shape[1]
        start = table.first
        while start < len(table.sizes):
            sizes = table.sizes[start : start + self._chunk_room(width)[0]]
            if self.exact_tail:
                sizes = sizes[: int(np.argmin(np.append(sizes == sizes[0], False)))]
            stop = start + len(sizes)
            rows = table.rows[start:stop][np.arange(width) < sizes[:, None]]
            yield _Cut(rows, sizes, passes[start:stop], int(sizes[0]) if self.exact_tail else width)
            start = stop

    def _chunk_room(self, m: int) -> tuple[int, int, int]:
        """How many batches of m a chunk holds; for how many rows and steps it has room."""
        arrays = jax.tree.leaves((self._examples.x, self._examples.y, self._examples.weight))
        row_bytes = sum(math.prod(a.shape[1:]) * np.dtype(a.dtype).itemsize for a in arrays)
        rows = min(self.CHUNK_BYTES // max(row_bytes, 1), self.CHUNK_ROWS)
        if self._shares and self._width is not None:  # a shape that does not depend on the batch size
            rows = -(-max(min(rows, self.n), 2 * self._width, m) // self._width) * self._width
            return rows // m, rows, rows // self._width
        of_epoch = self._batches.per_pass if self.steps is None else self.steps
        steps = max(2, min(rows // m, of_epoch))  # of a block with one step XLA makes another program, with other bits
        return steps, steps * m, steps

    def _ahead(self, cuts: Iterator[_Cut]) -> Iterator[Stretch]:
        """The chunks; while one is computed with, a thread makes the next."""
        threads = Threads(self._chunk, 1)
        under_way: deque[Any] = deque()
        try:
            for cut in cuts:
                under_way.append(threads.submit(cut))
                if len(under_way) > 1:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            threads.drop(list(under_way))
            threads.close()

    def _chunk(self, cut: _Cut) -> Stretch:
        """The batches with their examples. All arrays have the size of a full chunk, so that one program runs all."""
        k, (_, room, steps) = len(cut.sizes), self._chunk_room(cut.width)
        examples = self._prepare(self._read(cut, room))
        data = examples.x, examples.y, examples.weight
        sizes, passes, ids = np.zeros(steps, np.int32), np.zeros(steps, np.uint32), np.zeros(room, np.uint32)
        sizes[:k], passes[:k], ids[: len(cut.rows)] = cut.sizes, cut.passes, cut.rows
        starts = np.zeros(steps, np.int32)
        starts[:k] = np.cumsum(cut.sizes) - cut.sizes
        if self._shares:
            order = np.arange(room, dtype=np.int32)[None]
        else:  # padding repeats the last row
            within = np.minimum(np.arange(cut.width, dtype=np.int32), np.maximum(sizes, 1)[:, None] - 1)
            order = starts[:, None] + within
        data, order, sizes, passes, ids = jax.device_put((data, order, sizes, passes, ids))
        begins = jax.device_put(starts) if self._shares else None
        block = Block(data, order, sizes, passes, ids, self.pivot, begins)
        return Stretch(block, 0, cut.sizes)

    def _read(self, cut: _Cut, room: int) -> Examples:
        """A chunk's examples, with the last one repeated up to `room` rows. What is on disk is read batch by batch."""
        n, stops = len(cut.rows), np.cumsum(cut.sizes)

        def read(array: Any) -> np.ndarray:
            whole = np.empty((room, *array.shape[1:]), array.dtype)
            if isinstance(array, Lazy):
                for start, stop in zip(stops - cut.sizes, stops, strict=True):
                    whole[start:stop] = array.read(cut.rows[start:stop])
            else:
                np.take(np.asarray(array), cut.rows, axis=0, out=whole[:n], mode="clip")  # else `out` is copied to
            whole[n:] = whole[n - 1]
            return whole

        arrays = self._examples.x, self._examples.y, self._examples.weight
        return Examples(*jax.tree.map(read, arrays), n=room)

    def _roomy(self, table: Table, steps: int, width: int) -> Stretch:
        """One block with room for so many batches of so many rows; batches repeat their last row, as short ones do."""
        room, more = width - table.rows.shape[1], max(steps - len(table.sizes), 0)
        rows = np.pad(table.rows.astype(np.int32), ((0, more), (0, room)), "edge")
        passes = (table.passes * PASS_FACTOR).astype(np.uint32)
        order, sizes, passes = jax.device_put((rows, np.pad(table.sizes, (0, more)), np.pad(passes, (0, more))))
        return Stretch(Block(self.data, order, sizes, passes, None, self.pivot), table.first, table.sizes)

    def place(self, epoch: int, batch: int) -> dict[str, Any]:
        return dict(vars(self._batches.place(epoch, batch)))  # `asdict` takes ten times as long, every epoch

    def seek(self, place: dict[str, Any]) -> None:
        self._cut_into(self._batches.at(Place(**place)), place["epoch"])

    def resize(self, epoch: int, batch_size: int) -> None:
        self.batch_size = min(batch_size, self.n)
        self._cut_into(self._batches.resized(epoch, self.batch_size), epoch)

    def _cut_into(self, batches: Batches, epoch: int) -> None:
        self._batches, self.steps = batches, batches.length(epoch)

    def taken(self, rows: np.ndarray) -> tuple[Any, Any, Any]:
        arrays = self._examples.x, self._examples.y, self._examples.weight
        examples = self._prepare(Examples(*read_rows(arrays, rows), n=len(rows)))
        return examples.x, examples.y, examples.weight

    def found(self, epoch: int, batch: int) -> tuple[np.ndarray, list[int]] | None:
        return found(self._examples, self._batches.rows(epoch, batch))

    def fingerprint(self) -> dict[str, Any]:
        return fingerprint(self._examples)


def _first_row(array: Any) -> Any:
    return array.read(np.zeros(1, np.int32)) if isinstance(array, Lazy) else array[:1]

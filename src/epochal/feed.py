"""Batches of a fixed shape, ready for a compiled loop over steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from epochal.drawn import Drawn, Stream
from epochal.order import Batches, Place, Table
from epochal.sources import Examples, fingerprint, found, read_rows, shared_rows, widened


class Batch(NamedTuple):
    """m rows, of which the first `size` are examples and the rest padding.

    Attributes:
        x, y: arrays with m rows; padding repeats a row of the same batch, so it can never bring a NaN of its own.
        weight: sample weights per output, or None.
        rows: (m,) float32, 1 for an example and 0 for padding; None when the batch has no room for padding.
        size: number of examples, a float32 scalar.
        ids: (m,) uint32 example ids.
        pivot: one row of targets per output, the same for all batches; see `Metric.shift_invariant`.
    """

    x: Any
    y: Any
    weight: Any
    rows: Array | None
    size: Array
    ids: Array
    pivot: Any = None


class Block(NamedTuple):
    """Steps that one compiled program can run: `order[i]` are the rows of `data` that step i takes.

    Attributes:
        data: (x, y, weight), arrays on the device.
        order: (steps, m) int32 rows of `data`.
        sizes: (steps,) int32, how many of the m are examples.
        passes: (steps,) uint32, added to the ids of a step's examples, so that every pass draws other masks.
        ids: ids of the rows of `data`, uint32; None: they are the rows' numbers.
        pivot: one row of targets per output, the same for all blocks of a pass; see `Metric.shift_invariant`.
        starts: (steps,) int32, for batches that are run in pieces: where in the flattened `order` each begins, so that
            their sizes may differ; None: every m rows.
    """

    data: tuple[Any, Any, Any]
    order: Array
    sizes: Array
    passes: Array
    ids: Array | None
    pivot: Any
    starts: Array | None = None


def take(block: Block, step: Array | int, padded: bool) -> Batch:
    """Batch number `step` of the block. Pure; called inside the compiled loop."""
    rows = jax.lax.dynamic_index_in_dim(block.order, step, keepdims=False)
    return _batch(block, step, rows, block.sizes[step], padded)


def take_piece(block: Block, step: Array | int, start: Array | int, width: int, padded: bool) -> Batch:
    """`width` rows of batch number `step` from its row `start` on, as a batch of their own; padded behind its end."""
    size = block.sizes[step]
    first = step * block.order.shape[1] if block.starts is None else block.starts[step]
    within = jnp.minimum(start + jnp.arange(width, dtype=jnp.int32), size - 1)
    rows = jnp.take(block.order.reshape(-1), first + within, mode="clip")
    return _batch(block, step, rows, jnp.clip(size - start, 0, width), padded)


def _batch(block: Block, step: Array | int, rows: Array, size: Array, padded: bool) -> Batch:
    x, y, weight = jax.tree.map(lambda a: jnp.take(a, rows, axis=0, mode="clip"), block.data)
    mask = (jnp.arange(rows.shape[0]) < size).astype(jnp.float32) if padded else None
    ids = (rows if block.ids is None else block.ids[rows]).astype(jnp.uint32) + block.passes[step]
    return Batch(x, y, weight, mask, size.astype(jnp.float32), ids, block.pivot)


# A pass's number times this, modulo 2**32, is added to the examples' ids. The factor is odd and large: ids of different
# examples and passes do not meet.
PASS_FACTOR = 2654435769


class Stretch(NamedTuple):
    """Steps to be run: those of a block from `first` on.

    Attributes:
        block: what they are steps of.
        first: those before it are through already.
        sizes: how many examples each batch of the block has, on the host.
    """

    block: Block
    first: int
    sizes: np.ndarray


class Feed:
    """What the loop takes batches from, epoch by epoch.

    Attributes:
        steps: batches per epoch; None when that is not known.
        padded: whether a batch may hold padding.
        batch_size: of a full batch; None when batches come as they are.
        limit: batches per epoch that were asked for of data that may end before.
        n: examples per epoch; of a stream, those of the last epoch.
        batches: that the last epoch of a stream had; `drawn`: that all its epochs had.
        dry: whether the data has ended for good.
        resizable: whether `resize` and `taken` work.
    """

    steps: int | None = None
    padded = False
    batch_size: int | None = None
    limit: int | None = None
    n = batches = drawn = 0
    dry = resizable = False

    @property
    def short(self) -> bool:
        """Whether the data ended before the last epoch had all batches that were asked for."""
        return self.dry and self.limit is not None and self.batches < self.limit

    def begin(self, epoch: int) -> bool:
        """Whether epoch `epoch` has a batch."""
        return True

    def epoch(self, epoch: int, chunk: int | None = None) -> Iterator[Stretch]:
        """The epoch's blocks, each with the steps of it that are to be run.

        Args:
            epoch: its number.
            chunk: look at the results at least every so many steps; None leaves it open.
        """
        raise NotImplementedError

    def tell(self, say: Callable[[str], None]) -> None:
        """Before training: `say` takes messages for the user."""

    def place(self, epoch: int, batch: int) -> dict[str, Any]:
        """Where batch number `batch` of an epoch begins, as data for `seek`.

        Args:
            epoch: the one that was begun last, or the next one.
            batch: how many of its batches have been run.
        """
        raise NotImplementedError

    def seek(self, place: dict[str, Any]) -> None:
        """Goes on at a place, before any epoch is begun; batch sizes may differ from those it was noted with."""
        raise NotImplementedError

    def resize(self, epoch: int, batch_size: int) -> None:
        """Cuts the data into batches of another size, from the beginning of `epoch` on (or from where the run goes on).

        Raises:
            ValueError: batches come as they are.
        """
        raise ValueError("The batch size can be changed for arrays in memory only; these batches come as they are.")

    def share(self, width: int) -> None:
        """See `ArrayFeed.share`; nothing where batches come as they are."""

    def taken(self, rows: np.ndarray) -> tuple[Any, Any, Any]:
        """The examples with these numbers: x, y and weight, on the host.

        Raises:
            ValueError: examples come as they are, and have no numbers.
        """
        raise ValueError("Examples can be drawn at random from arrays in memory only; these batches come as they are.")

    def fingerprint(self) -> dict[str, Any]:
        """What tells this data from other data: sizes and types, and a digest of some rows where there are rows."""
        raise NotImplementedError

    def found(self, epoch: int, batch: int) -> tuple[np.ndarray, list[int]] | None:
        """The rows that a batch consists of, and those of them whose own numbers are not all finite.

        None where the data are no arrays, so that nothing is known of a batch that is through.
        """
        return None

    def end_epoch(self) -> None:
        """After an epoch, before the next one begins."""

    def close(self) -> None:
        """When no more batches will be taken."""


class ArrayFeed(Feed):
    """Arrays in memory: they go to the device once; what is fed is an order of their rows, see `order.Batches`.

    Args:
        examples: the data.
        batch_size: m.
        shuffle: True (a new order every pass), "batch" or False.
        seed: of the order.
        exact_tail: give a short last batch its true shape (another compiled program) instead of padding it.
        steps: the batches of an epoch; None is one pass, -1 an epoch without end.
        pivot: one row of targets per output; the first row when not given.
        shared: for evaluation: NumPy arrays of other sizes are to run in the same programs, as long as they are small.
    """

    resizable = True
    SHARED_BYTES = 4 * 2**20  # copied in well under a millisecond
    SHARED_WIDTH = 32  # a batch of more examples has room for a multiple of this

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
    ):
        self.n, self.exact_tail = examples.n, exact_tail
        self.batch_size = min(batch_size, examples.n)
        self._width: int | None = None
        self._batches = Batches(self.n, self.batch_size, shuffle, seed, steps)
        self.steps = self._batches.length(0)
        data = examples.x, examples.y, examples.weight
        self._room = self._shared_room(data) if shared and not exact_tail else None
        self._examples = examples
        pivot = jax.tree.map(lambda a: a[:1], examples.y) if pivot is None else pivot
        if self._room is not None:  # no order names the rows that are added
            data = widened(data, self.n, self._room[2])
        self.data, self.pivot = jax.device_put((data, pivot))

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
        for table in self._batches.tables(epoch):
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

    def _roomy(self, table: Table, steps: int, width: int) -> Stretch:
        """One block with room for so many batches of so many rows; batches repeat their last row, as short ones do."""
        room, more = width - table.rows.shape[1], max(steps - len(table.sizes), 0)
        rows = np.pad(table.rows.astype(np.int32), ((0, more), (0, room)), "edge")
        passes = (table.passes * PASS_FACTOR).astype(np.uint32)
        order, sizes, passes = jax.device_put((rows, np.pad(table.sizes, (0, more)), np.pad(passes, (0, more))))
        return Stretch(Block(self.data, order, sizes, passes, None, self.pivot), table.first, table.sizes)

    def place(self, epoch: int, batch: int) -> dict[str, Any]:
        return asdict(self._batches.place(epoch, batch))

    def seek(self, place: dict[str, Any]) -> None:
        self._cut_into(self._batches.at(Place(**place)), place["epoch"])

    def resize(self, epoch: int, batch_size: int) -> None:
        self.batch_size = min(batch_size, self.n)
        self._cut_into(self._batches.resized(epoch, self.batch_size), epoch)

    def _cut_into(self, batches: Batches, epoch: int) -> None:
        self._batches, self.steps = batches, batches.length(epoch)

    def taken(self, rows: np.ndarray) -> tuple[Any, Any, Any]:
        return read_rows((self._examples.x, self._examples.y, self._examples.weight), rows)

    def found(self, epoch: int, batch: int) -> tuple[np.ndarray, list[int]] | None:
        return found(self._examples, self._batches.rows(epoch, batch))

    def fingerprint(self) -> dict[str, Any]:
        return fingerprint(self._examples)


class StreamFeed(Feed):
    """Batches from a stream: a few at a time are put together to a block, while the device computes the last one.

    Args:
        stream: the batches.
        prepare: checks a batch and brings it to the model's form.
        exact_tail: give batches their true shape; otherwise those with fewer rows than the largest are padded.
        batch_size: for the record; None when batches come as they are.
    """

    BLOCK_BYTES = 4 * 2**20  # as much as is copied in well under a millisecond
    BLOCK_STEPS = 64
    GATHER_SECONDS = 0.03  # from a slow source: run what is there

    def __init__(
        self,
        stream: Stream,
        prepare: Callable[[Examples], Examples],
        exact_tail: bool,
        batch_size: int | None = None,
    ):
        self._stream, self._prepare, self.exact_tail = stream, prepare, exact_tail
        self.padded, self.batch_size, self.steps = not exact_tail and not stream.even, batch_size, stream.expected
        self.limit = None if stream.limit == -1 else stream.limit
        self._width = 0  # rows of the largest batch so far
        self._pivot: Any = None
        self._mark: Any = None  # the stream's, behind the batches before the block under way
        self._marks: list[Any] = []  # behind each of the block's batches
        self._before = 0  # the epoch's batches before the block

    @property
    def dry(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the data has ended for good."""
        return self._stream.dry

    def begin(self, epoch: int) -> bool:
        begins = self._stream.begin(epoch) is not None
        self.steps = self._stream.expected or self.steps
        return begins

    def epoch(self, epoch: int, chunk: int | None = None) -> Iterator[Stretch]:
        self.batches, self.n = self._stream.skipped(epoch), 0
        self._next_block([])
        for run in self._runs(self._stream.epoch(epoch), chunk):
            self._next_block([drawn.mark for drawn in run])
            self.batches, self.drawn = self.batches + len(run), self.drawn + len(run)
            sizes = np.array([drawn.examples.n for drawn in run])
            self.n += int(sizes.sum())
            yield Stretch(self._block(run, chunk), 0, sizes)
        self.steps = self._stream.expected or self.batches  # an unknown number is learned

    def tell(self, say: Callable[[str], None]) -> None:
        self._stream.say = say

    def _next_block(self, marks: list[Any]) -> None:
        self._before, self._mark, self._marks = self.batches, [self._mark, *self._marks][-1], marks

    def place(self, epoch: int, batch: int) -> dict[str, Any]:
        run = batch - self._before if batch else len(self._marks)
        mark = self._marks[run - 1] if run else self._mark
        kept = {"drawn": self.drawn - len(self._marks) + run, "width": self._width, "pivot": self._pivot}
        return {"stream": self._stream.place(epoch, batch, mark), **kept}

    def seek(self, place: dict[str, Any]) -> None:
        self._stream.seek(place["stream"])
        self.padded = not self.exact_tail and not self._stream.even
        self.steps = self._stream.expected or self.steps
        self.drawn, self._width, self._pivot = place["drawn"], place["width"], place["pivot"]
        self._mark = place["stream"].get("mark")

    def found(self, epoch: int, batch: int) -> tuple[np.ndarray, list[int]] | None:
        return self._stream.found(epoch, batch)

    def fingerprint(self) -> dict[str, Any]:
        return self._stream.fingerprint()

    def _runs(self, batches: Iterator[Drawn], chunk: int | None) -> Iterator[list[Drawn]]:
        """Batches of one shape in a row, as many as make a block."""
        run: list[Drawn] = []
        shape: Any = None
        started = time.perf_counter()
        for drawn in batches:
            drawn = replace(drawn, examples=self._prepare(drawn.examples))
            seen = self._shape_of(drawn.examples)
            if run and seen != shape:
                yield run
                run, started = [], time.perf_counter()
            run.append(drawn)
            shape = seen
            self._width = drawn.examples.n if self.exact_tail else max(self._width, drawn.examples.n)
            waited = time.perf_counter() - started
            if len(run) >= self._capacity(drawn.examples, chunk) or waited > self.GATHER_SECONDS:
                yield run
                run, started = [], time.perf_counter()
        if run:
            yield run

    def _shape_of(self, examples: Examples) -> Any:
        leaves, structure = jax.tree.flatten((examples.x, examples.y, examples.weight))
        rows = examples.n if self.exact_tail else None
        return structure, rows, tuple((a.shape[1:], a.dtype) for a in leaves)

    def _capacity(self, examples: Examples, chunk: int | None) -> int:
        """How many batches like this a block holds."""
        per_row = sum(a.nbytes for a in jax.tree.leaves((examples.x, examples.y, examples.weight))) / examples.n
        fit = int(self.BLOCK_BYTES / max(per_row * self._width, 1))
        return max(1, min(fit, self.BLOCK_STEPS if chunk is None else chunk))

    def _block(self, run: list[Drawn], chunk: int | None) -> Block:
        """One block. Its arrays have the size of a full one, so that one program runs them all."""
        first = run[0].examples
        width = first.n if self.exact_tail else self._width
        capacity = max(self._capacity(first, chunk), len(run))
        steps = max(capacity, 2)  # of a block with one step XLA makes another program, with other bits in the loss
        sizes = np.zeros(steps, np.int32)
        passes = np.zeros(steps, np.uint32)
        ids = np.zeros(capacity * width, np.uint32)
        order = np.zeros((steps, width), np.int32)
        for i, drawn in enumerate(run):
            n = drawn.examples.n
            sizes[i], passes[i] = n, drawn.number * PASS_FACTOR % 2**32
            ids[i * width : i * width + n] = drawn.ids
            order[i] = i * width + np.minimum(np.arange(width), n - 1)  # padding repeats the last row

        def together(*parts: Any) -> np.ndarray:
            whole = np.empty((capacity * width, *parts[0].shape[1:]), parts[0].dtype)
            for i, part in enumerate(parts):
                whole[i * width : i * width + len(part)] = part
            return whole

        trees = [(drawn.examples.x, drawn.examples.y, drawn.examples.weight) for drawn in run]
        data = jax.tree.map(together, *trees)
        pivot = jax.tree.map(lambda a: np.asarray(a[:1]), first.y)
        if self._pivot is None:
            self._pivot = pivot
        self._pivot = jax.tree.map(lambda old, new: old if old.shape == new.shape else new, self._pivot, pivot)
        return Block(*jax.device_put((data, order, sizes, passes, ids, self._pivot)))

    def end_epoch(self) -> None:
        self._stream.end_epoch()

    def close(self) -> None:
        self._stream.close()

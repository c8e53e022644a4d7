"""Batches of a fixed shape, ready for a compiled loop over steps."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from epochal.order import batch_rows
from epochal.sources import Examples
from epochal.streams import Drawn, Stream


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
    """

    data: tuple[Any, Any, Any]
    order: Array
    sizes: Array
    passes: Array
    ids: Array | None
    pivot: Any


def take(block: Block, step: Array | int, padded: bool) -> Batch:
    """Batch number `step` of the block. Pure; called inside the compiled loop."""
    rows = jax.lax.dynamic_index_in_dim(block.order, step, keepdims=False)
    size = block.sizes[step]
    x, y, weight = jax.tree.map(lambda a: jnp.take(a, rows, axis=0, mode="clip"), block.data)
    mask = (jnp.arange(rows.shape[0]) < size).astype(jnp.float32) if padded else None
    ids = (rows if block.ids is None else block.ids[rows]).astype(jnp.uint32) + block.passes[step]
    return Batch(x, y, weight, mask, size.astype(jnp.float32), ids, block.pivot)


def ids_of_pass(number: int) -> int:
    """What is added to the examples' ids in pass `number` over the data, a uint32.

    The factor is odd and large: ids of different examples and passes do not meet.
    """
    return number * 2654435769 % 2**32


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
    """

    steps: int | None = None
    padded = False
    batch_size: int | None = None
    limit: int | None = None
    n = batches = drawn = 0
    dry = False

    @property
    def short(self) -> bool:
        """Whether the data ended before the last epoch had all batches that were asked for."""
        return self.dry and self.limit is not None and self.batches < self.limit

    def begin(self, epoch: int) -> bool:
        """Whether epoch `epoch` has a batch."""
        return True

    def epoch(self, epoch: int, chunk: int | None = None) -> Iterator[tuple[Block, np.ndarray]]:
        """The epoch's blocks, each with the sizes (on the host) of its first batches, which are those to be run.

        Args:
            epoch: its number.
            chunk: look at the results at least every so many steps; None leaves it open.
        """
        raise NotImplementedError

    def end_epoch(self) -> None:
        """After an epoch, before the next one begins."""

    def close(self) -> None:
        """When no more batches will be taken."""


class ArrayFeed(Feed):
    """Arrays in memory: they go to the device once; what is fed is an order of their rows.

    The batches form one endless stream: pass 0 over the data, pass 1, …; each pass has ceil(n / m) batches in an order
    of its own. Epoch e takes the batches number e * s … (e + 1) * s - 1, so it depends on no other epoch.

    Args:
        examples: the data.
        batch_size: m.
        shuffle: True (a new order every pass), "batch" or False.
        seed: of the order.
        exact_tail: give a short last batch its true shape (another compiled program) instead of padding it.
        steps: s, the batches of an epoch; None is one pass, -1 an epoch without end.
        pivot: one row of targets per output; the first row when not given.
    """

    def __init__(
        self,
        examples: Examples,
        batch_size: int,
        shuffle: bool | str,
        seed: int,
        exact_tail: bool,
        steps: int | None = None,
        pivot: Any = None,
    ):
        self.n, self.shuffle, self.seed = examples.n, shuffle, seed
        self.batch_size = self._size = min(batch_size, examples.n)
        self.exact_tail = exact_tail
        self._per_pass = -(-self.n // self._size)
        self.steps = self._per_pass if steps is None else None if steps == -1 else steps
        self.padded = not exact_tail and self.n % self._size != 0
        pivot = jax.tree.map(lambda a: a[:1], examples.y) if pivot is None else pivot
        self.data, self.pivot = jax.device_put(((examples.x, examples.y, examples.weight), pivot))

    def epoch(self, epoch: int, chunk: int | None = None) -> Iterator[tuple[Block, np.ndarray]]:
        if self.steps is not None:
            yield from self._blocks(epoch * self.steps, (epoch + 1) * self.steps)
            return
        for number in itertools.count():
            yield from self._blocks(number * self._per_pass, (number + 1) * self._per_pass)

    def _blocks(self, first: int, last: int) -> Iterator[tuple[Block, np.ndarray]]:
        """The batches first … last-1 of the stream."""
        tables, sizes, passes = [], [], []
        for number in range(first // self._per_pass, -(-last // self._per_pass)):
            start = number * self._per_pass
            cut = slice(max(first - start, 0), min(last - start, self._per_pass))
            table, table_sizes = self._pass(number)
            tables.append(table[cut])
            sizes.append(table_sizes[cut])
            passes.append(np.full(len(tables[-1]), ids_of_pass(number), np.uint32))
        yield from self._cut(np.concatenate(tables), np.concatenate(sizes), np.concatenate(passes))

    def _cut(self, order: np.ndarray, sizes: np.ndarray, passes: np.ndarray) -> Iterator[tuple[Block, np.ndarray]]:
        """One block; with exact tails a block for every run of batches of one size."""
        edges = np.flatnonzero(np.diff(sizes)) + 1 if self.exact_tail else []
        for rows, size, number in zip(*(np.split(a, edges) for a in (order, sizes, passes)), strict=True):
            rows = rows[:, : size[0]] if self.exact_tail else rows
            order_now, size_now, pass_now = jax.device_put((rows, size, number))
            yield Block(self.data, order_now, size_now, pass_now, None, self.pivot), size

    def _pass(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of all batches of a pass (steps, m), padded with the last row, and how many of them are examples."""
        order = batch_rows(self.n, self._size, self.shuffle, self.seed, number)
        padding = self._per_pass * self._size - self.n
        rows = np.concatenate([order, np.full(padding, order[-1], order.dtype)]).reshape(-1, self._size)
        sizes = np.full(self._per_pass, self._size, np.int32)
        sizes[-1] -= padding
        return rows, sizes


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
        self.padded, self.batch_size, self.steps = not exact_tail, batch_size, stream.expected
        self.limit = None if stream.limit == -1 else stream.limit
        self._width = 0  # rows of the largest batch so far
        self._pivot: Any = None

    @property
    def dry(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the data has ended for good."""
        return self._stream.dry

    def begin(self, epoch: int) -> bool:
        begins = self._stream.begin(epoch) is not None
        self.steps = self._stream.expected or self.steps
        return begins

    def epoch(self, epoch: int, chunk: int | None = None) -> Iterator[tuple[Block, np.ndarray]]:
        self.batches, self.n = 0, 0
        for run in self._runs(self._stream.epoch(epoch), chunk):
            self.batches, self.drawn = self.batches + len(run), self.drawn + len(run)
            sizes = np.array([drawn.examples.n for drawn in run])
            self.n += int(sizes.sum())
            yield self._block(run, chunk), sizes
        self.steps = self._stream.expected or self.batches  # an unknown number is learned

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
        sizes = np.zeros(capacity, np.int32)
        passes = np.zeros(capacity, np.uint32)
        ids = np.zeros(capacity * width, np.uint32)
        order = np.zeros((capacity, width), np.int32)
        for i, drawn in enumerate(run):
            n = drawn.examples.n
            sizes[i], passes[i] = n, ids_of_pass(drawn.number)
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

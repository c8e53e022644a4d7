"""Batches of a fixed shape, ready for a compiled loop over steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from epochal.drawn import Drawn, Stream
from epochal.sources import Examples


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
    def per_epoch(self) -> int:
        """How many examples an epoch goes over, as far as that is known."""
        if self.batch_size is None or self.steps is None or self.steps == -(-self.n // self.batch_size):
            return self.n
        return self.steps * self.batch_size

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
        raise ValueError("The batch size can be changed for arrays only; these batches come as they are.")

    def share(self, width: int) -> None:
        """See `ArrayFeed.share`; nothing where batches come as they are."""

    def taken(self, rows: np.ndarray) -> tuple[Any, Any, Any]:
        """The examples with these numbers: x, y and weight, on the host.

        Raises:
            ValueError: examples come as they are, and have no numbers.
        """
        raise ValueError("Examples can be drawn at random from arrays only; these batches come as they are.")

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


class StreamFeed(Feed):
    """Batches from a stream: a few at a time are put together to a block, while the device computes the last one.

    Args:
        stream: the batches.
        prepare: checks a batch and brings it to the model's form.
        exact_tail: give batches their true shape; otherwise those with fewer rows than the largest are padded.
    """

    BLOCK_BYTES = 4 * 2**20  # as much as is copied in well under a millisecond
    BLOCK_STEPS = 64
    GATHER_SECONDS = 0.03  # from a slow source: run what is there

    def __init__(
        self,
        stream: Stream,
        prepare: Callable[[Examples], Examples],
        exact_tail: bool,
    ):
        self._stream, self._prepare, self.exact_tail = stream, prepare, exact_tail
        self.padded, self.steps = not exact_tail, stream.expected
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
        self.steps = self._stream.expected or self.steps
        self.drawn, self._width, self._pivot = place["drawn"], place["width"], place["pivot"]
        self._mark = place["stream"].get("mark")

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

"""Batches of a stream, put together into blocks while the device computes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from epochal.data.examples import Examples
from epochal.data.feeds.block import PASS_FACTOR, Block, Stretch
from epochal.data.feeds.feed import Feed
from epochal.data.streams.stream import Drawn, Stream


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

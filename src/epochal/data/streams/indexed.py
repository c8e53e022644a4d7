"""Streams of a `PyDataset`: batches by number, made by workers."""

from __future__ import annotations

import copy
import itertools
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from epochal.data.examples import Examples
from epochal.data.streams.pydataset import PyDataset
from epochal.data.streams.stream import Drawn, Stream, has_state
from epochal.data.streams.workers import Workers


class Made(Stream):
    """The batches of a `PyDataset`, by number, so that an epoch can start anywhere.

    Args:
        dataset: makes a batch for each number.
        read: brings what it makes to `Examples`.
        limit: see `Stream`.
        again: see `Iterated`.
        order: (length, pass number) -> the batches' numbers in the order of the pass.
        workers: they do the making.

    Raises:
        ValueError: a dataset without batches.
    """

    def __init__(
        self,
        dataset: Any,
        read: Callable[[Any], Examples],
        limit: int | None,
        again: bool,
        order: Callable[[int, int], Sequence[int]],
        workers: Workers,
    ):
        self._dataset, self._read, self._order, self._workers = dataset, read, order, workers
        self._length = self._count()
        self._begun: int | None = None  # the epoch that the dataset was last told of
        if limit is None and self._length == sys.maxsize:
            limit = -1
        if limit is not None and not again:
            limit = min(limit, self._length)
        super().__init__(limit, self._length)

    def _count(self) -> int:
        """The number of batches; as good as endless where the dataset says None."""
        dataset = self._dataset
        length = dataset.num_batches if hasattr(type(dataset), "num_batches") else len(dataset)
        if length is not None and length < 1:
            raise ValueError(f"Expected a {type(dataset).__name__} with at least one batch, its len() is {length}.")
        return sys.maxsize if length is None else length

    def _draw(self, epoch: int) -> Iterator[Drawn]:
        self._begin(epoch)
        if self.limit is None:
            self._length = self.expected = self._count()  # may change from epoch to epoch
        under_way: deque[tuple[int, int]] = deque()  # pass and number of the batches that are being made
        for element in self._workers.batches(self._numbers(epoch, under_way)):
            examples, (number, index) = self._read(element), under_way.popleft()
            first = (index << 16) % 2**32  # ids tell examples apart wherever their batch comes in the epoch
            yield Drawn(examples, number, np.uint32(first) + np.arange(examples.n, dtype=np.uint32))

    def _numbers(self, epoch: int, under_way: deque[tuple[int, int]]) -> Iterator[int]:
        """The numbers of an epoch's batches; the pass of each is put down as well."""
        first = 0 if self.expected is None else epoch * self.expected
        number, order = -1, ()
        start = first + self.skipped(epoch)
        for at in itertools.count(start) if self.expected is None else range(start, first + self.expected):
            if at // self._length != number:
                number = at // self._length
                order = self._order(self._length, number)
            index = order[at % self._length]
            under_way.append((number, index))
            yield index

    def _begin(self, epoch: int) -> None:
        if self._begun != epoch:
            self._begun = epoch
            getattr(self._dataset, "on_epoch_begin", lambda: None)()

    def end_epoch(self) -> None:
        self._begun = None
        getattr(self._dataset, "on_epoch_end", lambda: None)()

    def place(self, epoch: int, batch: int, mark: Any) -> dict[str, Any]:
        asked = self.keeps_state and has_state(self._dataset)
        own = copy.deepcopy(self._dataset.state_dict()) if asked else None  # it may be what the dataset goes on with
        return {"epoch": epoch, "batch": batch, "mark": own}

    def seek(self, place: dict[str, Any]) -> None:
        epoch = place["epoch"]
        if place["mark"] is not None and has_state(self._dataset):
            self._dataset.load_state_dict(place["mark"])
            self._begun = epoch if place["batch"] else None
        else:  # what a dataset changes between epochs it changes once more
            for past in range(self._begun or 0, epoch):
                self._begin(past)
                self.end_epoch()
        if place["batch"]:
            self._begin(epoch)
        super().seek(place)

    def close(self) -> None:
        self._workers.close()


# -- which kind


@dataclass(frozen=True)
class Workforce:
    """`workers`, `use_multiprocessing` and `max_queue_size` of a method; None leaves it to the dataset."""

    workers: Any = None
    use_multiprocessing: Any = None
    max_queue_size: Any = None

    def __post_init__(self) -> None:
        for name, least in (("workers", 0), ("max_queue_size", 1)):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise ValueError(f"Expected {name} to be an int >= {least}, got {value!r}.")

    def of(self, dataset: Any) -> Workers:
        """The workers for a dataset that has settings of its own."""

        def setting(name: str) -> Any:
            given = getattr(self, name)
            return getattr(dataset, name, getattr(PyDataset, name)) if given is None else given

        timeout = getattr(dataset, "timeout", PyDataset.timeout)
        return Workers(
            dataset, setting("workers"), setting("use_multiprocessing"), setting("max_queue_size"), float(timeout)
        )

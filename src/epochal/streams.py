"""Data that comes in batches: which kinds there are, and how the batches of an epoch are drawn from each."""

from __future__ import annotations

import itertools
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from epochal import sources
from epochal.order import batch_rows, epoch_order
from epochal.pydataset import DatasetCreator, InputContext, PyDataset
from epochal.sources import Examples
from epochal.workers import Workers


@dataclass(frozen=True)
class Drawn:
    """One batch as it was drawn.

    Attributes:
        examples: the batch.
        number: of the pass over the data that it belongs to.
        ids: (n,) uint32 ids of its examples; the same in every pass where the data tells them apart.
    """

    examples: Examples
    number: int
    ids: np.ndarray


class Stream:
    """Batches, epoch by epoch; each is drawn once.

    Attributes:
        limit: batches per epoch that were asked for; None is one pass, -1 an epoch without end.
        expected: batches per epoch, as far as that is known.
        dry: whether the data has ended and cannot be gone over again.
    """

    def __init__(self, limit: int | None = None, expected: int | None = None):
        self.limit, self.dry = limit, False
        self.expected = None if limit == -1 else expected if limit is None else limit
        self._open: tuple[int, Iterator[Drawn]] | None = None

    def begin(self, epoch: int) -> Examples | None:
        """The first batch of an epoch, which `epoch` will give as well; None when there is none."""
        if self._open is None or self._open[0] != epoch:
            batches = self._draw(epoch)
            first = next(batches, None)
            if first is None:
                return None
            self._open = (epoch, itertools.chain([first], batches))
        first, rest = next(self._open[1]), self._open[1]
        self._open = (epoch, itertools.chain([first], rest))
        return first.examples

    def epoch(self, epoch: int) -> Iterator[Drawn]:
        """The batches of an epoch."""
        opened, self._open = self._open, None
        return opened[1] if opened is not None and opened[0] == epoch else self._draw(epoch)

    def _draw(self, epoch: int) -> Iterator[Drawn]:
        raise NotImplementedError

    def end_epoch(self) -> None:
        """After an epoch, before the next one's first batch is drawn."""

    def close(self) -> None:
        """When no more batches will be drawn."""


class Numbered(Stream):
    """Batches by number, so that an epoch's order is known beforehand and an epoch can start anywhere.

    Args:
        places: pass number -> the place of each of its batches, in the order of the pass.
        length: batches per pass.
        fetch: places -> (the batch, ids of its examples) of each.
        limit: see `Stream`.
    """

    def __init__(
        self,
        places: Callable[[int], Sequence[Any]],
        length: int,
        fetch: Callable[[Iterator[Any]], Iterator[tuple[Examples, np.ndarray]]],
        limit: int | None,
    ):
        super().__init__(limit, length)
        self._places, self._length, self._fetch = places, length, fetch

    def _draw(self, epoch: int) -> Iterator[Drawn]:
        numbers: deque[int] = deque()  # passes of the batches that are being fetched
        for examples, ids in self._fetch(self._places_of(epoch, numbers)):
            yield Drawn(examples, numbers.popleft(), ids)

    def _places_of(self, epoch: int, numbers: deque[int]) -> Iterator[Any]:
        """The places of an epoch's batches; the pass of each is put down in `numbers`."""
        first = 0 if self.expected is None else epoch * self.expected
        number, order = -1, ()
        for at in itertools.count(first) if self.expected is None else range(first, first + self.expected):
            if at // self._length != number:
                number = at // self._length
                order = self._places(number)
            numbers.append(number)
            yield order[at % self._length]


class Made(Numbered):
    """The batches of a `PyDataset`.

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
        length = self._count()
        if limit is None and length == sys.maxsize:
            limit = -1
        if limit is not None and not again:
            limit = min(limit, length)
        super().__init__(lambda number: order(self._length, number), length, self._made, limit)

    def _count(self) -> int:
        """The number of batches; as good as endless where the dataset says None."""
        dataset = self._dataset
        length = dataset.num_batches if hasattr(type(dataset), "num_batches") else len(dataset)
        if length is not None and length < 1:
            raise ValueError(f"Expected a {type(dataset).__name__} with at least one batch, its len() is {length}.")
        return sys.maxsize if length is None else length

    def _made(self, numbers: Iterator[int]) -> Iterator[tuple[Examples, np.ndarray]]:
        asked: deque[int] = deque()

        def noted() -> Iterator[int]:
            for number in numbers:
                asked.append(number)
                yield number

        for element in self._workers.batches(noted()):
            examples = self._read(element)
            first = (asked.popleft() << 16) % 2**32  # ids tell examples apart wherever their batch comes in the epoch
            yield examples, np.uint32(first) + np.arange(examples.n, dtype=np.uint32)

    def _draw(self, epoch: int) -> Iterator[Drawn]:
        getattr(self._dataset, "on_epoch_begin", lambda: None)()
        if self.limit is None:
            self._length = self.expected = self._count()  # may change from epoch to epoch
        yield from super()._draw(epoch)

    def end_epoch(self) -> None:
        getattr(self._dataset, "on_epoch_end", lambda: None)()

    def close(self) -> None:
        self._workers.close()


class Iterated(Stream):
    """A dataset that can be gone over again and again.

    Args:
        dataset: `iter(dataset)` starts a new pass.
        read: brings what it gives to `Examples`.
        again: whether an epoch goes on where the last one ended, and starts over when a pass is through. Otherwise
            every epoch is the beginning of a new pass.
    """

    def __init__(self, dataset: Iterable[Any], read: Callable[[Any], Examples], limit: int | None, again: bool):
        super().__init__(limit, _length_of(dataset))
        self._dataset, self._read = dataset, read
        self._again = again and limit is not None
        self._pass: Iterator[Drawn] = iter(())
        self._number = -1

    def _draw(self, epoch: int) -> Iterator[Drawn]:
        if not self._again:
            self._start(epoch)
            yield from itertools.islice(self._pass, self.limit)
            return
        for _ in itertools.count() if self.limit == -1 else range(self.limit or 0):
            drawn = next(self._pass, None)
            if drawn is None:
                self._start(self._number + 1)
                drawn = next(self._pass, None)
            if drawn is None:
                return
            yield drawn

    def _start(self, number: int) -> None:
        self._number = number
        self._pass = _counted(map(self._read, self._dataset), number)


class OneShot(Stream):
    """A generator or another iterator: it goes on from epoch to epoch, and ends once."""

    def __init__(self, iterator: Iterator[Any], read: Callable[[Any], Examples], limit: int | None):
        super().__init__(limit)
        self._batches = _counted(map(read, iterator), 0)

    def _draw(self, epoch: int) -> Iterator[Drawn]:
        for _ in itertools.count() if self.limit in (None, -1) else range(self.limit or 0):
            drawn = next(self._batches, None)
            if drawn is None:
                self.dry = True
                return
            yield drawn


def _counted(batches: Iterator[Examples], number: int) -> Iterator[Drawn]:
    """Batches with the examples of the pass numbered through."""
    seen = 0
    for examples in batches:
        yield Drawn(examples, number, np.arange(seen, seen + examples.n, dtype=np.uint32))
        seen += examples.n


def _length_of(dataset: Any) -> int | None:
    try:
        return len(dataset)
    except TypeError:  # no length, or an endless one
        return None


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


def made(x: Any) -> Any:
    """`x`, or what a `DatasetCreator` makes for this process."""
    if not isinstance(x, DatasetCreator):
        return x
    processes = jax.process_count()
    return x(InputContext(processes, jax.process_index(), processes))


def is_stream(x: Any) -> bool:
    """Whether `x` comes in batches, and is not arrays."""
    if x is None or isinstance(x, str | bytes | Mapping) or (sources.is_arrays(x) and not _is_sequence(x)):
        return False
    return _is_sequence(x) or hasattr(x, "__iter__") or hasattr(x, "__next__")


def as_stream(
    x: Any,
    method: str,
    limit: int | None,
    *,
    shuffle: Any = False,
    seed: int = 0,
    again: bool = True,
    workforce: Workforce | None = None,
) -> Stream:
    """The batches of a dataset, `PyDataset`, generator or iterator.

    Args:
        x: the data.
        method: who takes it, for messages.
        limit: batches per epoch; None is one pass.
        shuffle, seed: of the order of a `PyDataset`'s batches; other data comes as it comes.
        again: see `Iterated`.
        workforce: who makes a `PyDataset`'s batches.
    """

    def read(element: Any) -> Examples:
        return element_examples(element, method)

    if _is_sequence(x):
        workers = (workforce or Workforce()).of(x)
        return Made(x, read, limit, again, lambda n, number: _order(n, bool(shuffle), seed, number), workers)
    if hasattr(x, "__next__"):
        return OneShot(x, read, limit)
    if _gives_lists(x):
        return Iterated(_Tupled(x), read, limit, again)
    return Iterated(x, read, limit, again)


def _order(length: int, shuffle: bool, seed: int, number: int) -> Sequence[int]:
    if shuffle and length < sys.maxsize:
        return epoch_order(length, seed, number).tolist()
    return range(length)


def lazy_batches(
    examples: Examples, batch_size: int, shuffle: bool | str, seed: int, limit: int | None, again: bool = True
) -> Numbered:
    """Arrays on disk, read batch by batch, in the order in which arrays in memory would be taken."""
    length = -(-examples.n // batch_size)
    if limit is not None and not again:
        limit = min(limit, length)

    def places(number: int) -> list[np.ndarray]:
        rows = batch_rows(examples.n, batch_size, shuffle, seed, number)
        return np.split(rows, range(batch_size, examples.n, batch_size))

    def fetch(places: Iterator[np.ndarray]) -> Iterator[tuple[Examples, np.ndarray]]:
        for rows in places:
            read = sources.read_rows((examples.x, examples.y, examples.weight), rows)
            yield Examples(*read, n=len(rows)), rows.astype(np.uint32)

    return Numbered(places, length, fetch, limit)


def element_examples(element: Any, method: str) -> Examples:
    """A batch that a dataset gave: a tuple of one to three is x, y, sample_weight; anything else is x.

    Raises:
        ValueError: a tuple of another length, or a namedtuple; or no examples in it.
    """
    if not isinstance(element, tuple):
        return sources.as_examples(element, method=method)
    fields = getattr(element, "_fields", None)
    if fields is not None:
        raise ValueError(
            f"The dataset gave a namedtuple with the fields {fields}: whether that is x alone or (x, y) cannot be "
            "told. Give a plain tuple (x, y), or a dict for several inputs."
        )
    if len(element) not in (1, 2, 3):
        raise ValueError(
            f"Expected batches (x,), (x, y) or (x, y, sample_weight), the dataset gave a tuple of {len(element)}."
        )
    return sources.as_examples(*element, method=method)


class _Tupled:
    """A torch `DataLoader`, whose batches are lists where the examples were tuples."""

    def __init__(self, loader: Any):
        self._loader = loader

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        return (tuple(batch) if isinstance(batch, list) else batch for batch in self._loader)


def _gives_lists(x: Any) -> bool:
    return hasattr(x, "batch_sampler") and hasattr(x, "dataset")


def _is_sequence(x: Any) -> bool:
    """A `PyDataset`, Keras's or ours, or a class written like one."""
    counted = hasattr(x, "__len__") or hasattr(type(x), "num_batches")
    return isinstance(x, PyDataset) or (counted and hasattr(x, "__getitem__") and hasattr(x, "on_epoch_end"))

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
from epochal.order import epoch_order
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
        mark: where the data is behind this batch, as the stream's `seek` takes it; None where counting batches does.
    """

    examples: Examples
    number: int
    ids: np.ndarray
    mark: Any = None


class Stream:
    """Batches, epoch by epoch; each is drawn once.

    Attributes:
        limit: batches per epoch that were asked for; None is one pass, -1 an epoch without end.
        expected: batches per epoch, as far as that is known.
        dry: whether the data has ended and cannot be gone over again.
        say: takes messages for the user.
        keeps_state: whether to ask data with a state of its own for that behind every batch.
    """

    def __init__(self, limit: int | None = None, expected: int | None = None):
        self.limit, self.dry = limit, False
        self.expected = None if limit == -1 else expected if limit is None else limit
        self.say: Callable[[str], None] = print
        self.keeps_state = False
        self._open: tuple[int, Iterator[Drawn]] | None = None
        self._skip = (-1, 0)  # in this epoch so many batches are through already

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

    def place(self, epoch: int, batch: int, mark: Any) -> dict[str, Any]:
        """Where batch number `batch` of an epoch begins, as data for `seek`; `mark` is that of the batch before it."""
        return {"epoch": epoch, "batch": batch, "mark": mark}

    def seek(self, place: dict[str, Any]) -> None:
        """Goes on at a place, before any epoch but the first one is begun."""
        self._open, self._skip = None, (place["epoch"], place["batch"])

    def skipped(self, epoch: int) -> int:
        """How many batches of an epoch are through before it is drawn: of the one in which a run goes on."""
        return self._skip[1] if self._skip[0] == epoch else 0

    def fingerprint(self) -> dict[str, Any]:
        """What tells this data from other data."""
        return {"batches": self.expected}

    def end_epoch(self) -> None:
        """After an epoch, before the next one's first batch is drawn."""

    def close(self) -> None:
        """When no more batches will be drawn."""


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
        own = self._dataset.state_dict() if self.keeps_state and _has_state(self._dataset) else None
        return {"epoch": epoch, "batch": batch, "mark": own}

    def seek(self, place: dict[str, Any]) -> None:
        epoch = place["epoch"]
        if place["mark"] is not None and _has_state(self._dataset):
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


class Iterated(Stream):
    """A dataset that can be gone over again and again.

    A run that goes on within a pass starts that pass again and skips what is through, unless the dataset or its
    iterator has a state that can be put back: `state_dict` and `load_state_dict` (torchdata), `get_state` and
    `set_state` (Grain).

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
        self._goes_on = False  # within the pass that `seek` has opened

    def _draw(self, epoch: int) -> Iterator[Drawn]:
        if not self._again:
            if not self._goes_on:
                self._start(epoch)
            self._goes_on = False
            limit = None if self.limit is None else self.limit - self.skipped(epoch)
            yield from itertools.islice(self._pass, limit)
            return
        for _ in itertools.count() if self.limit == -1 else range((self.limit or 0) - self.skipped(epoch)):
            drawn = next(self._pass, None)
            if drawn is None:
                self._start(self._number + 1)
                drawn = next(self._pass, None)
            if drawn is None:
                return
            yield drawn

    def _start(self, number: int, mark: dict[str, Any] | None = None) -> None:
        self._number = number
        self._pass = _noted(self, self._dataset, self._read, number, mark)

    def seek(self, place: dict[str, Any]) -> None:
        mark, within = place["mark"], self._again or place["batch"] > 0
        if mark is None:  # nothing has been drawn but, perhaps, the first batch
            return
        super().seek(place)
        if mark["state"] is not None:
            self._start(mark["number"], mark)
            if not within and self.limit is None:
                deque(self._pass, maxlen=0)  # the data notices that its pass has ended, and begins another
        elif within:
            self._start(mark["number"])
            _skip(self._pass, mark["batches"], mark["batches"], self._dataset, self.say)
        self._goes_on = within


class OneShot(Stream):
    """A generator or another iterator: it goes on from epoch to epoch, and ends once."""

    def __init__(self, iterator: Iterator[Any], read: Callable[[Any], Examples], limit: int | None):
        super().__init__(limit)
        self._iterator, self._read = iterator, read
        self._batches = _noted(self, iterator, read, 0)
        self._drawn = 0

    def _draw(self, epoch: int) -> Iterator[Drawn]:
        endless = self.limit in (None, -1)
        for _ in itertools.count() if endless else range((self.limit or 0) - self.skipped(epoch)):
            drawn = next(self._batches, None)
            if drawn is None:
                self.dry = True
                return
            self._drawn += 1
            yield drawn

    def seek(self, place: dict[str, Any]) -> None:
        mark = place["mark"]
        if mark is None:  # nothing has been drawn but, perhaps, the first batch
            return
        super().seek(place)
        if mark["state"] is not None:
            self._batches = _noted(self, self._iterator, self._read, 0, mark)
        else:
            _skip(self._batches, mark["batches"] - self._drawn, mark["batches"], self._iterator, self.say)
        self._drawn = mark["batches"]


def _noted(
    stream: Stream,
    data: Any,
    read: Callable[[Any], Examples],
    number: int,
    mark: dict[str, Any] | None = None,
) -> Iterator[Drawn]:
    """The batches of a pass with its examples numbered through, and where the data is behind each.

    Args:
        stream: whose they are.
        data: what is gone over.
        read: brings what it gives to `Examples`.
        number: of the pass.
        mark: go on there.
    """
    if mark is not None and _has_state(data):
        data.load_state_dict(mark["state"])
    iterator = iter(data)
    if mark is not None and hasattr(iterator, "set_state"):
        iterator.set_state(mark["state"])
    batches, seen = (mark["batches"], mark["examples"]) if mark is not None else (0, 0)
    for element in iterator:
        state = _state_of(data, iterator) if stream.keeps_state else None
        examples = read(element)
        ids = np.arange(seen, seen + examples.n, dtype=np.uint32)
        batches, seen = batches + 1, seen + examples.n
        yield Drawn(examples, number, ids, {"number": number, "batches": batches, "examples": seen, "state": state})


def _state_of(data: Any, iterator: Any) -> Any:
    if _has_state(data):
        return data.state_dict()
    return iterator.get_state() if hasattr(iterator, "get_state") else None


def _has_state(data: Any) -> bool:
    return hasattr(data, "state_dict") and hasattr(data, "load_state_dict")


def _skip(batches: Iterator[Drawn], count: int, of: int, data: Any, say: Callable[[str], None]) -> None:
    """Takes batches that are through already: the last `count` of `of`.

    Raises:
        ValueError: the data has fewer.
    """
    if count > 0:
        say(f"Going on: {of} batches of the {type(data).__name__} are read again and skipped.")
    for number in range(of - count, of):
        if next(batches, None) is None:
            raise ValueError(
                f"The run goes on behind {of} batches of a {type(data).__name__}, which now ends after {number}. "
                "Give it the same data, or delete its backup to start again."
            )


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
    keeps_state: bool = False,
) -> Stream:
    """The batches of a dataset, `PyDataset`, generator or iterator.

    Args:
        x: the data.
        method: who takes it, for messages.
        limit: batches per epoch; None is one pass.
        shuffle, seed: of the order of a `PyDataset`'s batches; other data comes as it comes.
        again: see `Iterated`.
        workforce: who makes a `PyDataset`'s batches.
        keeps_state: see `Stream`.
    """
    stream = _stream_of(x, method, limit, shuffle, seed, again, workforce or Workforce())
    stream.keeps_state = keeps_state
    return stream


def _stream_of(
    x: Any, method: str, limit: int | None, shuffle: Any, seed: int, again: bool, workforce: Workforce
) -> Stream:
    def read(element: Any) -> Examples:
        return element_examples(element, method)

    if _is_sequence(x):
        workers = workforce.of(x)
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

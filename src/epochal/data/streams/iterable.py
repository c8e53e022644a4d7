"""Data that is gone over from its beginning: datasets, torch's loaders, generators; and how a run goes on in them."""

from __future__ import annotations

import copy
import itertools
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from epochal.data.examples import Examples
from epochal.data.streams.stream import Drawn, Stream, has_state
from epochal.data.streams.torch_loader import Loader
from epochal.support.warn import warn

Read = Callable[[Any], Examples]


class Pass(Iterator[Drawn]):
    """The batches of a pass with its examples numbered through, and where the data is behind each.

    Args:
        data: what is gone over.
        read: brings what it gives to `Examples`.
        number: of the pass, for the batches.
        before: the pass before it.
        mark: of a pass that is gone on with, or, where it has no state, begun again.

    Attributes:
        batches: so many have been drawn.
        keeps: whether to note where the data is.
        count: so many passes have been begun with it, in all processes.
        alike: whether all of them began with the same batch.
    """

    def __init__(
        self, data: Any, read: Read, number: int, before: Pass | None = None, mark: dict[str, Any] | None = None
    ):
        self.data, self.number, self.keeps, self._read = data, number, False, read
        self.count, self.alike, self._opening = 1, True, None
        if before is not None:
            self.count, self.alike, self._opening = before.count + 1, before.alike, before._opening
        self.batches = self._examples = 0
        state = None
        if mark is not None:
            self.adopt(mark)
            state = mark["state"]
            if state is not None:
                self.batches, self._examples = mark["batches"], mark["examples"]
            if isinstance(data, Loader):
                data.set_random_state(mark["begun"])
                if self.count == 1:
                    data.begin_anew()
        self._begun = data.random_state() if isinstance(data, Loader) else None
        self._iterator = _opened(data, state)

    def adopt(self, mark: dict[str, Any]) -> None:
        """What is known of the passes before."""
        self.count, self.alike, self._opening = mark["count"], mark["alike"], mark["opening"]

    def __next__(self) -> Drawn:
        element = next(self._iterator)
        state = _state_of(self.data, self._iterator) if self.keeps else None
        now = self.data.random_state() if self.keeps and isinstance(self.data, Loader) else None
        examples = self._read(element)
        ids = np.arange(self._examples, self._examples + examples.n, dtype=np.uint32)
        self.batches, self._examples = self.batches + 1, self._examples + examples.n
        digest = _digest(examples) if self.keeps and state is None else None
        if self.batches == 1:
            self._opening = digest if self._opening is None else self._opening
            self.alike = self.alike and digest == self._opening
        mark = {
            "number": self.number,
            "batches": self.batches,
            "examples": self._examples,
            "state": state,
            "begun": self._begun,
            "now": now,
            "digest": digest,
            "opening": self._opening,
            "alike": self.alike,
            "count": self.count,
        }
        return Drawn(examples, self.number, ids, mark)

    def skip(self, mark: dict[str, Any], say: Callable[[str], None]) -> None:
        """Takes the batches that are through already.

        Raises:
            ValueError: the data has fewer.
        """
        name, wanted = _name_of(self.data), mark["batches"]
        if self.batches < wanted:
            say(f"Going on: {_counted(wanted, 'batch')} of the {name} {_are(wanted)} read again and skipped.")
        last = None
        while self.batches < wanted:
            last = next(self, None)
            if last is None:
                raise ValueError(
                    f"The run goes on behind {wanted} batches of a {name}, which now ends after {self.batches}. "
                    "Give it the same data, or delete its backup to start again."
                )
        if last is not None and _digest(last.examples) != mark["digest"]:
            warn(
                f"The {name} gives other batches than it gave before the run was broken off: results are not those of "
                "an uninterrupted run. Seed what is random in it.",
            )


def _opened(data: Any, state: Any) -> Iterator[Any]:
    """An iterator over the data; where `state` is not None, one that goes on there."""
    if state is not None and has_state(data):
        data.load_state_dict(state)
    iterator = iter(data)
    if state is not None and not has_state(data):
        iterator.set_state(state)  # pyright: ignore[reportAttributeAccessIssue]
    return iterator


def _state_of(data: Any, iterator: Any) -> Any:
    """A copy: what the data gives may be what it goes on with."""
    if has_state(data):
        return data.state_dict() if isinstance(data, Loader) else copy.deepcopy(data.state_dict())
    return copy.deepcopy(iterator.get_state()) if hasattr(iterator, "get_state") else None


def _digest(examples: Examples) -> int:
    """Of the batch's first example, which tells batches apart."""
    found = 0
    for array in jax.tree.leaves((examples.x, examples.y)):
        found = zlib.crc32(np.asarray(array[:1]).tobytes(), found)
    return found


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}es"


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def _name_of(data: Any) -> str:
    return data.name if isinstance(data, Loader) else type(data).__name__


class Iterated(Stream):
    """A dataset that can be gone over again and again.

    A run goes on by the state of the dataset or its iterator, where it has one: `state_dict` and `load_state_dict`
    (torchdata), `get_state` and `set_state` (Grain). Otherwise the pass is begun again, a torch loader's with the
    random numbers it had, and what is through is skipped. Where the dataset's passes differ, those before are gone
    over as well: it may have been changed by them.

    Args:
        dataset: `iter(dataset)` starts a new pass.
        read: brings what it gives to `Examples`.
        again: whether an epoch goes on where the last one ended, and starts over when a pass is through. Otherwise
            every epoch is the beginning of a new pass.
    """

    def __init__(self, dataset: Iterable[Any], read: Read, limit: int | None, again: bool):
        super().__init__(limit, _length_of(dataset))
        self._dataset, self._read = dataset, read
        self._again = again and limit is not None
        self._pass: Pass | None = None
        self._goes_on: int | None = None  # the epoch which begins within the pass that `seek` has opened

    def _draw(self, epoch: int) -> Iterator[Drawn]:
        if not self._again:
            if self._goes_on != epoch:
                if self._goes_on is not None:
                    self._end_pass()
                self._start(epoch)
            self._goes_on = None
            limit = None if self.limit is None else self.limit - self.skipped(epoch)
            yield from itertools.islice(self._drawn(), limit)
            return
        for _ in itertools.count() if self.limit == -1 else range((self.limit or 0) - self.skipped(epoch)):
            drawn = next(self._drawn(), None)
            if drawn is None:
                self._start(self._number + 1)
                drawn = next(self._drawn(), None)
            if drawn is None:
                return
            yield drawn

    @property
    def _number(self) -> int:
        return -1 if self._pass is None else self._pass.number

    def _drawn(self) -> Iterator[Drawn]:
        if self._pass is None:
            return iter(())
        self._pass.keeps = self.keeps_state
        return self._pass

    def _start(self, number: int, mark: dict[str, Any] | None = None) -> None:
        self._pass = Pass(self._dataset, self._read, number, self._pass, mark)

    def _end_pass(self) -> None:
        """The data notices that its pass has ended, as where it was gone over by an epoch without a limit."""
        if self.limit is None:
            deque(self._drawn(), maxlen=0)

    def place(self, epoch: int, batch: int, mark: Any) -> dict[str, Any]:
        if batch == 0 and mark is not None and isinstance(self._dataset, Loader):
            mark = {**mark, "now": self._dataset.random_state()}  # others have drawn from it since, as in validation
        return super().place(epoch, batch, mark)

    def seek(self, place: dict[str, Any]) -> None:
        mark, within = place["mark"], self._again or place["batch"] > 0
        if mark is None:  # nothing has been drawn but, perhaps, the first batch
            return
        super().seek(place)
        if mark["state"] is not None:
            self._start(mark["number"], mark)
            if not within:
                self._end_pass()
        elif not isinstance(self._dataset, Loader):
            self._go_over(mark, within)
        elif within:
            self._start(mark["number"], mark)
        if within and mark["state"] is None and self._pass is not None:
            self._drawn()
            self._pass.skip(mark, self.say)
        if isinstance(self._dataset, Loader):
            self._dataset.set_random_state(mark["now"])
        self._goes_on = place["epoch"] if within else None

    def _go_over(self, mark: dict[str, Any], within: bool) -> None:
        """Begins the pass of a mark; behind those before it, unless passes are known to be alike."""
        known = mark["alike"] and mark["count"] > 1
        here = self._pass
        if here is None or (known and within and here.count != mark["count"]):
            self._start(mark["number"])
        whole = 0 if known else mark["count"] - within
        if whole:
            passes = "1 pass" if whole == 1 else f"{whole} passes"
            self.say(
                f"Going on: {passes} over the {_name_of(self._dataset)} are read again, for what comes to be the same."
            )
        limit = None if self._again else self.limit
        while self._pass is not None and not known and self._pass.count < mark["count"]:
            deque(itertools.islice(self._drawn(), limit), maxlen=0)
            self._start(mark["number"])
        if not known and not within:
            deque(itertools.islice(self._drawn(), limit), maxlen=0)
        if self._pass is not None:
            self._pass.adopt(mark)


class OneShot(Stream):
    """A generator or another iterator: it goes on from epoch to epoch, and ends once."""

    def __init__(self, iterator: Iterator[Any], read: Read, limit: int | None):
        super().__init__(limit)
        self._iterator, self._read = iterator, read
        self._pass = Pass(iterator, read, 0)

    def _draw(self, epoch: int) -> Iterator[Drawn]:
        self._pass.keeps = self.keeps_state
        endless = self.limit in (None, -1)
        for _ in itertools.count() if endless else range((self.limit or 0) - self.skipped(epoch)):
            drawn = next(self._pass, None)
            if drawn is None:
                self.dry = True
                return
            yield drawn

    def seek(self, place: dict[str, Any]) -> None:
        mark = place["mark"]
        if mark is None:  # nothing has been drawn but, perhaps, the first batch
            return
        super().seek(place)
        if mark["state"] is not None:
            self._pass = Pass(self._iterator, self._read, 0, mark=mark)
        else:
            self._pass.skip(mark, self.say)


def _length_of(dataset: Any) -> int | None:
    try:
        return len(dataset)
    except TypeError:  # no length, or an endless one
        return None

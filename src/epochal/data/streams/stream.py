"""Batches as they are drawn from data, epoch by epoch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from epochal.data.examples import Examples


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


def has_state(data: Any) -> bool:
    """Whether data says where it is, and goes on there."""
    return hasattr(data, "state_dict") and hasattr(data, "load_state_dict")

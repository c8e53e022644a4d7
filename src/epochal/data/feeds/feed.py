"""Batches of a fixed shape, ready for a compiled loop over steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from epochal.data.feeds.block import Stretch


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

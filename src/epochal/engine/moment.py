"""A moment between two executions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from epochal.engine.objective.tally import Tally
from epochal.support.types import Logs


@dataclass(frozen=True)
class Mark:
    """A moment between two executions at which a run can be kept.

    Attributes:
        epoch, batch: so many batches of this epoch are done.
        place: the same for the data, see `Feed.place`.
        within: whether `on_epoch_begin` of the epoch has been called.
        tally: what the epoch's batches have come to; None before the first.
        logs: the values of the last epoch, or of this one where all its batches are done.
        trained: whether all batches of the epoch are done, and only its validation is missing.
    """

    epoch: int
    batch: int
    place: dict[str, Any]
    within: bool = False
    tally: Tally | None = None
    logs: Logs | None = None
    trained: bool = False

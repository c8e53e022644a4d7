"""Tells of updates that were left out because they were not finite."""

from __future__ import annotations

from epochal.data.feeds.feed import Feed
from epochal.engine.nonfinite import First, NonFiniteError, message
from epochal.engine.objective.tally import Tally
from epochal.engine.programs import Steps
from epochal.support.warn import warn


class LeftOut:
    """Tells the user of the updates of a pass that were left out because they were not finite.

    Args:
        steps: the programs.
        feed: what the pass goes over.
        epoch: its epoch; None for a batch of `train_on_batch`.
    """

    def __init__(self, steps: Steps, feed: Feed, epoch: int | None):
        self._steps, self._feed, self._epoch = steps, feed, epoch

    def check(self, tally: Tally) -> None:
        """Ends training where it is to end. Waits for the device, with `on_nonfinite="raise"` alone.

        Raises:
            NonFiniteError: an update was left out.
        """
        if tally.skips is not None and self._steps.on_nonfinite == "raise" and tally.skips.count:
            raise NonFiniteError(*self._told(tally))

    def end(self, tally: Tally) -> int:
        """How many updates of the whole pass were left out, with a warning where there were any.

        Raises:
            NonFiniteError: as `check`.
        """
        self.check(tally)
        if tally.skips is None or not tally.skips.count:
            return 0
        warn(self._told(tally)[0])
        return int(tally.skips.count)

    def _told(self, tally: Tally) -> tuple[str, First]:
        batch = int(tally.skips.first)
        found = self._feed.found(self._epoch or 0, batch)
        values = [v for v, broken in zip(self._steps.judged_values, tally.skips.flags, strict=True) if broken]
        first = First(self._epoch, batch, None if found is None else found[0], values)
        culprits = [] if found is None else found[1]
        ends = self._steps.on_nonfinite == "raise"
        return message(first, int(tally.skips.count), self._feed.steps, culprits, ends), first

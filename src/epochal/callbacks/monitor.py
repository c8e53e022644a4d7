"""Watching one reported value: which direction is better, and whether it has improved."""

from __future__ import annotations

import math
import re
from typing import Any

from epochal.callbacks.callback import Callback
from epochal.support.types import Logs
from epochal.support.warn import warn

# How the names of values end that should rise, and of those that should fall; "_1", "_2" may follow.
_RISE = (
    "acc|accuracy|auc|precision|recall|sensitivity|specificity|((f1|fbeta|r2)(_score)?)|iou|io_u|cosine_similarity|"
    "correlation|true_(positives|negatives)"
)
_FALL = (
    "loss|error|mse|mae|mape|msle|rmse|ce|bce|cce|crossentropy|entropy|hinge|huber|log_?cosh|divergence|kld|poisson|"
    "perplexity|false_(positives|negatives)"
)


class Monitor(Callback):
    """A callback that watches `monitor`.

    Args:
        monitor: a name in the logs.
        mode: "min", "max", or "auto": "max" for names of accuracies, areas, scores and the like, "min" for losses and
            errors.
        min_delta: a smaller change is no improvement.

    Raises:
        ValueError: an unknown mode.
    """

    def __init__(self, monitor: str, mode: str = "auto", min_delta: int | float = 0):
        if mode not in ("auto", "min", "max"):
            raise ValueError(f'Expected mode to be "auto", "min" or "max", got {mode!r}.')
        self.monitor = monitor
        self.mode = mode
        self.min_delta = abs(min_delta)
        self._warned = False

    @property
    def higher_is_better(self) -> bool:
        """Whether larger values of the monitored name are better.

        Raises:
            ValueError: the mode is "auto", and the name does not tell.
        """
        if self.mode != "auto":
            return self.mode == "max"
        for ends, rises in ((_RISE, True), (_FALL, False)):
            if re.search(rf"(^|_)({ends})(_\d+)?$", self.monitor.lower()):
                return rises
        raise ValueError(
            f"{type(self).__name__} cannot tell from the name {self.monitor!r} whether more or less is better: pass "
            'mode="max" or mode="min".'
        )

    def value_in(self, logs: Logs | None) -> Any:
        """The monitored value; None, and a warning that lists what there is, when it is absent."""
        value = (logs or {}).get(self.monitor)
        if value is None and not self._warned:
            self._warned = True
            known = ", ".join(logs or {}) or "nothing"
            warn(
                f"{type(self).__name__} watches {self.monitor!r}, which is not reported. Reported: {known}.",
            )
        return value

    def improves(self, value: Any, best: Any) -> bool:
        """Whether `value` is better than `best` by more than `min_delta`, or the first. A NaN never is."""
        if best is None:
            best = -math.inf if self.higher_is_better else math.inf
        return value - self.min_delta > best if self.higher_is_better else value + self.min_delta < best


class Plateau(Monitor):
    """A callback that acts where `monitor` has not improved for `patience` epochs.

    Args:
        monitor, mode, min_delta: see `Monitor`.
        patience: epochs without improvement.
        cooldown: epochs after it has acted that do not count.
    """

    def __init__(self, monitor: str, mode: str, min_delta: int | float, patience: int, cooldown: int):
        super().__init__(monitor, mode, min_delta)
        self.patience, self.cooldown = patience, cooldown
        self.forget()

    def forget(self) -> None:
        """Before training."""
        self.wait = self.cooldown_counter = 0
        self.best: float | None = None

    def stuck(self, value: Any) -> bool:
        """Whether it is to act after an epoch with this value; counts on. None counts for nothing."""
        if value is None:
            return False
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.wait = 0
        if self.improves(value, self.best):
            self.best, self.wait = value, 0
        elif self.cooldown_counter <= 0:
            self.wait += 1
        if self.wait == 0 or self.wait < self.patience:
            return False
        self.wait, self.cooldown_counter = 0, self.cooldown
        return True

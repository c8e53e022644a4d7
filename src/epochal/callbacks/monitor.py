"""Watching one reported value: which direction is better, and whether it has improved."""

from __future__ import annotations

import math
import warnings
from typing import Any

from epochal.callbacks.base import Callback, Logs

_HIGHER_IS_BETTER = ("acc", "auc", "precision", "recall", "f1", "fbeta", "r2", "iou", "cosine", "true_")


class Monitor(Callback):
    """A callback that watches `monitor`.

    Args:
        monitor: a name in the logs.
        mode: "min", "max", or "auto": "max" for names of accuracies, areas, scores and the like.
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
        """Whether larger values of the monitored name are better."""
        if self.mode != "auto":
            return self.mode == "max"
        name = self.monitor.removeprefix("val_")
        return any(part in name for part in _HIGHER_IS_BETTER)

    @property
    def worst(self) -> float:
        """A value that any number improves on."""
        return -math.inf if self.higher_is_better else math.inf

    def value_in(self, logs: Logs | None) -> Any:
        """The monitored value; None, and a warning that lists what there is, when it is absent."""
        value = (logs or {}).get(self.monitor)
        if value is None and not self._warned:
            self._warned = True
            known = ", ".join(logs or {}) or "nothing"
            warnings.warn(
                f"{type(self).__name__} watches {self.monitor!r}, which is not reported. Reported: {known}.",
                stacklevel=2,
            )
        return value

    def improves(self, value: Any, best: Any) -> bool:
        """Whether `value` is better than `best` by more than `min_delta`. A NaN never is."""
        return value - self.min_delta > best if self.higher_is_better else value + self.min_delta < best

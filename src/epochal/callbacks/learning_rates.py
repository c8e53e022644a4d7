"""Callbacks that change the learning rate."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from epochal.callbacks.callback import Callback
from epochal.callbacks.monitor import Plateau
from epochal.support.types import Logs


class LearningRateScheduler(Callback):
    """Sets the learning rate at the start of every epoch.

    Args:
        schedule: a function of (epoch) or (epoch, learning rate) that returns the new learning rate.
        verbose: 1 prints it.

    Raises:
        ValueError: the function returns something that is not a number.
    """

    def __init__(self, schedule: Callable, verbose: int = 0):
        self.schedule, self.verbose = schedule, verbose

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        optimizer = self.model.optimizer
        takes_rate = len(inspect.signature(self.schedule).parameters) > 1
        rate = self.schedule(epoch, optimizer.learning_rate) if takes_rate else self.schedule(epoch)
        try:
            number = float(rate)
        except TypeError as error:
            raise ValueError(f"Expected the schedule to return a number, got {rate!r}.") from error
        optimizer.learning_rate = number
        if self.verbose:
            print(f"Epoch {epoch + 1}: learning rate {float(rate):.6g}.")

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if logs is not None:
            logs["learning_rate"] = float(self.model.optimizer.learning_rate)


class ReduceLROnPlateau(Plateau):
    """Multiplies the learning rate by `factor` when a value has not improved for `patience` epochs.

    Args:
        monitor: the value's name.
        factor: below 1.
        patience: epochs without improvement.
        verbose: 1 prints each change.
        mode: "min", "max" or "auto".
        min_delta: a smaller change is no improvement.
        cooldown: epochs after a change that do not count.
        min_lr: the rate goes no lower.

    Raises:
        ValueError: a factor of 1 or more.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: int | float = 0.1,
        patience: int = 10,
        verbose: int = 0,
        mode: str = "auto",
        min_delta: int | float = 1e-4,
        cooldown: int = 0,
        min_lr: int | float = 0,
    ):
        super().__init__(monitor, mode, min_delta, patience, cooldown)
        if factor >= 1:
            raise ValueError(f"Expected factor below 1, got {factor}.")
        self.factor, self.verbose, self.min_lr = factor, verbose, min_lr

    def state_dict(self) -> dict[str, Any]:
        return {"wait": self.wait, "cooldown_counter": self.cooldown_counter, "best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.wait, self.cooldown_counter, self.best = state["wait"], state["cooldown_counter"], state["best"]

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.forget()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        optimizer = self.model.optimizer
        if logs is not None:
            logs["learning_rate"] = float(optimizer.learning_rate)
        if self.stuck(self.value_in(logs)):
            self._reduce(epoch)

    def _reduce(self, epoch: int) -> None:
        optimizer = self.model.optimizer
        old = optimizer.learning_rate
        if old <= self.min_lr:
            return
        optimizer.learning_rate = max(old * self.factor, self.min_lr)
        if self.verbose:
            print(f"Epoch {epoch + 1}: learning rate reduced from {old:.6g} to {optimizer.learning_rate:.6g}.")

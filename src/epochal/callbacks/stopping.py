"""Callbacks that end training."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp

from epochal.callbacks.callback import Callback
from epochal.callbacks.monitor import Monitor
from epochal.support.types import Logs


class EarlyStopping(Monitor):
    """Ends training when a value has not improved for `patience` epochs.

    Args:
        monitor: the value's name.
        min_delta: a smaller change is no improvement.
        patience: epochs without improvement after which training ends.
        verbose: 1 says when and why.
        mode: "min", "max" or "auto".
        baseline: a value to reach; epochs that do not improve on it count as without improvement.
        restore_best_weights: at the end of training, by whatever way it ends, go back to the best epoch's weights.
        start_from_epoch: epochs before this one are not looked at.

    Attributes:
        best: the best value so far; None before the first.
        best_epoch: its epoch.
        stopped_epoch: the epoch that ended training; 0 when it ran to its end.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: int | float = 0,
        patience: int = 0,
        verbose: int = 0,
        mode: str = "auto",
        baseline: int | float | None = None,
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
    ):
        super().__init__(monitor, mode, min_delta)
        self.patience, self.verbose, self.baseline = patience, verbose, baseline
        self.restore_best_weights, self.start_from_epoch = restore_best_weights, start_from_epoch
        self._reset()

    def _reset(self) -> None:
        self.wait = self.stopped_epoch = self.best_epoch = 0
        self.best: float | None = None
        self.best_weights: list[Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        names = ("wait", "stopped_epoch", "best_epoch", "best", "best_weights")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if self.best_weights is not None:
            self.best_weights = [jnp.array(w) for w in self.best_weights]

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._reset()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        value = self.value_in(logs)
        if value is None or epoch < self.start_from_epoch:
            return
        self.wait += 1
        if self.improves(value, self.best):
            self.best, self.best_epoch = value, epoch
            if self.restore_best_weights:
                # Copies that stay on the device: training takes over the memory of the arrays themselves.
                self.best_weights = [jnp.array(v.get_value(), copy=True) for v in self.model.weights]
            if self.baseline is None or self.improves(value, self.baseline):
                self.wait = 0
                return
        if self.wait >= self.patience and epoch > 0:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self.stopped_epoch and self.verbose:
            print(
                f"Epoch {self.stopped_epoch + 1}: {self.monitor} has not improved for {self.wait} epochs, training ends"
            )
        if self.best_weights is not None:
            if self.verbose:
                print(f"Weights of epoch {self.best_epoch + 1} restored ({self.monitor} {self.best:.5g}).")
            for variable, value in zip(self.model.weights, self.best_weights, strict=True):
                variable.set_value(value)


class TerminateOnNaN(Callback):
    """Ends training when the loss is no longer a finite number; looks after every batch.

    Args:
        raise_error: end it with an exception instead.

    Raises:
        RuntimeError: such a loss, with `raise_error`.
    """

    def __init__(self, raise_error: bool = False):
        self.raise_error = raise_error

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        loss = (logs or {}).get("loss")
        if loss is not None and not math.isfinite(loss):
            if self.raise_error:
                raise RuntimeError(f"Batch {batch}: the loss is {loss}, expected a finite number.")
            print(f"Batch {batch}: the loss is {loss}, training ends.")
            self.model.stop_training = True

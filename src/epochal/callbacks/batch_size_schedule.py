"""Batches that change their size while a model trains."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from epochal.callbacks.monitor import Plateau
from epochal.optimizers.batch_scaling import check_scalable, scale_learning_rate
from epochal.support.types import Logs


class BatchSizeSchedule(Plateau):
    """Changes the batch size at the start of epochs; larger batches do what smaller learning rates do.

    Raising the batch size instead of lowering the learning rate takes as many epochs and fewer steps (Smith et al.
    2018, arXiv:1711.00489). Every epoch goes over all examples once, whatever the size; a size that was not there
    before is compiled once, but with `compile(micro_batch_size=k)` all multiples of k share a program. It logs
    `batch_size`.

    Args:
        schedule: batch sizes, ints or "full", as
            a dict {5: 128, 10: 512}: from epoch 5 on (the first is 0) batches of 128, from epoch 10 on of 512;
            a function of (epoch) or (epoch, batch size);
            "plateau": times `factor` when `monitor` has not improved for `patience` epochs;
            "noise": times `factor` while the measured noise scale is at least the new size
            (`callbacks.NoiseScale` before this one in the list), once per epoch.
        by: "epoch", or "examples": keys and the function's argument are how many examples have been trained on.
        lr_scaling: a rule of `epochal.scale_learning_rate` by which the learning rate follows ("linear", "sqrt"), from
            that of `fit`'s batch size; at the end it is taken back. None leaves it alone.
        max_batch_size: no more than this; None: all examples.
        factor: of "plateau" and "noise", > 1.
        monitor, patience, mode, min_delta, cooldown: of "plateau", as of `ReduceLROnPlateau`.
        verbose: 1 prints each change.

    Raises:
        ValueError: arguments out of their range; before training, data whose batches come as they are, a recurrent
            model with `stateful=True`, or an optimizer whose learning rate cannot be changed, with `lr_scaling`.

    Example:
        >>> from epochal import callbacks
        >>> growing = callbacks.BatchSizeSchedule({10: 128, 20: 512})
    """

    def __init__(
        self,
        schedule: Any,
        *,
        by: str = "epoch",
        lr_scaling: Any = None,
        max_batch_size: Any = None,
        factor: int | float = 2,
        monitor: str = "val_loss",
        patience: int = 5,
        mode: str = "auto",
        min_delta: int | float = 1e-4,
        cooldown: int = 0,
        verbose: int = 0,
    ):
        super().__init__("noise_scale_low" if schedule == "noise" else monitor, mode, min_delta, patience, cooldown)
        if not (isinstance(schedule, Mapping) or callable(schedule) or schedule in ("plateau", "noise")):
            raise ValueError(
                f'Expected schedule to be a dict, a function, "plateau" or "noise", got {schedule!r}; a dict is '
                "{epoch: batch size}."
            )
        if by not in ("epoch", "examples"):
            raise ValueError(f'Expected by to be "epoch" or "examples", got {by!r}.')
        if not factor > 1:
            raise ValueError(f"Expected factor > 1, got {factor!r}.")
        if lr_scaling is not None:
            _check_rule(lr_scaling)
        for size in [*(schedule.values() if isinstance(schedule, Mapping) else ()), max_batch_size]:
            if size is not None:
                _checked(size, 1)
        self.schedule, self.by, self.lr_scaling, self.max_batch_size = schedule, by, lr_scaling, max_batch_size
        self.factor, self.verbose = factor, verbose
        self._feed: Any = None
        self._begin(1)

    def _begin(self, size: int) -> None:
        self.size = self._next = size
        self.forget()
        self._scaled = 1.0  # what the learning rate has been multiplied with
        self._seen: int | None = None  # examples
        self._epoch = 0

    def set_run(self, steps: Any, feed: Any) -> None:
        if not feed.resizable:
            raise ValueError("BatchSizeSchedule changes the batch size of arrays only; these batches are made.")
        if self.model.stateful_layers():
            raise ValueError("A stateful model keeps one state per row of the batch: its batch size cannot change.")
        if self.lr_scaling is not None:
            check_scalable(self.model.optimizer, self.lr_scaling)
        if isinstance(steps.micro_batch_size, int):
            feed.share(steps.micro_batch_size)
        self._feed = feed

    def state_dict(self) -> dict[str, Any]:
        names = ("size", "_next", "wait", "cooldown_counter", "best", "_scaled", "_seen")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._cut()

    def on_train_begin(self, logs: Logs | None = None) -> None:
        if self._feed is not None:
            self._begin(self._feed.batch_size)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._epoch = epoch
        self._seen = epoch * self._feed.n if self._seen is None else self._seen
        size = min(self._wanted(epoch), self._most)
        if size != self.size:
            self._change(epoch, size)
        self._cut()

    def _wanted(self, epoch: int) -> int:
        at = epoch if self.by == "epoch" else self._seen or 0
        if isinstance(self.schedule, Mapping):
            begun = [key for key in self.schedule if key <= at]
            return _checked(self.schedule[max(begun)], self._feed.n) if begun else self.size
        if isinstance(self.schedule, str):
            return self._next
        schedule: Callable = self.schedule
        given = schedule(at, self.size) if len(inspect.signature(schedule).parameters) > 1 else schedule(at)
        return _checked(given, self._feed.n)

    @property
    def _most(self) -> int:
        return self._feed.n if self.max_batch_size is None else _checked(self.max_batch_size, self._feed.n)

    def _change(self, epoch: int, size: int) -> None:
        said = f"Epoch {epoch + 1}: batch size {self.size} → {size}"
        if self.lr_scaling is not None:
            factor, optimizer = scale_learning_rate(self.lr_scaling, self.size, size), self.model.optimizer
            optimizer.learning_rate = float(optimizer.learning_rate) * factor
            self._scaled *= factor
            said += f", learning rate {optimizer.learning_rate:.6g}"
        self.size = self._next = size
        if self.verbose:
            print(f"{said}.")

    def _cut(self) -> None:
        """Has the data cut into batches of the current size."""
        if self._feed is not None and self._feed.batch_size != self.size:
            self._feed.resize(self._epoch, self.size)
            self.params.update(steps=self._feed.steps, batch_size=self.size)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self._seen = (self._seen or 0) + self._feed.per_epoch
        if logs is not None:
            logs["batch_size"] = self.size
        if self.schedule == "plateau":
            if self.stuck(self.value_in(logs)):
                self._next = int(self.size * self.factor)
        elif self.schedule == "noise":
            value = self.value_in(logs)
            if value is not None and value >= self.size * self.factor:
                self._next = int(self.size * self.factor)

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self._scaled != 1:
            optimizer = self.model.optimizer
            optimizer.learning_rate = float(optimizer.learning_rate) / self._scaled
            self._scaled = 1.0

    def on_exception(self, error: BaseException) -> None:
        self.on_train_end()


def _check_rule(rule: Any) -> None:
    scale_learning_rate(rule, 1, 1)
    if rule == "adam":
        raise ValueError('Expected lr_scaling to be "linear", "sqrt" or None, got "adam", which changes betas as well.')


def _checked(size: Any, n: int) -> int:
    """A batch size as a number.

    Raises:
        ValueError: neither "full" nor an int >= 1.
    """
    if isinstance(size, str) and size == "full":
        return n
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ValueError(f'Expected batch sizes to be "full" or an int >= 1, got {size!r}.')
    return size

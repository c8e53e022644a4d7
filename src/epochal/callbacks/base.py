"""What callbacks are, and the list that calls them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Logs = dict[str, Any]

_TRAIN_BATCH = ("on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end")
_TEST_BATCH = ("on_test_batch_begin", "on_test_batch_end")
_PREDICT_BATCH = ("on_predict_batch_begin", "on_predict_batch_end")


class Callback:
    """Called at fixed moments of training, testing and predicting; override the hooks you need.

    Overriding a train-batch hook makes training run one step at a time (or `steps_per_execution`), so that the hook
    sees every step; epoch hooks cost nothing.

    Attributes:
        model: the model; its weights are current at every hook.
        params: `verbose`, `epochs`, `steps`, `batch_size`.
    """

    model: Any = None
    params: dict[str, Any] = {}  # noqa: RUF012  (replaced by set_params, never changed)

    def state_dict(self) -> dict[str, Any]:
        """What a run that goes on after a crash needs to know: numbers, strings, arrays, lists and dicts of these.

        It is saved with the run (see `BackupAndRestore`) and given back to `load_state_dict`. Nothing by default.
        """
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts back what `state_dict` gave; called after `on_train_begin`, where a run goes on."""

    def set_model(self, model: Any) -> None:
        """Called once before training."""
        self.model = model

    def set_params(self, params: dict[str, Any]) -> None:
        """Called once before training."""
        self.params = params

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Before the first epoch."""

    def on_train_end(self, logs: Logs | None = None) -> None:
        """After the last epoch, with its logs."""

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Before epoch `epoch` (the first is 0)."""

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """After epoch `epoch`; `logs` is one dict for all callbacks, and what is added to it reaches the History."""

    def on_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Another name for `on_train_batch_begin`."""

    def on_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Another name for `on_train_batch_end`."""

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Before batch `batch` of the epoch."""
        self.on_batch_begin(batch, logs)

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """After batch `batch`, with running values over the epoch so far."""
        self.on_batch_end(batch, logs)

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Before an evaluation, also a validation inside `fit`."""

    def on_test_end(self, logs: Logs | None = None) -> None:
        """After an evaluation, with its values."""

    def on_test_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Before batch `batch` of an evaluation."""

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """After batch `batch` of an evaluation, with running values."""

    def on_predict_begin(self, logs: Logs | None = None) -> None:
        """Before a prediction."""

    def on_predict_end(self, logs: Logs | None = None) -> None:
        """After a prediction."""

    def on_predict_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Before batch `batch` of a prediction."""

    def on_predict_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """After batch `batch` of a prediction, with `{"outputs": predictions}`."""


class Display:
    """What shows progress: told at every look of the loop, without making the loop look more often.

    A display is no callback, since a callback that observes batches would make training run step by step.
    """

    def compiling(self, kind: str) -> None:
        """A program ("train" or "test") is about to be compiled."""

    def train_begin(self, epochs: int) -> None:
        """Before the first epoch."""

    def epoch_begin(self, epoch: int, steps: int | None) -> None:
        """Before an epoch of `steps` batches."""

    def progress(self, kind: str, done: int, steps: int | None, logs: Any) -> None:
        """`done` batches of a pass of this kind ("train", "test", "predict") are through.

        `logs()` reads the running values from the device.
        """

    def epoch_end(self, epoch: int, logs: Logs) -> None:
        """After an epoch, validation included."""

    def note(self, text: str) -> None:
        """A message for the user."""
        print(text, flush=True)

    def close(self) -> None:
        """The method ends, by whatever way: leave the terminal as it was."""


class CallbackList:
    """Callbacks in the order in which they are called.

    Args:
        callbacks: one callback, or lists of them, nested or not.
        model: given to each.
        params: given to each.

    Raises:
        TypeError: something that is no callback.
    """

    def __init__(self, callbacks: Any = None, model: Any = None, params: dict[str, Any] | None = None):
        self.callbacks = list(_flat(callbacks))
        for callback in self.callbacks:
            if params is not None:
                callback.set_params(params)
            if model is not None:
                callback.set_model(model)

    def append(self, callback: Callback) -> None:
        """Adds a callback at the end."""
        self.callbacks.append(callback)

    def observes(self, kind: str) -> bool:
        """Whether a callback overrides a batch hook of "train", "test" or "predict"."""
        hooks = {"train": _TRAIN_BATCH, "test": _TEST_BATCH, "predict": _PREDICT_BATCH}[kind]
        return any(_overrides(callback, hook) for callback in self.callbacks for hook in hooks)

    def call(self, hook: str, *arguments: Any) -> None:
        """Calls `hook` of every callback with `arguments`."""
        for callback in self.callbacks:
            getattr(callback, hook)(*arguments)


def _flat(callbacks: Any) -> Iterable[Callback]:
    if callbacks is None:
        return
    if isinstance(callbacks, CallbackList):
        yield from callbacks.callbacks
    elif isinstance(callbacks, list | tuple):
        for item in callbacks:
            yield from _flat(item)
    elif isinstance(callbacks, Callback):
        yield callbacks
    else:
        hint = " Did you mean to make one: add ()?" if isinstance(callbacks, type) else ""
        raise TypeError(f"Expected callbacks of epochal.callbacks.Callback, got {callbacks!r}.{hint}")


def _overrides(callback: Callback, hook: str) -> bool:
    return getattr(type(callback), hook) is not getattr(Callback, hook) or hook in vars(callback)

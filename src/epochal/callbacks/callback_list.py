"""The list that calls callbacks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from epochal.callbacks.callback import Callback
from epochal.callbacks.history import History
from epochal.callbacks.progbar_logger import ProgbarLogger
from epochal.engine.objective.tally import Entry
from epochal.support.types import Logs

_BATCH_HOOKS = {
    "train": ("on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end"),
    "test": ("on_test_batch_begin", "on_test_batch_end"),
    "predict": ("on_predict_batch_begin", "on_predict_batch_end"),
}


_KEPT = ("set_model", "set_params")  # hooks in which `Callback` itself does something


class CallbackList(Callback):
    """Callbacks in the order in which they are called: each hook of the list calls that of all its callbacks.

    A hook without logs gives all of them one empty dict.

    Args:
        callbacks: one callback, or lists of them, nested or not.
        add_history: add a `History` at the end, unless there is one.
        add_progbar: add a `ProgbarLogger` at the end, unless there is one.
        model: given to each callback.
        params: given to each callback: `verbose`, `epochs`, `steps`, `batch_size`.

    Raises:
        TypeError: something that is no callback.

    Example:
        A training loop of one's own calls the hooks itself:

            callbacks = CallbackList(callbacks, add_progbar=True, model=model, verbose=1, epochs=2, steps=len(batches))
            callbacks.on_train_begin()
            for epoch in range(2):
                callbacks.on_epoch_begin(epoch)
                for i, (x, y) in enumerate(batches):
                    logs = model.train_on_batch(x, y, reset_metrics=i == 0, return_dict=True)
                    callbacks.on_train_batch_end(i, logs)
                callbacks.on_epoch_end(epoch, logs)
            callbacks.on_train_end(logs)
    """

    def __init__(
        self,
        callbacks: Any = None,
        add_history: bool = False,
        add_progbar: bool = False,
        model: Any = None,
        **params: Any,
    ):
        self.callbacks = list(_flat(callbacks))
        self._asking: dict[str, list[Callback]] = {}  # batch hook -> the callbacks that do something in it
        for wanted, kind in ((add_history, History), (add_progbar, ProgbarLogger)):
            if wanted and not any(isinstance(callback, kind) for callback in self.callbacks):
                self.callbacks.append(kind())
        if params:
            self.set_params(params)
        if model is not None:
            self.set_model(model)

    def append(self, callback: Callback) -> None:
        """Adds a callback at the end."""
        self.callbacks.append(callback)
        self._asking = {}

    def entries(self) -> list[Entry]:
        """What callbacks ask to be carried along in the tally of training."""
        asking = [callback for callback in self.callbacks if _overrides(callback, "entry")]
        return [entry for callback in asking if (entry := callback.entry()) is not None]

    def receive_entries(self, values: Mapping[str, Any], width: int | None) -> None:
        self.call("receive_entries", values, width)

    def observes(self, kind: str) -> bool:
        """Whether a callback overrides a batch hook of "train", "test" or "predict"; asked before each pass."""
        asking = [callback for callback in self.callbacks if any(_overrides(callback, h) for h in _BATCH_HOOKS[kind])]
        self._asking.update(dict.fromkeys((f"on_{kind}_batch_begin", f"on_{kind}_batch_end"), asking))
        return bool(asking)

    def call(self, hook: str, *arguments: Any) -> None:
        """Calls `hook` of every callback that does something in it with `arguments`."""
        asking = self._asking.get(hook)
        if asking is None:
            asking = [callback for callback in self.callbacks if hook in _KEPT or _overrides(callback, hook)]
        for callback in asking:
            getattr(callback, hook)(*arguments)

    def set_model(self, model: Any) -> None:
        super().set_model(model)
        self.call("set_model", model)

    def set_params(self, params: dict[str, Any]) -> None:
        super().set_params(params)
        self.call("set_params", params)

    def set_run(self, steps: Any, feed: Any) -> None:
        self.call("set_run", steps, feed)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.call("on_train_begin", _given(logs))

    def on_train_end(self, logs: Logs | None = None) -> None:
        self.call("on_train_end", _given(logs))

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self.call("on_epoch_begin", epoch, _given(logs))

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.call("on_epoch_end", epoch, _given(logs))

    def on_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        self.call("on_batch_begin", batch, _given(logs))

    def on_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self.call("on_batch_end", batch, _given(logs))

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        self.call("on_train_batch_begin", batch, _given(logs))

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self.call("on_train_batch_end", batch, _given(logs))

    def on_test_begin(self, logs: Logs | None = None) -> None:
        self.call("on_test_begin", _given(logs))

    def on_test_end(self, logs: Logs | None = None) -> None:
        self.call("on_test_end", _given(logs))

    def on_test_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        self.call("on_test_batch_begin", batch, _given(logs))

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self.call("on_test_batch_end", batch, _given(logs))

    def on_predict_begin(self, logs: Logs | None = None) -> None:
        self.call("on_predict_begin", _given(logs))

    def on_predict_end(self, logs: Logs | None = None) -> None:
        self.call("on_predict_end", _given(logs))

    def on_predict_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        self.call("on_predict_batch_begin", batch, _given(logs))

    def on_predict_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self.call("on_predict_batch_end", batch, _given(logs))

    def on_exception(self, error: BaseException) -> None:
        self.call("on_exception", error)


def _given(logs: Logs | None) -> Logs:
    return {} if logs is None else logs


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

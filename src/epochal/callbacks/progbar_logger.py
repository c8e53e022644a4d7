"""The progress display as a callback."""

from __future__ import annotations

from epochal.callbacks.callback import Callback
from epochal.display.progress import Display, display_for
from epochal.support.types import Logs


class ProgbarLogger(Callback):
    """Shows progress in a training loop of one's own, driven by a `CallbackList`.

    `fit`, `evaluate` and `predict` have the same display by themselves, under the rule of `verbose`; a `ProgbarLogger`
    among their callbacks adds nothing. A subclass of it takes the display's place there, and is called at every batch.
    """

    _display = Display()
    _trains = False

    def _begin(self) -> None:
        self._display = display_for(self.params.get("verbose", 1))

    def _show(self, kind: str, batch: int, logs: Logs | None) -> None:
        size = self.params.get("batch_size") or 0
        done = batch + 1
        self._display.progress(kind, done, self.params.get("steps"), done * size, lambda: logs or {})

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._begin()
        self._trains = True
        self._display.train_begin(self.params.get("epochs", 1))

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._display.epoch_begin(epoch, self.params.get("steps"))

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self._show("train", batch, logs)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self._display.epoch_end(epoch, logs or {})

    def on_train_end(self, logs: Logs | None = None) -> None:
        self._trains = False
        self._display.close()

    def on_test_begin(self, logs: Logs | None = None) -> None:
        if not self._trains:
            self._begin()
            self._display.epoch_begin(0, self.params.get("steps"))

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        if not self._trains:
            self._show("test", batch, logs)

    def on_test_end(self, logs: Logs | None = None) -> None:
        if not self._trains:
            self._display.epoch_end(0, logs or {})
            self._display.close()

    def on_predict_begin(self, logs: Logs | None = None) -> None:
        self._begin()
        self._display.epoch_begin(0, self.params.get("steps"))

    def on_predict_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self._show("predict", batch, None)

    def on_predict_end(self, logs: Logs | None = None) -> None:
        self._display.epoch_end(0, {})
        self._display.close()

    def on_exception(self, error: BaseException) -> None:
        self._trains = False
        self._display.close()

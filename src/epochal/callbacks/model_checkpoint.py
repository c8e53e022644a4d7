"""Saves models or weights while training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from epochal.callbacks.monitor import Monitor
from epochal.support.types import Logs


class ModelCheckpoint(Monitor):
    """Writes the model after an epoch, every time or when a value is the best so far.

    Args:
        filepath: where to; may hold names of the logs, such as "{epoch:02d}-{val_loss:.3f}.keras", where epochs count
            from 1.
        monitor: the value's name, for `save_best_only`.
        verbose: 1 says what is written.
        save_best_only: write only when the value is the best so far.
        save_weights_only: write weights alone (a safetensors file).
        mode: "min", "max" or "auto".
        save_freq: "epoch", or a number of batches.
        initial_value_threshold: the value that the first one has to improve on.
        save_state: keep the whole run too, beside the model in a folder `<filepath>.run`: `fit(resume_from=filepath)`
            goes on from this epoch as if training had never ended. Not in Keras.

    Raises:
        ValueError: a bad `save_freq`, one that is no "epoch" with `save_state`, or a name in `filepath` that is not in
            the logs.
    """

    run_suffix = ".run"

    def __init__(
        self,
        filepath: str | Path,
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: str = "auto",
        save_freq: str | int = "epoch",
        initial_value_threshold: int | float | None = None,
        *,
        save_state: bool = False,
    ):
        super().__init__(monitor, mode)
        if save_freq != "epoch" and (not isinstance(save_freq, int) or save_freq < 1):
            raise ValueError(f'Expected save_freq to be "epoch" or an int >= 1, got {save_freq!r}.')
        if save_state and save_freq != "epoch":
            raise ValueError(
                f'save_state keeps the run after epochs: expected save_freq="epoch", got {save_freq!r}. '
                "BackupAndRestore keeps it every so many batches."
            )
        self.save_state = self.keeps_run = save_state
        self.run_folder: str | None = None  # where the run is to be kept once all callbacks have seen this epoch
        self.filepath, self.verbose = str(filepath), verbose
        self.save_best_only, self.save_weights_only, self.save_freq = save_best_only, save_weights_only, save_freq
        self.best = initial_value_threshold
        self._epoch = 0
        self._seen = self._saved_at = self._epoch_start = 0  # batches: so far, at the last save, when the epoch began
        if save_freq != "epoch":
            # Only now: a hook that observes batches makes training run step by step.
            self.on_train_batch_end = self._count_batch  # type: ignore[method-assign]

    def state_dict(self) -> dict[str, Any]:
        names = ("best", "_seen", "_saved_at", "_epoch_start")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._epoch, self._epoch_start = epoch, self._seen

    def _count_batch(self, batch: int, logs: Logs | None = None) -> None:
        self._seen = self._epoch_start + batch + 1  # a hook may stand for several batches
        if self._seen - self._saved_at >= int(self.save_freq):
            self._saved_at = self._seen
            self._save(logs, batch)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if self.save_freq == "epoch":
            self._save(logs)

    def _save(self, logs: Logs | None, batch: int | None = None) -> None:
        if self.save_best_only:
            value = self.value_in(logs)
            if value is None or not self.improves(value, self.best):
                return
            self.best = value
        path = self._path(logs or {}, batch)
        if self.save_weights_only:
            self.model.save_weights(path)
        else:
            self.model.save(path)
        if self.save_state:
            self.run_folder = path + self.run_suffix
        if self.verbose:
            print(f"Epoch {self._epoch + 1}: saved {path}")

    def _path(self, logs: Logs, batch: int | None) -> str:
        fields: dict[str, Any] = {**logs, "epoch": self._epoch + 1}
        if batch is not None:
            fields["batch"] = batch + 1
        try:
            return self.filepath.format(**fields)
        except KeyError as error:
            raise ValueError(
                f"{self.filepath!r} names {error}, which is not reported. Reported: {list(logs)}."
            ) from error

"""Callbacks that write files."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, TextIO

from epochal.callbacks.base import Callback, Logs
from epochal.callbacks.monitor import Monitor


class CSVLogger(Callback):
    """Writes one row per epoch, as it happens.

    Args:
        filename: the file.
        separator: between columns.
        append: go on below what is there, instead of starting anew.
    """

    def __init__(self, filename: str | Path, separator: str = ",", append: bool = False):
        self.filename, self.separator, self.append = Path(filename), separator, append
        self._file: TextIO | None = None
        self._keys: list[str] | None = None
        self._written = 0  # bytes of the file up to its last row

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._keys, self._written = None, 0
        if self.append and self.filename.exists():
            self._written = self.filename.stat().st_size
            with self.filename.open(newline="") as file:
                first = next(csv.reader(file, delimiter=self.separator), None)
            self._keys = first[1:] if first else None

    def state_dict(self) -> dict[str, Any]:
        return {"keys": self._keys, "written": self._written}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on below the rows that there were; what a crash left behind them is cut off."""
        self._keys, self._written = state["keys"], state["written"]
        exists = self.filename.exists()
        size = self.filename.stat().st_size if exists else 0
        if size < self._written:
            raise ValueError(
                f"The run goes on with {self._written} bytes written to {self.filename}, which now has {size}. Put the "
                "file back, or delete the backup to start again."
            )
        if exists:
            self._file = self.filename.open("r+", newline="")
            self._file.truncate(self._written)
            self._file.seek(self._written)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        # Opened only now: a run that goes on must find the file as it was.
        if self._file is None:
            self._file = self.filename.open("a" if self.append else "w", newline="")
        logs = logs or {}
        writer = csv.writer(self._file, delimiter=self.separator)
        if self._keys is None:
            self._keys = list(logs)
            if not any(name.startswith("val_") for name in logs):  # validation may come in a later epoch
                self._keys += [f"val_{name}" for name in logs if name != "learning_rate"]
            writer.writerow(["epoch", *self._keys])
        writer.writerow([epoch, *[logs.get(key, "NA") for key in self._keys]])
        self._file.flush()
        self._written = self._file.tell()

    def on_train_end(self, logs: Logs | None = None) -> None:
        self._close()

    def on_exception(self, error: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


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
        self.save_state = save_state
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

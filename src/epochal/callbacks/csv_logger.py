"""Callbacks that write files."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, TextIO

from epochal.callbacks.callback import Callback
from epochal.support.types import Logs


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

"""The log of a run: JSON lines, epoch by epoch."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from epochal.callbacks.callback import Callback
from epochal.support.types import Logs


class RunLog(Callback):
    """Writes `log.jsonl` as training goes, every line at once on disk, so that a killed run tells how far it came.

    Lines: `{"event": "start", "time", **settings}`, `{"event": "epoch", "epoch", "seconds", **values}` (the first epoch
    is 1, seconds count from the start) and `{"event": "end", "reason", "epochs", "seconds"}`. Values that are not
    finite are written as the strings "nan", "inf" and "-inf", since JSON has no numbers for them.

    A run that goes on goes on with its log: lines behind the checkpoint are cut off.

    Args:
        path: the file.
        settings: written into the first line.

    Attributes:
        resumed: whether the run has gone on from a checkpoint.
    """

    def __init__(self, path: Path, settings: dict[str, Any] | None = None):
        self._path = path
        self._settings = settings or {}
        self._file: TextIO | None = None
        self._start = 0.0
        self._epochs = 0
        self.resumed = False

    def state_dict(self) -> dict[str, Any]:
        """How far the log is."""
        written = 0 if self._file is None else self._path.stat().st_size
        return {"epochs": self._epochs, "seconds": self.seconds, "written": written}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on there.

        Raises:
            ValueError: lines that there were are gone.
        """
        self._epochs, self.resumed = state["epochs"], True
        self._start = time.perf_counter() - state["seconds"]
        written, size = state["written"], self._path.stat().st_size if self._path.exists() else 0
        if size < written:
            raise ValueError(f"{self._path} had {written} bytes, and has {size}. Put the file back.")
        if written:
            os.truncate(self._path, written)
            self._file = self._path.open("a", encoding="utf-8")

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Writes the first line. Not where there are some: of a run that goes on, or begins again with its epoch 1."""
        self._start = time.perf_counter()
        if not self._path.exists():
            self._begin()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """One line."""
        if self._file is None:  # nothing was kept of the run whose lines there are
            self._begin()
        self._epochs += 1
        self._write({"event": "epoch", "epoch": epoch + 1, "seconds": self.seconds, **plain(logs or {})})

    def _begin(self) -> None:
        self._file = self._path.open("w", encoding="utf-8")
        self._write({"event": "start", "time": now(), **self._settings})

    def on_train_end(self, logs: Logs | None = None) -> None:
        """The last line: training ended after its last epoch, or was stopped by a callback."""
        planned = self.params.get("epochs")
        self.end("stopped early" if planned is not None and self._epochs < planned else "all epochs done")

    def end(self, reason: str) -> None:
        """Writes the last line and closes the file; a second call does nothing."""
        if self._file is not None:
            self._write({"event": "end", "reason": reason, "epochs": self._epochs, "seconds": self.seconds})
            self._file.close()
            self._file = None

    @property
    def seconds(self) -> float:
        """Since training began."""
        return round(time.perf_counter() - self._start, 3)

    def _write(self, line: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(line, allow_nan=False) + "\n")
            self._file.flush()


def now() -> str:
    """The time in UTC, ISO 8601 to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def plain(values: Any) -> Any:
    """Values as JSON data: numbers of NumPy or JAX become Python's, what is not finite becomes a string."""
    if isinstance(values, dict):
        return {str(name): plain(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [plain(value) for value in values]
    if values is None or isinstance(values, str | bool | int):
        return values
    if hasattr(values, "tolist"):  # arrays and their scalars
        return plain(values.tolist())
    number = float(values)
    return number if number - number == 0 else str(number)

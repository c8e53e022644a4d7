"""Progress in a terminal, a notebook or a log file."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from epochal.callbacks.base import Display, Logs

REDRAW_SECONDS = 0.1


def display_for(verbose: Any) -> Display:
    """The display for `verbose`: 0 none, 1 a live bar, 2 a line per epoch, "auto" 1 on a terminal or notebook, else 2.

    Raises:
        ValueError: another value.
    """
    if verbose not in ("auto", 0, 1, 2):  # True and False count as 1 and 0
        raise ValueError(f'Expected verbose to be "auto", 0, 1 or 2, got {verbose!r}.')
    if verbose == "auto":
        verbose = 1 if _is_live() else 2
    return {0: Silent, 1: Bar, 2: Lines}[int(verbose)]()


def _is_live() -> bool:
    if "CI" in os.environ:
        return False
    console = Console()
    return console.is_terminal or console.is_jupyter


class Silent(Display):
    """Nothing."""

    def note(self, text: str) -> None:
        pass


class Lines(Display):
    """One line per epoch, for files and logs."""

    def __init__(self) -> None:
        self._epochs, self._done, self._steps = 1, 0, None
        self._start = time.perf_counter()

    def train_begin(self, epochs: int) -> None:
        self._epochs = epochs

    def epoch_begin(self, epoch: int, steps: int | None) -> None:
        if self._epochs > 1:
            print(f"Epoch {epoch + 1}/{self._epochs}", flush=True)
        self._start, self._steps = time.perf_counter(), steps

    def epoch_end(self, epoch: int, logs: Logs) -> None:
        seconds = time.perf_counter() - self._start
        steps = self._steps or 1
        head = f"{steps}/{steps} - {duration(seconds)} - {per_step(seconds / steps)}"
        print(" - ".join([head, *_values(logs)]), flush=True)


class Bar(Display):
    """A live bar: steps, time, examples' running values; redrawn at most ten times a second."""

    def __init__(self) -> None:
        self._epochs, self._trains, self._shown = 1, False, ""
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._start = self._drawn = time.perf_counter()

    def train_begin(self, epochs: int) -> None:
        self._epochs, self._trains = epochs, True

    def compiling(self, kind: str) -> None:
        self._draw(info="compiling…")

    def epoch_begin(self, epoch: int, steps: int | None) -> None:
        self.close()
        if self._epochs > 1:
            print(f"Epoch {epoch + 1}/{self._epochs}", flush=True)
        self._progress = Progress(
            TextColumn("{task.fields[count]}"),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[info]}", markup=False, table_column=Column(overflow="fold")),
            auto_refresh=False,
            console=Console(file=sys.stdout),
        )
        self._steps = steps
        count = f"0/{steps}" if steps else "0"
        self._task = self._progress.add_task("", total=steps, count=count, info="")
        self._progress.start()
        self._start = time.perf_counter()
        self._drawn = 0.0

    def progress(self, kind: str, done: int, steps: int | None, logs: Any) -> None:
        now = time.perf_counter()
        if now - self._drawn < REDRAW_SECONDS:
            return
        self._drawn = now
        if kind == "test" and self._trains:  # the values on show stay those of training
            self._draw(info=f"{self._shown} - validating {done}/{steps}")
            return
        seconds = now - self._start
        left = f"{duration(seconds)} < {duration(seconds / done * (steps - done))}" if steps else duration(seconds)
        self._shown = " - ".join([left, per_step(seconds / done), *_values(logs())])
        self._draw(completed=done, count=f"{done}/{steps}" if steps else f"{done}", info=self._shown)

    def epoch_end(self, epoch: int, logs: Logs) -> None:
        seconds = time.perf_counter() - self._start
        steps = self._steps or 1
        info = " - ".join([duration(seconds), per_step(seconds / steps), *_values(logs)])
        self._draw(completed=steps, count=f"{steps}/{steps}", info=info)
        self.close()

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _draw(self, **fields: Any) -> None:
        if self._progress is not None:
            self._progress.update(self._task, **fields)
            self._progress.refresh()


def duration(seconds: float) -> str:
    """`0.4s`, `12s`, `1:05`, `2:03:04`."""
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    if seconds < 60:
        return f"{seconds:.0f}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def per_step(seconds: float) -> str:
    """`12µs/step`, `3.1ms/step`, `2.5s/step`."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f}µs/step"
    return f"{seconds * 1e3:.3g}ms/step" if seconds < 1 else f"{seconds:.1f}s/step"


def _values(logs: Logs) -> list[str]:
    return [f"{name}: {_short(value)}" for name, value in logs.items()]


def _short(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return np.array2string(value, precision=4)
    if abs(value) >= 1e5:
        return f"{value:.6g}"
    return f"{value:.4f}" if abs(value) >= 1e-3 or value == 0 else f"{value:.2e}"

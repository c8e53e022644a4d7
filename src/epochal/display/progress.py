"""Progress in a terminal, a notebook or a log file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import jax

from epochal.display.screens import Paper, live_screen
from epochal.display.text import duration, metric_value, per_step, short
from epochal.support.types import Logs

REDRAW_SECONDS = 0.1


class Display:
    """What shows progress: told at every look of the loop, without making the loop look more often.

    A display is no callback, since a callback that observes batches would make training run step by step.
    """

    def train_begin(self, epochs: int) -> None:
        """Before the first epoch."""

    def epoch_begin(self, epoch: int, steps: int | None) -> None:
        """Before an epoch of `steps` batches; None: that is not known yet."""

    def compiling(self, kind: str) -> None:
        """A program ("train", "test", "predict") is about to be compiled."""

    def compiled(self, kind: str) -> None:
        """It is."""

    def progress(self, kind: str, done: int, steps: int | None, examples: int, logs: Callable[[], Logs]) -> None:
        """`done` batches with `examples` examples of a pass of this kind are through.

        `logs()` reads the running values from the device.
        """

    def pass_end(self, kind: str, done: int, examples: int) -> None:
        """All batches of a pass are through: `done`, with `examples` examples."""

    def epoch_end(self, epoch: int, logs: Logs) -> None:
        """After an epoch, validation included."""

    def note(self, text: str) -> None:
        """A message for the user."""

    def close(self) -> None:
        """The method ends, by whatever way: leave the terminal as it was."""


def display_for(verbose: Any) -> Display:
    """The display for `verbose`: 0 none, 1 a live bar, 2 a line per epoch, "auto" 1 on a terminal or notebook, else 2.

    A bar that cannot move, since standard output is a file, is a line per epoch.

    Raises:
        ValueError: another value.
    """
    if verbose not in ("auto", 0, 1, 2):  # True and False count as 1 and 0
        raise ValueError(f'Expected verbose to be "auto", 0, 1 or 2, got {verbose!r}.')
    if verbose == 0:
        return Display()
    wanted = _is_chief() and "CI" not in os.environ if verbose == "auto" else verbose == 1
    screen = live_screen() if wanted else None
    return Lines() if screen is None else Bar(screen)


def _is_chief() -> bool:
    """Whether this is the first of the processes that train together."""
    return jax.process_index() == 0


class Lines(Display):
    """A line per epoch, for files and logs.

    Compiling is no part of the time per step, and validation neither.

    Args:
        screen: where the lines go.
    """

    def __init__(self, screen: Paper | None = None) -> None:
        self._screen = Paper() if screen is None else screen
        self._epochs, self._trains = 1, False
        self._steps: int | None = None
        self._reset()

    def _reset(self) -> None:
        self._start = self._compile_start = time.perf_counter()
        self._done = self._examples = 0
        self._compile_seconds = self._pass_seconds = 0.0

    def train_begin(self, epochs: int) -> None:
        self._epochs, self._trains = epochs, True

    def epoch_begin(self, epoch: int, steps: int | None) -> None:
        self._steps = steps
        self._reset()
        if self._epochs > 1:
            self._screen.keep([f"Epoch {epoch + 1}/{self._epochs}"])

    def note(self, text: str) -> None:
        self._screen.keep([text])

    def compiling(self, kind: str) -> None:
        self._compile_start = time.perf_counter()

    def compiled(self, kind: str) -> None:
        self._compile_seconds += time.perf_counter() - self._compile_start

    def progress(self, kind: str, done: int, steps: int | None, examples: int, logs: Callable[[], Logs]) -> None:
        if not self._validates(kind):
            self._done, self._examples, self._pass_seconds = done, examples, self._seconds()

    def pass_end(self, kind: str, done: int, examples: int) -> None:
        if not self._validates(kind):
            self._done, self._examples, self._pass_seconds = done, examples, self._seconds()

    def epoch_end(self, epoch: int, logs: Logs) -> None:
        parts = self._head(self._steps or self._done, self._seconds())
        if self._compile_seconds:
            parts.append(f"compiled in {duration(self._compile_seconds)}")
        self._screen.keep([*parts, *self._speeds()], _values(logs))

    def _validates(self, kind: str) -> bool:
        """Whether a pass of this kind is a validation inside `fit`."""
        return self._trains and kind != "train"

    def _seconds(self) -> float:
        """Since the epoch began, without those spent on compiling."""
        return time.perf_counter() - self._start - self._compile_seconds

    def _head(self, steps: int | None, seconds: float) -> list[str]:
        return [f"{self._done}/{steps}", duration(seconds)]

    def _speeds(self) -> list[str]:
        seconds = max(self._pass_seconds, 1e-9)
        rate = [f"{short(self._examples / seconds)} examples/s"] if self._examples else []
        return [per_step(seconds / max(self._done, 1)), *rate]


class Bar(Lines):
    """A live bar: steps, times, speeds and running values; redrawn at most ten times a second."""

    def __init__(self, screen: Paper) -> None:
        super().__init__(screen)
        self._values: list[str] = []
        self._drawn = -REDRAW_SECONDS

    def epoch_begin(self, epoch: int, steps: int | None) -> None:
        super().epoch_begin(epoch, steps)
        self._values = []
        if self._due():
            self._draw()

    def compiling(self, kind: str) -> None:
        super().compiling(kind)
        self._draw("compiling…")  # without fail: it may take long

    def compiled(self, kind: str) -> None:
        super().compiled(kind)
        self._draw()

    def progress(self, kind: str, done: int, steps: int | None, examples: int, logs: Callable[[], Logs]) -> None:
        super().progress(kind, done, steps, examples, logs)
        if not self._due():
            return
        if self._validates(kind):  # the values on show stay those of training
            self._draw(f"validating {done}/{steps}" if steps else f"validating {done}")
        else:
            self._values = _values(logs())
            self._draw()

    def close(self) -> None:
        self._screen.close()

    def _due(self) -> bool:
        return time.perf_counter() - self._drawn >= REDRAW_SECONDS

    def _draw(self, doing: str | None = None) -> None:
        """Draws the bar as it is now; `doing` is what goes on beside training."""
        self._drawn = time.perf_counter()
        parts = self._head(self._steps, self._pass_seconds)
        if self._done:
            if self._steps is not None and doing is None:
                left = self._pass_seconds / self._done * (self._steps - self._done)
                parts.append(f"{duration(left)} left")
            parts += self._speeds()
        self._screen.show([*parts, *([doing] if doing else [])], self._values)

    def _head(self, steps: int | None, seconds: float) -> list[str]:
        if steps is None:
            return [f"{self._done} steps {duration(seconds)}"]
        cells = 16 if self._screen.width >= 60 else 8
        full = cells * min(self._done, steps) // max(steps, 1)
        count = f"{self._done}/{steps}".rjust(2 * len(str(steps)) + 1)
        return [f"{count} {'━' * full}{'─' * (cells - full)} {duration(seconds)}"]


def _values(logs: Logs) -> list[str]:
    return [f"{name}: {metric_value(value)}" for name, value in logs.items()]

"""A profile of some steps, written by JAX's profiler."""

from __future__ import annotations

import contextlib
import tempfile
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax


class Trace:
    """Writes what the host and the device do in the first second of training, compiling left out.

    A second holds hundreds to millions of operations: enough to see where a step's time goes, and little enough to look
    at in a browser.

    Args:
        folder: where to; it is made. TensorBoard's profile plugin, xprof and Perfetto read what is written.

    Raises:
        ValueError: nothing can be written there.
    """

    SECONDS = 1.0

    def __init__(self, folder: Any):
        try:
            self._folder = Path(folder)
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._folder):
                pass
        except (OSError, TypeError) as error:
            raise ValueError(
                f"Expected profile to be a folder that can be written to, got {folder!r}: {error}."
            ) from error
        self._until: float | None = None  # None: not begun yet
        self._ended = False

    def step(self, kind: str, batch: int) -> AbstractContextManager[Any]:
        """Around an execution from batch number `batch` on, which is named in the profile; training begins it.

        Raises:
            RuntimeError: someone else records already; there is one profiler per process.
        """
        if self._ended or (self._until is None and kind != "train"):
            return contextlib.nullcontext()
        if self._until is None:
            jax.profiler.start_trace(str(self._folder))
            self._until = time.perf_counter() + self.SECONDS
        return jax.profiler.StepTraceAnnotation(kind, step_num=batch)

    def look(self, result: Any) -> None:
        """After an execution that leaves this result: ends the recording where it is long enough."""
        if self._until is not None and not self._ended and time.perf_counter() > self._until:
            jax.block_until_ready(result)
            self.end()

    def end(self) -> None:
        """Writes what was recorded, if that is not done yet."""
        if self._until is not None and not self._ended:
            self._ended = True
            jax.profiler.stop_trace()

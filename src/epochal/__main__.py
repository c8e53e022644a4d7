"""The program `epochal`, also as `python -m epochal`."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from epochal.cli.ctrl_c import pressed
from epochal.cli.program import main


def run() -> None:
    """The program `epochal`."""
    signal.signal(signal.SIGINT, _on_interrupt)
    sys.stdout = _Tolerant(sys.stdout)  # type: ignore[assignment]
    code = main()
    if code == 130:  # JAX's threads may still compile, and crash when the interpreter is taken down under them
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _on_interrupt(number: int, frame: Any) -> None:
    pressed.set()
    raise KeyboardInterrupt


class _Tolerant:
    """Standard output that may be closed by its reader (`| head`): the run goes on and writes its folder."""

    def __init__(self, stream: Any):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes, or drops the text if nobody reads."""
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._drop()
            return len(text)

    def flush(self) -> None:
        """Flushes, unless nobody reads."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._drop()

    def _drop(self) -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


if __name__ == "__main__":
    run()

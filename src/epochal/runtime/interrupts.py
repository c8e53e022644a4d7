"""Ctrl-C and SIGTERM while a method runs."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Interrupts:
    """Ctrl-C while a method runs: heard at once while data is waited for, otherwise where the model is whole.

    The first press waits for the end of the execution or hook that is under way. The second is heard at once, but for
    the moment between an execution's start, which uses up the model's arrays, and the arrival of the new ones. The
    third is heard even there: it may be a step that hangs. Where the run is kept SIGTERM is heard like Ctrl-C;
    elsewhere nothing would come of waiting.

    Attributes:
        keep: called where the model is whole, before the method ends; None does nothing.
        presses: how often it was pressed so far.
        updating: whether the model's arrays are with a program that is to leave others.
    """

    def __init__(self) -> None:
        self.keep: Callable[[], None] | None = None
        self.presses = 0
        self.updating = self._waiting = self._terminated = False

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Takes the signals over; only the main thread can, and only where they are not ignored."""
        numbers = [signal.SIGINT, *([] if self.keep is None else [signal.SIGTERM])]
        before = {n: signal.getsignal(n) for n in numbers if signal.getsignal(n) not in (None, signal.SIG_IGN)}
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        for number in before:
            signal.signal(number, self._on_press)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        self.check()  # a press in the last hook

    def _on_press(self, number: int, frame: Any) -> None:
        self.presses += 1
        self._terminated = number == signal.SIGTERM
        if self._waiting or self.presses > (2 if self.updating else 1):
            raise self._ending()

    def _ending(self) -> BaseException:
        return SystemExit(128 + signal.SIGTERM) if self._terminated else KeyboardInterrupt()

    def check(self) -> None:
        """Where the model is whole: raises KeyboardInterrupt after Ctrl-C, SystemExit after SIGTERM."""
        if self.presses:
            if self.keep is not None:
                self.keep()
            raise self._ending()

    def wait_for(self, data: Callable, *arguments: Any) -> Any:
        """The result of a function that fetches data: data that never comes can be interrupted."""
        self.check()
        self._waiting = True
        try:
            return data(*arguments)
        finally:
            self._waiting = False
            self.check()

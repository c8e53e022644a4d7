"""Where progress is drawn: a terminal, a notebook or a file. Each has a text that changes and texts that stay."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Any, ClassVar

_ASCII = str.maketrans({"━": "=", "─": "-", "…": "...", "µ": "u"})


class Paper:
    """A file or a pipe: holds lines; a text that changes is not shown."""

    width = 10_000  # one line, for tools that read lines

    def show(self, *groups: Sequence[str]) -> None:
        """Shows the text that changes, in place of the last one."""

    def keep(self, *groups: Sequence[str]) -> None:
        """Writes a text that stays, in place of the one that changes."""
        print(_encodable(wrapped(groups, self.width)), flush=True)

    def close(self) -> None:
        """Nothing more will come: what is shown stays."""


class Terminal(Paper):
    """The last lines of a terminal; whatever else is printed meanwhile appears above them.

    One display at a time has the terminal: another that begins, an `evaluate` inside a callback say, takes it over, and
    the first one draws itself anew below.
    """

    _owner: ClassVar[Terminal | None] = None

    def __init__(self) -> None:
        self._console: Any = None  # rich's, imported where something is drawn
        self._live: Any = None

    @property
    def width(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Columns, as many as there are now."""
        return _size().columns

    def show(self, *groups: Sequence[str]) -> None:
        text = self._text(groups)
        console = self._taken()
        if self._live is not None:
            self._live.update(text, refresh=True)
            return
        Terminal._owner = self
        from rich.live import Live

        self._live = Live(text, console=console, auto_refresh=False)
        self._live.start(refresh=True)
        console.show_cursor(True)  # a process that is killed must not leave the terminal without

    def keep(self, *groups: Sequence[str]) -> None:
        text = self._text(groups)
        self._hide()
        self._taken().print(text)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = Terminal._owner = None

    def _hide(self) -> None:
        """Takes the text that changes off the terminal."""
        if self._live is not None:
            self._live.transient = True
            self.close()

    def _taken(self) -> Any:
        """The terminal as it is now, with no text of another display that changes."""
        if Terminal._owner not in (None, self):
            Terminal._owner._hide()
        size = _size()
        if self._console is None:
            from rich.console import Console

            self._console = Console(file=sys.stdout, force_terminal=True, highlight=False)
        self._console.size = size
        return self._console

    def _text(self, groups: Sequence[Sequence[str]]) -> Any:
        from rich.text import Text

        text = Text(_encodable(wrapped(groups, self.width)), overflow="fold")
        text.highlight_regex("━+", "green")
        text.highlight_regex("─+", "dim")
        return text


class Notebook(Paper):
    """An output of a notebook's cell that is replaced as it changes: nothing piles up in the saved notebook."""

    width = 120
    PAGE = 50  # texts per output: notebooks hide what comes after 50 outputs, and every change sends the whole output

    def __init__(self) -> None:
        self._kept: list[str] = []
        self._handle: Any = None

    def show(self, *groups: Sequence[str]) -> None:
        self._draw([*self._kept, wrapped(groups, self.width)])

    def keep(self, *groups: Sequence[str]) -> None:
        self._kept.append(wrapped(groups, self.width))
        self._draw(self._kept)
        if len(self._kept) >= self.PAGE:
            self._kept, self._handle = [], None

    def _draw(self, texts: list[str]) -> None:
        from IPython.display import display

        data = {"text/plain": "\n".join(texts)}
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)


def live_screen() -> Terminal | Notebook | None:
    """What standard output is, if texts that change can be shown there."""
    from rich.console import Console

    if Console().is_jupyter:
        return Notebook()
    isatty = getattr(sys.stdout, "isatty", None)  # whatever someone has put there
    moves = os.environ.get("TERM", "").lower() not in ("dumb", "unknown")  # its cursor
    return Terminal() if isatty is not None and isatty() and moves else None


def wrapped(groups: Sequence[Sequence[str]], width: int) -> str:
    """The parts of all groups joined by " - ": in one line if that fits, else each group on lines of its own."""
    parts = [part for group in groups for part in group]
    if len(" - ".join(parts)) <= width:
        return " - ".join(parts)
    lines: list[str] = []
    for group in groups:
        for i, part in enumerate(group):
            if i and len(lines[-1]) + 3 + len(part) <= width:
                lines[-1] += f" - {part}"
            else:
                lines.append(part)
    return "\n".join(lines)


def _size() -> os.terminal_size:
    with contextlib.suppress(ValueError, OSError):  # closed, or no terminal after all
        size = os.get_terminal_size(sys.stdout.fileno())
        if size.columns:
            return size
    return os.terminal_size((80, 24))


def _encodable(text: str) -> str:
    """The text in plainer signs, where the encoding of standard output lacks some."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_ASCII).encode(encoding, "replace").decode(encoding)
    return text

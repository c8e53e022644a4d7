"""Section J (display) of the training contract: what a user sees while training."""

from __future__ import annotations

import builtins
import fcntl
import functools
import io
import os
import pty
import re
import struct
import sys
import termios
import textwrap
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import nbformat
import numpy as np
import pyte
import pytest
from nbclient import NotebookClient
from support.data import digits
from support.same import same

import epochal as keras
from epochal.display import progress, screens

X, Y = digits(64)


@functools.cache
def classifier() -> keras.Sequential:
    """One for all tests that need no fresh one: compiled once."""
    return fresh()


def fresh() -> keras.Sequential:
    model = keras.Sequential([keras.layers.Dense(10, activation="softmax", input_shape=(64,))])
    model.compile("adam", "ce", ["accuracy"])
    return model


class Plain:
    """A dataset that does not tell its length."""

    def __iter__(self):
        return iter([(X[i : i + 16], Y[i : i + 16]) for i in range(0, 48, 16)])


class Sheet(screens.Paper):
    """Notes what is drawn."""

    width = 200

    def __init__(self) -> None:
        self.shown: list[str] = []
        self.kept: list[str] = []

    def show(self, *groups: Sequence[str]) -> None:
        self.shown.append(screens.wrapped(groups, self.width))

    def keep(self, *groups: Sequence[str]) -> None:
        self.kept.append(screens.wrapped(groups, self.width))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Time as the display sees it, in `now`."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


# -- verbose


def test_J_verbose_0_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    model = classifier()
    model.fit(X, Y, epochs=2, verbose=0)
    model.evaluate(X, Y, verbose=0)
    model.predict(X, verbose=0)
    assert capsys.readouterr() == ("", "")


def test_J_verbose_2_is_a_line_per_epoch_which_is_named_only_when_there_are_several(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = classifier()
    model.fit(X, Y, batch_size=16, epochs=1, verbose=2)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("4/4 - ")
    assert " examples/s - loss: " in line
    model.fit(X, Y, batch_size=16, epochs=5, initial_epoch=3, verbose=2, validation_split=0.25)
    lines = capsys.readouterr().out.splitlines()
    assert [lines[0], lines[2]] == ["Epoch 4/5", "Epoch 5/5"]
    assert len(lines) == 4
    assert " - val_accuracy: " in lines[1]
    model.evaluate(X, Y, verbose=2)
    model.predict(X, verbose=2)
    evaluated, predicted = capsys.readouterr().out.splitlines()
    assert evaluated.startswith("2/2 - ")
    assert "accuracy: " in evaluated
    assert predicted.startswith("2/2 - ")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class ZMQInteractiveShell:
    """What a notebook's shell is called."""


@pytest.mark.parametrize(
    ("place", "verbose", "expected"),
    [
        ("nothing", "auto", progress.Lines),
        ("terminal", "auto", progress.Bar),
        ("terminal", 1, progress.Bar),
        ("terminal", True, progress.Bar),
        ("terminal", 2, progress.Lines),
        ("terminal", 0, progress.Display),
        ("terminal", False, progress.Display),
        ("notebook", "auto", progress.Bar),
        ("file", "auto", progress.Lines),
        ("file", 1, progress.Lines),
        ("dumb terminal", "auto", progress.Lines),
        ("ci", "auto", progress.Lines),
        ("ci", 1, progress.Bar),
        ("second process", "auto", progress.Lines),
        ("second process", 1, progress.Bar),
    ],
)
def test_J_auto_is_a_bar_on_a_terminal_or_notebook_and_lines_elsewhere(
    place: str, verbose: Any, expected: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")  # asks for colours in a file, not for a cursor that moves
    monkeypatch.setenv("TERM", "dumb" if place == "dumb terminal" else "xterm")
    monkeypatch.setattr(sys, "stdout", io.StringIO() if place in ("file", "notebook") else Terminal())
    if place == "nothing":
        monkeypatch.setattr(sys, "stdout", None)
    if place == "notebook":
        monkeypatch.setattr(builtins, "get_ipython", ZMQInteractiveShell, raising=False)
    if place == "ci":
        monkeypatch.setenv("CI", "true")
    if place == "second process":
        monkeypatch.setattr(jax, "process_index", lambda: 1)
    assert type(progress.display_for(verbose)) is expected


def test_J_verbose_of_another_value_is_an_error_before_training() -> None:
    with pytest.raises(ValueError, match=r'"auto", 0, 1 or 2, got 3'):
        classifier().fit(X, Y, verbose=3)


# -- what the bar shows


def test_J_the_bar_shows_steps_times_speeds_and_running_values(clock: Any) -> None:
    sheet = Sheet()
    bar = progress.Bar(sheet)
    bar.train_begin(3)
    bar.epoch_begin(1, 200)
    clock.now += 2
    bar.progress("train", 50, 200, 1600, lambda: {"loss": 0.5, "accuracy": 0.75})
    assert sheet.kept == ["Epoch 2/3"]
    assert sheet.shown[-1] == (
        " 50/200 ━━━━──────────── 2.0s - 6.0s left - 40ms/step - 800 examples/s - loss: 0.5000 - accuracy: 0.7500"
    )
    clock.now += 6
    bar.pass_end("train", 200, 6400)
    clock.now += 1  # a callback, say
    bar.epoch_end(1, {"loss": 0.25, "accuracy": 1.0, "val_loss": 3e-5})
    assert sheet.kept[1:] == [
        "200/200 ━━━━━━━━━━━━━━━━ 9.0s - 40ms/step - 800 examples/s - "
        "loss: 0.2500 - accuracy: 1.0000 - val_loss: 3.00e-05"
    ]


def test_J_the_bar_redraws_at_most_ten_times_a_second_and_reads_values_only_then(clock: Any) -> None:
    sheet, reads = Sheet(), []

    def logs() -> dict[str, float]:
        reads.append(clock.now)
        return {"loss": 0.5}

    bar = progress.Bar(sheet)
    bar.train_begin(100)
    for epoch in range(100):  # short epochs are no exception
        bar.epoch_begin(epoch, 10)
        for done in range(1, 11):
            clock.now += 0.003
            bar.progress("train", done, 10, 32 * done, logs)
        bar.epoch_end(epoch, {"loss": 0.5})
    assert 25 <= len(sheet.shown) <= 31  # 3 seconds
    assert len(reads) <= len(sheet.shown)
    assert len(sheet.kept) == 200


def test_J_compiling_is_shown_as_such_and_is_no_part_of_the_time_per_step(clock: Any) -> None:
    sheet = Sheet()
    bar = progress.Bar(sheet)
    bar.train_begin(1)
    bar.epoch_begin(0, 100)
    bar.compiling("train")
    assert sheet.shown[-1].endswith(" - compiling…")
    clock.now += 30
    bar.compiled("train")
    clock.now += 1
    bar.progress("train", 10, 100, 320, lambda: {"loss": 0.5})
    assert " 1.0s - 9.0s left - 100ms/step - 320 examples/s - " in sheet.shown[-1]
    clock.now += 9
    bar.pass_end("train", 100, 3200)
    bar.compiling("test")
    assert sheet.shown[-1].endswith(" - 100ms/step - 320 examples/s - compiling… - loss: 0.5000")  # values stay on show
    clock.now += 20
    bar.compiled("test")
    clock.now += 5
    bar.progress("test", 7, 9, 99, lambda: {"loss": 99.0})
    assert sheet.shown[-1].endswith(" - validating 7/9 - loss: 0.5000")
    bar.epoch_end(0, {"loss": 0.5})
    assert sheet.kept == ["100/100 ━━━━━━━━━━━━━━━━ 15s - compiled in 50s - 100ms/step - 320 examples/s - loss: 0.5000"]


def shown_by(run: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> Sheet:
    """What `run` draws, every change of it."""
    sheet = Sheet()
    monkeypatch.setattr(progress, "REDRAW_SECONDS", 0.0)
    monkeypatch.setattr("epochal.models.fitting.display_for", lambda verbose: progress.Bar(sheet))
    run()
    return sheet


def test_J_a_fit_tells_the_display_of_compiling_once_and_counts_examples_exactly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, looks = fresh(), []
    monkeypatch.setattr(progress.Lines, "pass_end", lambda self, kind, *counts: looks.append((kind, *counts)))
    sheet = shown_by(lambda: model.fit(X[:42], Y[:42], batch_size=8, epochs=2, validation_split=0.25), monkeypatch)
    assert sum("compiling…" in text.split(" - ") for text in sheet.shown) == 2
    assert looks == [("train", 4, 31), ("test", 2, 11)] * 2  # the short last batches have 7 and 3
    looks.clear()
    shown_by(lambda: model.fit(Plain(), epochs=1), monkeypatch)
    shown_by(lambda: model.evaluate(X[:42], Y[:42]), monkeypatch)
    predicted = shown_by(lambda: fresh().predict(X[:42]), monkeypatch)
    assert looks == [("train", 3, 48), ("test", 2, 42), ("predict", 2, 42)]
    assert any("compiling…" in text for text in predicted.shown)


def test_J_an_unknown_total_is_learned_after_the_first_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    sheet = shown_by(lambda: classifier().fit(Plain(), epochs=2), monkeypatch)
    second = next(i for i, text in enumerate(sheet.shown) if text.startswith("0/3"))
    assert all(" steps " in text for text in sheet.shown[:second])
    assert all("/3 " in text for text in sheet.shown[second:])
    assert sheet.kept[1].startswith("3/3 ━━━━━━━━━━━━━━━━ ")  # not "1/1"


def test_J_batches_that_were_not_run_are_not_claimed(capsys: pytest.CaptureFixture[str]) -> None:
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.model.stop_training = batch == 1

    classifier().fit(X, Y, batch_size=16, verbose=2, callbacks=Stop())
    assert capsys.readouterr().out.startswith("2/4 - ")


def test_J_whatever_a_callback_logs_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    def add(epoch: int, logs: Any) -> None:
        logs.update(note="good", vector=np.arange(3), large=1234567.0, tiny=1.23e-5, zero=0.0, count=3)

    classifier().fit(X, Y, verbose=2, callbacks=keras.callbacks.LambdaCallback(on_epoch_end=add))
    line = capsys.readouterr().out.rstrip()
    assert line.endswith(
        "note: good - vector: [0 1 2] - large: 1.23457e+06 - tiny: 1.23e-05 - zero: 0.0000 - count: 3.0000"
    )


# -- a real terminal


class RealTerminal:
    """A pseudo-terminal of `columns` columns as standard output, and what one sees on it."""

    def __init__(self, columns: int, monkeypatch: pytest.MonkeyPatch):
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        self._out = os.fdopen(slave, "w", encoding="utf-8")
        self._pieces: list[bytes] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.screen = pyte.Screen(columns, 50)
        monkeypatch.delenv("CI", raising=False)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr(sys, "stdout", self._out)

    def _read(self) -> None:
        while piece := self._piece():
            self._pieces.append(piece)

    def _piece(self) -> bytes:
        try:
            return os.read(self._master, 4096)
        except OSError:  # the other side is closed
            return b""

    def lines(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Ends the session; the lines on the screen."""
        monkeypatch.undo()
        self._out.close()
        self._reader.join()
        os.close(self._master)
        pyte.ByteStream(self.screen).feed(b"".join(self._pieces))
        return [line.rstrip() for line in self.screen.display if line.strip()]

    @property
    def raw(self) -> str:
        return b"".join(self._pieces).decode()


@pytest.mark.parametrize("columns", [80, 40])
def test_J_on_a_real_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prints of callbacks and an evaluation inside of one stand between the epochs; nothing is torn or left over."""

    class Talks(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            print(f"end of {epoch}")
            if epoch == 1:
                self.model.evaluate(X, Y, batch_size=32)

    terminal = RealTerminal(columns, monkeypatch)
    monkeypatch.setattr(progress, "REDRAW_SECONDS", 0.0)
    # A new model: its first steps are waited for, and so shown, however fast they are.
    fresh().fit(X, Y, batch_size=16, epochs=2, validation_data=(X, Y), validation_batch_size=4, callbacks=Talks())
    lines = terminal.lines(monkeypatch)
    heads = [line for line in lines if "━━" in line]
    assert [line.split()[0] for line in heads] == ["4/4", "2/2", "4/4"]
    assert [line for line in lines if line.startswith("Epoch")] == ["Epoch 1/2", "Epoch 2/2"]
    assert [line for line in lines if "end of" in line] == ["end of 0", "end of 1"]
    order = [lines.index(text) for text in ("Epoch 1/2", "end of 0", heads[0], "Epoch 2/2", "end of 1")]
    assert order == sorted(order)
    parts = [part for line in lines for part in line.split(" - ")]
    known = r"Epoch ./2|end of .|./. ━+ [\d.]+s|compiled in [\d.]+s|[\d.]+.?s/step|"
    known += r"[\d.]+k? examples/s|(val_)?(loss|accuracy): [\d.]+"
    assert [part for part in parts if not re.fullmatch(known, part)] == []
    assert [part.split(":")[0] for part in parts if ":" in part] == [
        *("loss", "accuracy", "val_loss", "val_accuracy", "loss", "accuracy"),
        *("loss", "accuracy", "val_loss", "val_accuracy"),
    ]
    assert all(len(line) <= columns for line in lines)
    assert not terminal.screen.cursor.hidden
    assert "validating" in terminal.raw


def test_J_after_an_exception_the_cursor_is_back_and_the_bar_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fail(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch == 1:
                raise OSError("disk")

    terminal = RealTerminal(80, monkeypatch)
    stdout = sys.stdout
    with pytest.raises(OSError, match="disk"):
        fresh().fit(X, Y, batch_size=16, verbose=1, callbacks=Fail())
    assert sys.stdout is stdout
    (line,) = terminal.lines(monkeypatch)
    assert "/4 ━" in line or "/4 ─" in line
    assert not terminal.screen.cursor.hidden
    assert "compiling…" in terminal.raw


def test_J_a_value_wider_than_the_terminal_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = RealTerminal(20, monkeypatch)
    own = screens.Terminal()
    for draw in (own.show, own.show, own.keep):
        draw(["1/2 ━━──"], ["loss: 0.5", "a_name_of_a_metric_that_is_long: 0.1234"])
    lines = terminal.lines(monkeypatch)
    assert lines[:2] == ["1/2 ━━──", "loss: 0.5"]
    assert "".join(lines[2:]).replace(" ", "") == "a_name_of_a_metric_that_is_long:0.1234"


# -- a real notebook


CELL = """
    import os
    os.environ.pop("CI", None)
    import numpy as np
    import epochal as keras
    x, y = np.linspace(-1, 1, 64, dtype=np.float32).reshape(16, 4), np.arange(16) % 3
    model = keras.Sequential([keras.layers.Dense(3, activation="softmax")])
    model.compile("adam", "ce", ["accuracy"])
"""


def test_J_in_a_real_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [
        CELL,
        "history = model.fit(x, y, batch_size=4, epochs=60, validation_data=(x, y), view_metrics='auto')",
        "print(history.history['val_loss'][-1])",
        "model.predict(x);",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(textwrap.dedent(cell)) for cell in cells])
    monkeypatch.setenv("PYTHONPATH", str(Path(keras.__file__).parents[1]))
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    _, fitted, printed, predicted = (cell.outputs for cell in notebook.cells)
    # Outputs that are replaced as they change: two "pages", since notebooks hide what comes after 50 outputs.
    assert {output.output_type for output in fitted} == {"display_data"}
    assert 2 <= len(fitted) <= 4
    lines = "\n".join(output.data["text/plain"] for output in fitted).splitlines()
    assert [line for line in lines if line.startswith("Epoch")] == [f"Epoch {i}/60" for i in range(1, 61)]
    assert sum(line.startswith("4/4 ━━━━━━━━━━━━━━━━ ") for line in lines) == 60
    assert f"val_loss: {float(printed[0].text):.4f}" in lines[-1]
    assert predicted[0].data["text/plain"].startswith("1/1 ━━")
    assert "\\u001b" not in nbformat.writes(notebook)
    assert "\\r" not in nbformat.writes(notebook)


# -- a file


@pytest.mark.parametrize(("verbose", "encoding"), [(1, "utf-8"), (2, "ascii"), ("auto", "utf-8")])
def test_J_a_file_gets_plain_lines(
    verbose: Any, encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    path = tmp_path / "log.txt"
    with path.open("w", encoding=encoding) as file, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", file)
        classifier().fit(X, Y, batch_size=16, epochs=2, verbose=verbose)
    text = path.read_text(encoding=encoding)
    assert [line.split(" - ")[0] for line in text.splitlines()] == ["Epoch 1/2", "4/4", "Epoch 2/2", "4/4"]
    assert text.replace("\n", "").isprintable()


def test_J_signs_that_the_encoding_lacks_are_written_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    with io.TextIOWrapper(io.BytesIO(), encoding="ascii") as file:
        monkeypatch.setattr(sys, "stdout", file)
        screens.Paper().keep(["1/2 ━─", "12µs/step", "compiling…", "größe: 1"])
        monkeypatch.undo()
        file.flush()
        assert file.buffer.getvalue() == b"1/2 =- - 12us/step - compiling... - gr??e: 1\n"


# -- view_metrics


def test_J_view_metrics_is_refused_until_there_is_a_page() -> None:
    model = classifier()
    before = model.get_weights()
    with pytest.raises(ValueError, match="no live page yet"):
        model.fit(X, Y, verbose=0, view_metrics=True)
    assert same(before, model.get_weights())
    model.fit(X, Y, verbose=0, view_metrics="auto")

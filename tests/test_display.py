"""What a user sees while training."""

from __future__ import annotations

import io
from typing import Any

import pytest
from data import digits
from rich.console import Console

import epochal as keras
from epochal import display

X, Y = digits(64)


def classifier() -> keras.Sequential:
    model = keras.Sequential([keras.layers.Dense(10, activation="softmax", input_shape=(64,))])
    model.compile("adam", "ce", ["accuracy"])
    return model


def test_silent_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    model = classifier()
    model.fit(X, Y, epochs=2, verbose=0)
    model.evaluate(X, Y, verbose=0)
    model.predict(X, verbose=0)
    assert capsys.readouterr() == ("", "")


def test_lines_name_the_epoch_only_when_there_are_several(capsys: pytest.CaptureFixture[str]) -> None:
    model = classifier()
    model.fit(X, Y, batch_size=16, epochs=1, verbose=2)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("4/4 - ")
    assert "/step - loss: " in line
    model.fit(X, Y, batch_size=16, epochs=5, initial_epoch=3, verbose=2)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Epoch 4/5"
    assert lines[2] == "Epoch 5/5"


def test_auto_writes_lines_to_a_file_and_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    classifier().fit(X, Y, epochs=1)
    assert capsys.readouterr().out.startswith("2/2 - ")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_on_a_terminal_shows_steps_values_and_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setattr(display, "Console", lambda **_: Console(file=screen, force_terminal=True, width=120))
    classifier().fit(X, Y, batch_size=16, epochs=2, verbose=1)
    text = screen.getvalue()
    assert "compiling…" in text
    assert "Epoch 2/2" in text
    assert "4/4" in text
    assert "accuracy: " in text
    assert text.rstrip().endswith("\x1b[?25h")  # the cursor is shown again


def test_the_cursor_comes_back_after_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setattr(display, "Console", lambda **_: Console(file=screen, force_terminal=True, width=120))

    class Fail(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        classifier().fit(X, Y, verbose=1, callbacks=Fail())
    assert screen.getvalue().rstrip().endswith("\x1b[?25h")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.42, "0.4s"), (12.3, "12s"), (65, "1:05"), (7384, "2:03:04"), (59.7, "60s")]
)
def test_durations(seconds: float, text: str) -> None:
    assert display.duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(1.24e-5, "12µs/step"), (3.14e-3, "3.14ms/step"), (0.25, "250ms/step"), (2.5, "2.5s/step")]
)
def test_seconds_per_step(seconds: float, text: str) -> None:
    assert display.per_step(seconds) == text


def test_small_values_keep_their_digits(capsys: pytest.CaptureFixture[str]) -> None:
    lines = display.Lines()
    lines.epoch_begin(0, 1)
    lines.epoch_end(0, {"loss": 1.23e-5, "accuracy": 0.5, "zero": 0.0})
    out = capsys.readouterr().out
    assert "loss: 1.23e-05" in out
    assert "accuracy: 0.5000" in out
    assert "zero: 0.0000" in out

"""How numbers and lines look."""

from __future__ import annotations

import pytest

from epochal.display import screens
from epochal.display.text import duration, per_step, short


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.42, "0.4s"), (12.3, "12s"), (65, "1:05"), (7384, "2:03:04"), (59.7, "60s")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(1.24e-5, "12µs/step"), (3.14e-3, "3.14ms/step"), (0.25, "250ms/step"), (2.5, "2.5s/step")]
)
def test_seconds_per_step(seconds: float, text: str) -> None:
    assert per_step(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.25, "0.25"), (57.3, "57.3"), (999.4, "999"), (999.6, "1k"), (4561, "4.56k"), (99960, "100k"), (1.2e6, "1.2M")],
)
def test_rates_have_three_digits(number: float, text: str) -> None:
    assert short(number) == text


def test_lines_break_between_values() -> None:
    groups = ["1/2", "30ms/step"], ["loss: 0.5", "val_loss: 0.25", "a_name_that_is_too_long_for_a_line: 1"]
    assert screens.wrapped(groups, 100) == " - ".join([*groups[0], *groups[1]])
    assert screens.wrapped(groups, 30).splitlines() == [
        "1/2 - 30ms/step",
        "loss: 0.5 - val_loss: 0.25",
        "a_name_that_is_too_long_for_a_line: 1",
    ]

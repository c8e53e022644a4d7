"""What the training methods are called with: checked, with an error that says what was expected, and put in order."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any

import numpy as np

from epochal.optimizers import scale_learning_rate
from epochal.registry.checks import is_count

DEFAULT_BATCH_SIZE = 32


def checked_batch_size(given: Any, n: int, name: str = "batch_size") -> int:
    """Examples per step, at most n; `name` is the argument's.

    Raises:
        ValueError: neither "auto", "full" nor an int >= 1.
    """
    if given == "full":
        return n
    if given is None or given == "auto":
        return min(DEFAULT_BATCH_SIZE, n)
    if not is_count(given):
        raise ValueError(f'Expected {name} to be "auto", "full" or an int >= 1, got {given!r}.')
    return min(int(given), n)


def checked_micro_batch_size(given: Any) -> int | str | None:
    """Raises ValueError for anything but "auto", None and an int >= 1, which is returned."""
    if given is None or given == "auto":
        return given
    if not is_count(given):
        raise ValueError(f'Expected micro_batch_size to be "auto", None or an int >= 1, got {given!r}.')
    return int(given)


def checked_steps(name: str, given: Any, endless: bool = False) -> int | None:
    """A number of batches: None, an int >= 1, or -1 when `endless`.

    Raises:
        ValueError: something else.
    """
    if given is None or is_count(given) or (endless and given == -1):
        return given
    raise ValueError(f"Expected {name} to be None or an int >= 1{', or -1' if endless else ''}, got {given!r}.")


def checked_epochs(initial_epoch: Any, epochs: Any) -> range:
    for name, value in (("epochs", epochs), ("initial_epoch", initial_epoch)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
            raise ValueError(f"Expected {name} to be an int >= 0, got {value!r}.")
    return range(int(initial_epoch), int(epochs))


def check_shuffle(shuffle: Any) -> None:
    if not isinstance(shuffle, bool | np.bool_) and shuffle != "batch":
        raise ValueError(f'Expected shuffle to be True, False or "batch", got {shuffle!r}.')


def check_scaling(lr_scaling: Any) -> None:
    if lr_scaling is not None:
        scale_learning_rate(lr_scaling, DEFAULT_BATCH_SIZE, DEFAULT_BATCH_SIZE)


def check_view(view_metrics: Any) -> None:
    if view_metrics not in (False, "auto"):
        raise ValueError(f'Expected view_metrics=False or "auto" (there is no live page yet), got {view_metrics!r}.')


def validation_due(freq: Any) -> Callable[[int], bool]:
    """Whether epoch e, counted from 1, is to be validated."""
    if is_count(freq):
        return lambda epoch: epoch % freq == 0
    if isinstance(freq, Container) and not isinstance(freq, str):
        return lambda epoch: epoch in freq
    raise ValueError(f"Expected validation_freq to be an int >= 1 or a container of epochs, got {freq!r}.")

"""What the training methods are called with: checked, with an error that says what was expected, and put in order."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any

import numpy as np

from epochal.data.streams.indexed import Workforce
from epochal.optimizers import scale_learning_rate
from epochal.registry.checks import is_count

DEFAULT_BATCH_SIZE = 32


@dataclass(frozen=True, eq=False)
class FitArguments:
    """What `fit` was called with, checked as far as that goes without a look at the data; see `Model.fit`.

    Raises:
        ValueError: an argument out of its range.
    """

    x: Any = None
    y: Any = None
    batch_size: Any = None
    epochs: Any = 1
    verbose: Any = "auto"
    callbacks: Any = None
    validation_split: Any = 0.0
    validation_data: Any = None
    shuffle: Any = True
    class_weight: Any = None
    sample_weight: Any = None
    initial_epoch: Any = 0
    steps_per_epoch: Any = None
    validation_steps: Any = None
    validation_batch_size: Any = None
    validation_freq: Any = 1
    max_queue_size: Any = None
    workers: Any = None
    use_multiprocessing: Any = None
    view_metrics: Any = False
    resume_from: Any = None
    profile: Any = None
    lr_scaling: Any = None

    def __post_init__(self) -> None:
        checked_epochs(self.initial_epoch, self.epochs)
        check_shuffle(self.shuffle)
        check_view(self.view_metrics)
        validation_due(self.validation_freq)
        check_scaling(self.lr_scaling)
        checked_batch_size(self.validation_batch_size, 1, "validation_batch_size")
        _ = self.workforce
        checked_steps("validation_steps", self.validation_steps)
        checked_steps("steps_per_epoch", self.steps_per_epoch, endless=True)

    @property
    def given(self) -> tuple[Any, Any, Any]:
        """x, y and sample_weight."""
        return self.x, self.y, self.sample_weight

    @property
    def span(self) -> range:
        """The epochs to run."""
        return checked_epochs(self.initial_epoch, self.epochs)

    @property
    def workforce(self) -> Workforce:
        """Who makes a `PyDataset`'s batches."""
        return Workforce(self.workers, self.use_multiprocessing, self.max_queue_size)

    def validates(self, epoch: int) -> bool:
        """Whether epoch number `epoch`, counted from 0, is validated, if there is data for it."""
        return validation_due(self.validation_freq)(epoch + 1)


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

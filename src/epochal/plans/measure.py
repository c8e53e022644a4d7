"""Measures what a batch plan is made of, and makes the plan: from programs and examples to a `BatchPlan`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from epochal.engine.objective.labels import check_labels
from epochal.plans.measurements import Measurements
from epochal.plans.plan import BatchPlan, make_plan
from epochal.plans.step_times import StepTimes, Timed, middle_of
from epochal.plans.trial_model import Prepared, Stopwatch, TrialModel
from epochal.plans.trial_noise import Heard, train_and_listen
from epochal.registry.checks import is_count
from epochal.runtime import memory

FORWARD = 1 / 3  # of the seconds per example in training, without the gradient


@dataclass(frozen=True)
class PlanRequest:
    """How a plan is to be measured.

    Attributes:
        memory_limit, batch_sizes, max_seconds, seed: as `plan_batch_size` takes them.
        epochs: that are to be trained: measuring takes no longer than they would. None: that is not known.
        validation: how many examples are validated on, and how many times per epoch.

    Raises:
        ValueError: an argument out of its range.
    """

    memory_limit: Any = None
    batch_sizes: Any = None
    max_seconds: Any = 60
    seed: int = 0
    epochs: int | None = None
    validation: tuple[int, float] = (0, 0.0)

    def __post_init__(self) -> None:
        seconds = self.max_seconds
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
            raise ValueError(f"Expected max_seconds to be a number > 0, got {seconds!r}.")
        self.sizes(1)
        if self.memory_limit is not None:
            memory.parsed(self.memory_limit, "memory_limit")

    def sizes(self, n: int) -> tuple[int, ...] | None:
        """The sizes to choose from, in order; at most n. None: any."""
        if self.batch_sizes is None:
            return None
        given: list[Any] = list(self.batch_sizes) if isinstance(self.batch_sizes, list | tuple | range) else []
        sizes = [n if m == "full" else m for m in given]
        if not sizes or not all(is_count(m) for m in sizes):
            raise ValueError(f'Expected batch_sizes to be a list of ints >= 1 and "full", got {self.batch_sizes!r}.')
        return tuple(sorted({min(int(m), n) for m in sizes}))


def measure(prepared: Prepared, request: PlanRequest, watch: Stopwatch) -> BatchPlan:
    """The plan for a model and its data, measured on copies of the model's arrays.

    Args:
        prepared: programs, optimizer and examples; all are the same afterwards.
        request: how.
        watch: began when measuring did.

    Raises:
        ValueError: labels that the losses cannot take, or not even a step with one example fits into memory.
    """
    check_labels(prepared.programs.objective, prepared.examples)
    sizes = request.sizes(prepared.n)
    trial = TrialModel(prepared, request.seed)
    times = StepTimes(trial, watch, request.memory_limit)
    fitting, max_seconds = times.compile(sizes, request.max_seconds, request.epochs)
    timed = times.timed(fitting, max_seconds)
    heard = train_and_listen(trial, middle_of(timed.seconds), watch, max_seconds, request.epochs)
    found = measurements(
        prepared.n, timed, heard, request.validation, batch_sizes=sizes, piece=trial.piece, took=watch.elapsed
    )
    return make_plan(found)


def measurements(
    n: int,
    timed: Timed,
    heard: Heard,
    validation: tuple[int, float] = (0, 0.0),
    *,
    batch_sizes: tuple[int, ...] | None = None,
    piece: int | None = None,
    took: float = 0.0,
) -> Measurements:
    """All that was measured. Validation counts as a pass of which the steps take a FORWARD part of training ones.

    Args:
        n: training examples.
        timed, heard: what steps take, and how noisy the gradient is.
        validation: as of a `PlanRequest`.
        batch_sizes, piece: as of `Measurements`.
        took: seconds of measuring.
    """
    # A batch can be padded to a larger one, so no size takes longer than one above it.
    seconds = {m: min(s for size, s in timed.seconds.items() if size >= m) for m in timed.seconds}
    rows, passes = validation
    validating = timed.epoch_seconds + FORWARD * rows * min(s / m for m, s in seconds.items())
    return Measurements(
        n,
        seconds,
        timed.epoch_seconds + passes * validating,
        timed.bytes,
        timed.limit,
        heard.noise,
        heard.trained,
        batch_sizes,
        (*timed.notes, *heard.notes),
        took,
        piece,
        rows,
    )

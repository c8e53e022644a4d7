"""What a plan is made of: measured figures as plain numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from epochal.critical_batch import NoiseEstimate
from epochal.runtime.memory import Limit

SHOWN = (32, 64, 128, 256)  # sizes that people know, always among the table's rows


@dataclass(frozen=True)
class Measurements:
    """What was measured.

    Attributes:
        n: training examples.
        seconds: batch size -> seconds per step.
        epoch_seconds: c, seconds per epoch beside its steps, validation included.
        bytes: batch size -> bytes that a step needs; empty where programs are not compiled.
        limit: how much memory there is.
        noise: the gradient noise scale; None where it cannot be measured.
        trained: updates that a copy of the model had been trained for where the noise was measured.
        batch_sizes: the only ones to choose from; None leaves it open.
        notes: sentences on what went into the measurement.
        measuring_seconds: how long all of it took.
        piece: examples that are run at once, as `compile(micro_batch_size=…)` was told; None: as many as fit.
        validated: examples that are validated on.
    """

    n: int
    seconds: Mapping[int, float]
    epoch_seconds: float
    bytes: Mapping[int, int]
    limit: Limit
    noise: NoiseEstimate | None
    trained: int = 0
    batch_sizes: tuple[int, ...] | None = None
    notes: tuple[str, ...] = ()
    measuring_seconds: float = 0.0
    piece: int | None = None
    validated: int = 0


@runtime_checkable
class PlanFigures(Protocol):
    """The figures of a plan, as sentences and pictures need them; see `BatchPlan`."""

    @property
    def measurements(self) -> Measurements: ...

    @property
    def batch_size(self) -> int: ...

    @property
    def optimum(self) -> float | None: ...

    @property
    def straight(self) -> bool: ...

    @property
    def max_batch_size(self) -> int: ...

    @property
    def half_throughput_batch(self) -> float: ...

    @property
    def critical_batch_size(self) -> Any: ...

    def seconds_per_step(self, m: int) -> float: ...

    def memory(self, m: int) -> int | None: ...

    def expected_seconds_to_target(self, m: int) -> float: ...

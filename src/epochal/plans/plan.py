"""From measurements to a batch size: plain formulas over plain numbers, and the words and pictures of the result.

Seconds per step t(m) = a + b m, and c seconds per epoch beside the steps. Updates to a target S(m) = S_min (1 + B / m)
(McCandlish et al. 2018, arXiv:1812.06162; B is the critical batch size). With n examples an update has c m / n of the
epochs' seconds, so the time to the target is T(m) = S_min (1 + B / m) (a + (b + c / n) m), which is least at
m* = sqrt(a / (b + c / n) B). Pollux's goodput (Qiao et al. 2021, OSDI) has the same optimum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from epochal.critical_batch import NoiseEstimate
from epochal.plans.choice import CROOKED, best_size, chosen, cost, line, max_batch_size, memory_of, seconds_of
from epochal.plans.measurements import SHOWN, Measurements
from epochal.plans.plot import draw
from epochal.plans.reasons import duration, reasons
from epochal.runtime.memory import Limit
from epochal.support.text import shown


@dataclass(frozen=True)
class BatchPlan:
    """A batch size for a model, its data and this machine, with all that speaks for it.

    Attributes:
        batch_size: the recommended one.
        micro_batch_size: as much of it as is run at once: what fits into memory, or less where `compile` was told so.
        max_batch_size: the largest one of which a step, as it is run, fits into memory; at most n.
        optimum: m* as the formula gives it, before it is rounded and capped; None where the noise is not known, or
            seconds do not grow in a straight line.
        critical_batch_size: the gradient noise scale with its interval; None where it was not measured.
        half_throughput_batch: a / b, with which half the speed of the largest batches is reached.
        measurements: what it is made of.
        why: sentences.
    """

    batch_size: int
    micro_batch_size: int
    max_batch_size: int
    optimum: float | None
    critical_batch_size: NoiseEstimate | None
    half_throughput_batch: float
    measurements: Measurements
    straight: bool = True
    why: tuple[str, ...] = field(default=(), repr=False)

    def memory(self, m: int) -> int | None:
        """Bytes that a step with m examples needs as it is run, as predicted; None where programs are not compiled."""
        return memory_of(self.measurements.bytes, m)

    def seconds_per_step(self, m: int) -> float:
        """Seconds that a step with m examples takes."""
        return seconds_of(self.measurements, m)

    def expected_seconds_to_target(self, m: int) -> float:
        """Seconds to the same loss as with the recommended size, which is 1."""
        return cost(self.measurements, m) / cost(self.measurements, self.batch_size)

    def rows(self) -> list[dict[str, Any]]:
        """The table's rows, by size: the recommended one, 32, 64, 128, 256, the largest that fits, and all examples."""
        n = self.measurements.n
        sizes = {*(size for size in SHOWN if size < n), self.batch_size, self.max_batch_size, n}
        sizes |= set(self.measurements.batch_sizes or ())
        return [self._row(size) for size in sorted(sizes) if 1 <= size <= n]

    def _row(self, m: int) -> dict[str, Any]:
        seconds = self.seconds_per_step(m)
        return {
            "batch_size": m,
            "steps_per_epoch": -(-self.measurements.n // m),
            "seconds_per_step": seconds,
            "examples_per_second": m / seconds,
            "memory": self.memory(m),
            "fits": m <= self.max_batch_size,
            "extrapolated": m > max(self.measurements.seconds),
            "seconds_to_target": self.expected_seconds_to_target(m),
            "recommended": m == self.batch_size,
        }

    def table(self) -> str:
        """The rows as text."""
        head = ("batch size", "steps/epoch", "time/step", "examples/s", "memory", "relative time to target", "")
        lines: list[tuple[str, ...]] = [head]
        for row in self.rows():
            m = row["batch_size"]
            name = f"{m} (full)" if m == self.measurements.n else str(m)
            marks = {"recommended": row["recommended"], "does not fit whole": not row["fits"]}
            marks["extrapolated"] = row["extrapolated"]
            mark = ", ".join(name for name, holds in marks.items() if holds)
            mark = f"← {mark}" if row["recommended"] else mark
            memory = "?" if row["memory"] is None else shown(row["memory"])
            numbers = (duration(row["seconds_per_step"]), f"{row['examples_per_second']:,.0f}", memory)
            lines.append((name, f"{row['steps_per_epoch']:,}", *numbers, f"{row['seconds_to_target']:.2f}", mark))
        widths = [max(len(cells[i]) for cells in lines) for i in range(len(head) - 1)]
        padded = ("  ".join([*map(str.rjust, cells, widths), cells[-1]]).rstrip() for cells in lines)
        return "\n".join(padded)

    def __str__(self) -> str:
        return "\n".join([f"batch size {self.batch_size}", "", self.table(), "", *self.why])

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON data; what is infinite is the text "inf"."""
        found, noise = self.measurements, self.critical_batch_size
        kept = (
            None
            if noise is None
            else {name: getattr(noise, name) for name in ("value", "low", "high", "grad_sq", "trace", "examples")}
        )
        return _plain(
            {
                "batch_size": self.batch_size,
                "micro_batch_size": self.micro_batch_size,
                "max_batch_size": self.max_batch_size,
                "optimum": self.optimum,
                "critical_batch_size": kept,
                "half_throughput_batch": self.half_throughput_batch,
                "epoch_seconds": found.epoch_seconds,
                "memory_limit": found.limit.bytes,
                "memory_limit_source": found.limit.source,
                "examples": found.n,
                "measured_after_updates": found.trained,
                "batch_sizes": found.batch_sizes,
                "notes": found.notes,
                "measuring_seconds": found.measuring_seconds,
                "piece": found.piece,
                "validation_examples": found.validated,
                "measured": [
                    {"batch_size": m, "seconds_per_step": found.seconds.get(m), "memory": found.bytes.get(m)}
                    for m in sorted({*found.seconds, *found.bytes})
                ],
                "table": self.rows(),
                "why": list(self.why),
            }
        )

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> BatchPlan:
        """The plan that `to_dict` described."""
        noise, measured = data["critical_batch_size"], data["measured"]
        if noise is not None:
            numbers = {name: float(value) for name, value in noise.items() if name != "examples"}
            noise = NoiseEstimate(**numbers, examples=noise["examples"], n=data["examples"])
        found = Measurements(
            data["examples"],
            {row["batch_size"]: row["seconds_per_step"] for row in measured if row["seconds_per_step"] is not None},
            data["epoch_seconds"],
            {row["batch_size"]: row["memory"] for row in measured if row["memory"] is not None},
            Limit(data["memory_limit"], data["memory_limit_source"]),
            noise,
            data["measured_after_updates"],
            None if data["batch_sizes"] is None else tuple(data["batch_sizes"]),
            tuple(data["notes"]),
            data["measuring_seconds"],
            data.get("piece"),
            data.get("validation_examples", 0),
        )
        return make_plan(found)

    def plot(self, path: str | Path | None = None) -> Any:
        """The three curves against the batch size: time per example, updates to a target, time to it.

        Args:
            path: where to write a picture; the suffix says in which format.

        Returns:
            a matplotlib `Figure`.
        """
        return draw(self, path)


def make_plan(found: Measurements) -> BatchPlan:
    """The recommendation that follows from measurements."""
    straight = line(found.seconds)
    largest = max_batch_size(found)
    optimum = best_size(found)
    size = chosen(found, largest)
    half = straight.a / straight.b if straight.b > 0 else math.inf
    cut = min(size, largest, found.piece or size)
    plan = BatchPlan(size, cut, largest, optimum, found.noise, half, found, straight.error <= CROOKED)
    return BatchPlan(**{**vars(plan), "why": reasons(plan, straight)})


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value

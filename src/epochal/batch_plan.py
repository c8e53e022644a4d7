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

import numpy as np

from epochal.critical_batch import NoiseEstimate
from epochal.memory import Limit, shown

SHOWN = (32, 64, 128, 256)  # sizes that people know, always among the table's rows
_CROOKED = 0.15  # a line that is further off than this is not used
_ALIKE = 0.1  # sizes whose times to a target differ by less are not told apart


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


@dataclass(frozen=True)
class Line:
    """A straight line through (m, value), fitted to relative errors.

    Attributes:
        a, b: value(m) = a + b m, both >= 0.
        error: the largest relative error at a measured size.
    """

    a: float
    b: float
    error: float

    def __call__(self, m: float) -> float:
        return self.a + self.b * m


def line(points: Mapping[int, float]) -> Line:
    """The line a + b m with a, b >= 0 and the least sum of squared relative errors; of one point, a = b m."""
    m, values = np.array(sorted(points.items()), float).T
    columns = np.stack([1 / values, m / values], axis=1)
    if len(m) > 1:
        a, b = np.linalg.lstsq(columns, np.ones(len(m)), rcond=None)[0]
    else:  # nothing is known: half and half
        a, b = values[0] / 2, values[0] / 2 / m[0]
    if a < 0 or b < 0:  # the best line with one of them zero
        column = columns[:, 1 if a < 0 else 0]
        only = float(column.sum() / (column @ column))
        a, b = (0.0, only) if a < 0 else (only, 0.0)
    return Line(float(a), float(b), float(np.max(np.abs(columns @ [a, b] - 1))))


def between(points: Mapping[int, float], m: float) -> float:
    """A value between measured ones, straight on logarithmic scales.

    Above them it goes on in proportion to the nearest two, or to m where they say less; below, it stays.
    """
    sizes = np.log(np.array(sorted(points), float))
    values = np.log([points[size] for size in sorted(points)])
    at = math.log(m)
    i = int(np.clip(np.searchsorted(sizes, at), 1, len(sizes) - 1)) if len(sizes) > 1 else 0
    if i == 0:
        return float(np.exp(values[0]))
    slope = (values[i] - values[i - 1]) / (sizes[i] - sizes[i - 1])
    if at <= sizes[0]:
        return float(np.exp(values[0]))
    if at > sizes[-1]:
        return float(np.exp(values[-1] + max(slope, 1.0) * (at - sizes[-1])))
    return float(np.exp(values[i - 1] + slope * (at - sizes[i - 1])))


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
    plan = BatchPlan(size, cut, largest, optimum, found.noise, half, found, straight.error <= _CROOKED)
    return BatchPlan(**{**vars(plan), "why": reasons(plan, straight)})


def critical(found: Measurements) -> float:
    """B as the choice takes it: the noise scale, at most n, since no step can have more than all examples.

    Where the mean gradient cannot be told from zero it is the interval's lower end. Where nothing is known, as many
    examples as a batch that people take without asking.
    """
    if found.noise is None:
        return float(min(SHOWN[0], found.n))
    value = found.noise.value if found.noise.resolved else max(found.noise.low, 1.0)
    return float(min(value, found.n))


def seconds_of(found: Measurements, m: int) -> float:
    """t(m): as measured, else by the line where it is straight, else between the measured sizes."""
    if m in found.seconds:
        return found.seconds[m]
    fitted = line(found.seconds)
    return fitted(m) if fitted.error <= _CROOKED else between(found.seconds, m)


def memory_of(measured: Mapping[int, int], m: int) -> int | None:
    """Bytes for m examples, straight between measured sizes and beyond."""
    if not measured:
        return None
    sizes = sorted(measured)
    if len(sizes) == 1:
        return int(measured[sizes[0]] * max(m / sizes[0], 1))
    i = int(np.clip(np.searchsorted(sizes, m), 1, len(sizes) - 1))
    low, high = sizes[i - 1], sizes[i]
    slope = (measured[high] - measured[low]) / (high - low)
    return max(int(measured[low] + slope * (m - low)), 1)


def max_batch_size(found: Measurements) -> int:
    """The largest m ≤ n with memory(m) within the limit; 1 where none is.

    Where one at most an eighth smaller was compiled, it is that one: it is known to fit, and its program is there.
    """
    most = largest_within(found.bytes, found.limit.bytes, found.n)
    compiled = max((m for m in found.bytes if m <= most), default=0)
    return compiled if most < found.n and most - compiled <= most // 8 else most


def largest_within(measured: Mapping[int, int], limit: int, n: int) -> int:
    """The largest m ≤ n of which the need, straight between measured sizes, is within the limit; 1 where none is."""
    if not measured:
        return n
    low, high = 1, n
    while low < high:
        middle = (low + high + 1) // 2
        needed = memory_of(measured, middle)
        low, high = (middle, high) if needed is None or needed <= limit else (low, middle - 1)
    return low


def cost(found: Measurements, m: int) -> float:
    """Seconds to a target, but for the factor S_min.

    A short last batch is padded, so a pass takes ceil(n / m) whole steps: updates count for the examples that they have
    on average.
    """
    steps = -(-found.n // m)
    examples = found.n / steps
    return (1 + critical(found) / examples) * (seconds_of(found, m) + found.epoch_seconds / steps)


def best_size(found: Measurements) -> float | None:
    """m* of the formula; None where the noise is not known, or no line fits the seconds."""
    fitted = line(found.seconds)
    if found.noise is None or fitted.error > _CROOKED:
        return None
    slope = fitted.b + found.epoch_seconds / found.n
    return math.sqrt(fitted.a / slope * critical(found)) if slope > 0 else float(found.n)


def chosen(found: Measurements, largest: int) -> int:
    """The smallest power of two that costs hardly more than the best size; the best size where there is none.

    A factor of two beside m* costs at most an eighth, and B is not known better than to such a factor. Of sizes that
    are alike the smallest needs the least memory, and suits targets that are reached early: the noise grows.
    """
    if found.batch_sizes is not None:
        fitting = [m for m in found.batch_sizes if m <= largest] or [min(found.batch_sizes)]
        return min(fitting, key=lambda m: cost(found, m))
    top, low = min(found.n, largest), 1
    if line(found.seconds).error > _CROOKED or len(found.seconds) == 2:  # two cannot show a bend
        top = min(top, max(found.seconds))  # nothing is said of sizes beyond those that were measured
    if len(found.seconds) < 3:
        far = 4 if len(found.seconds) == 1 else 2
        top, low = min(top, far * max(found.seconds)), min(min(found.seconds) // far, top)
    powers = {2**k for k in range(top.bit_length()) if 2**k >= low} | ({top} if top == found.n else set())
    finer = powers | {int(m) // 8 * 8 for m in np.geomspace(8, max(top, 8), 200) if max(low, 8) <= m <= top} | {top}
    best = min(sorted(finer), key=lambda m: cost(found, m))
    return min((m for m in powers if cost(found, m) <= (1 + _ALIKE) * cost(found, best)), default=best)


# -- words and pictures


def reasons(plan: BatchPlan, straight: Line) -> tuple[str, ...]:
    """Why this size: the three curves with their uncertainty, and what would change the answer."""
    return (*_why_this(plan), _why_machine(plan, straight), _why_noise(plan), _why_memory(plan), *_what_else(plan))


def _why_this(plan: BatchPlan) -> list[str]:
    found = plan.measurements
    if found.noise is None:
        return [f"{plan.batch_size} is by speed alone, since the noise of the gradient was not measured."]
    if found.batch_sizes is not None:
        return [f"Of the sizes asked for, {plan.batch_size} is expected to take the least time to a target."]
    text = "Machine and problem together have their best at "
    text += "one of the measured sizes" if plan.optimum is None else f"m* = {plan.optimum:.0f}"
    if plan.batch_size == found.n:
        return [f"{text}; all {found.n:,} examples are taken at once."]
    if plan.batch_size == plan.max_batch_size and plan.optimum is not None and plan.optimum > plan.batch_size:
        return [f"{text}; more than {plan.max_batch_size:,} do not fit into memory."]
    around = [m for m in (plan.batch_size // 2, plan.batch_size * 2) if 1 <= m <= found.n]
    prices = " and ".join(f"{m} would take {plan.expected_seconds_to_target(m):.2f} times as long" for m in around)
    power = f"is the smallest power of two within {_ALIKE:.0%} of" if plan.batch_size.bit_count() == 1 else "takes"
    return [f"{text}; {plan.batch_size} {power} the least time to a target; {prices}."]


def _why_machine(plan: BatchPlan, straight: Line) -> str:
    found = plan.measurements
    judged = f", validation on {found.validated:,} examples included" if found.validated else ""
    epoch = f"An epoch takes {duration(found.epoch_seconds)} beside its steps{judged}."
    sizes = ", ".join(map(str, sorted(found.seconds)))
    if not plan.straight:
        return (
            f"Machine: time per step does not grow in a straight line (it is up to {straight.error:.0%} off), so the "
            f"measured sizes {sizes} count, and nothing is said beyond them. {epoch}"
        )
    known = "half of it taken to be the step's own" if len(found.seconds) == 1 else f"within {straight.error:.0%}"
    step = f"a step takes {duration(straight.a)} + {duration(straight.b)} per example ({known})"
    half = f"half the speed of the largest batches at {plan.half_throughput_batch:,.0f}"
    return f"Machine: {step}: {half}. {epoch}"


def _why_noise(plan: BatchPlan) -> str:
    found, noise = plan.measurements, plan.critical_batch_size
    if noise is None:
        return "Problem: the noise of the gradient could not be measured."
    where = f"over the first {found.trained:,} updates of a copy of the model"
    if not noise.resolved:
        return (
            f"Problem: {where} the gradient's noise scale is at least {noise.low:,.0f}; {noise.examples:,} examples do "
            "not tell the mean gradient from zero. The true one may be larger, and the best size with its square root."
        )
    text = f"critical batch size {noise.value:,.0f} (95 %: {noise.low:,.0f} … {noise.high:,.0f}) {where}"
    fitted = line(found.seconds)
    slope = fitted.b + found.epoch_seconds / found.n
    if slope <= 0 or plan.optimum is None:
        return f"Problem: {text}."
    low, high = (math.sqrt(fitted.a / slope * min(b, found.n)) for b in (max(noise.low, 0), noise.high))
    return f"Problem: {text}, which makes m* {low:,.0f} … {high:,.0f}. It grows with longer training."


def _why_memory(plan: BatchPlan) -> str:
    found = plan.measurements
    if not found.bytes:
        return "Memory: not known, since steps run as plain Python."
    needed = plan.memory(plan.batch_size)
    cut = "" if found.piece is None else f", in micro-batches of {found.piece}"
    there = f"{shown(found.limit.bytes)} ({found.limit.source})"
    most = "all examples fit at once" if plan.max_batch_size == found.n else f"up to {plan.max_batch_size:,} fit"
    return f"Memory: a step needs {shown(needed or 0)} of {there}; {most}{cut}."


def _what_else(plan: BatchPlan) -> list[str]:
    text = (
        "This holds for a learning rate tuned for the size. Another machine, model or data, a loss to reach that is "
        "much lower, or memory that is taken by something else would change it."
    )
    return [*plan.measurements.notes, text]


def duration(seconds: float) -> str:
    """A time in a unit of three digits: "8.43 ms"."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 0.9995:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def draw(plan: BatchPlan, path: str | Path | None) -> Any:
    """See `BatchPlan.plot`."""
    from matplotlib.figure import Figure

    found = plan.measurements
    sizes = np.unique(np.geomspace(1, found.n, 120).astype(int))
    b = critical(found)
    panels = [
        ("time per example", "µs", [1e6 * plan.seconds_per_step(int(m)) / m for m in sizes]),
        ("updates to a target", "times the least", [1 + b / m for m in sizes]),
        ("time to a target", "times the recommended", [plan.expected_seconds_to_target(int(m)) for m in sizes]),
    ]
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    for i, (title, unit, values) in enumerate(panels, start=1):
        axes = figure.add_subplot(1, 3, i)
        axes.plot(sizes, values, color="#2f6fb2", linewidth=1.8)
        if i == 1:
            points = sorted(found.seconds.items())
            axes.plot([m for m, _ in points], [1e6 * s / m for m, s in points], "o", color="#2b2b2b", label="measured")
        if i == 2 and found.noise is not None:
            low, high = (min(max(end, 0.0), found.n) for end in (found.noise.low, found.noise.high))
            axes.fill_between(sizes, 1 + low / sizes, 1 + high / sizes, color="#2f6fb2", alpha=0.2, label="95 %")
        axes.axvline(plan.batch_size, color="#d9622b", linewidth=1.4, label=f"recommended: {plan.batch_size}")
        if plan.max_batch_size < found.n:
            axes.axvspan(plan.max_batch_size, found.n, color="#8a8a8a", alpha=0.2, label="does not fit")
        axes.set(xscale="log", yscale="log", xlabel="batch size", ylabel=unit)
        axes.set_title(title, loc="left", fontsize=10)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8.5)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value

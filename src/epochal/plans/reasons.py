"""Why a plan recommends what it recommends, in sentences."""

from __future__ import annotations

import math

from epochal.plans.choice import ALIKE, Line, line
from epochal.plans.measurements import PlanFigures
from epochal.support.text import shown

# -- words and pictures


def reasons(plan: PlanFigures, straight: Line) -> tuple[str, ...]:
    """Why this size: the three curves with their uncertainty, and what would change the answer."""
    return (*_why_this(plan), _why_machine(plan, straight), _why_noise(plan), _why_memory(plan), *_what_else(plan))


def _why_this(plan: PlanFigures) -> list[str]:
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
    power = f"is the smallest power of two within {ALIKE:.0%} of" if plan.batch_size.bit_count() == 1 else "takes"
    return [f"{text}; {plan.batch_size} {power} the least time to a target; {prices}."]


def _why_machine(plan: PlanFigures, straight: Line) -> str:
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


def _why_noise(plan: PlanFigures) -> str:
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


def _why_memory(plan: PlanFigures) -> str:
    found = plan.measurements
    if not found.bytes:
        return "Memory: not known, since steps run as plain Python."
    needed = plan.memory(plan.batch_size)
    cut = "" if found.piece is None else f", in micro-batches of {found.piece}"
    there = f"{shown(found.limit.bytes)} ({found.limit.source})"
    most = "all examples fit at once" if plan.max_batch_size == found.n else f"up to {plan.max_batch_size:,} fit"
    return f"Memory: a step needs {shown(needed or 0)} of {there}; {most}{cut}."


def _what_else(plan: PlanFigures) -> list[str]:
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

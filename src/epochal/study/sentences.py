"""What a study says, in sentences and in a table for the terminal."""

from __future__ import annotations

import math
from typing import Any

_NEARLY = 1.25  # so many times the least time counts as nearly as fast


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits; a dash where there is none."""
    if value is None:
        return "—"
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) >= 10**digits:
        return f"{float(f'{value:.{digits}g}'):,.0f}"
    return f"{value:.{digits}g}" if abs(value) >= 1e-3 else f"{value:.{digits - 1}g}"


def duration(seconds: float | None) -> str:
    """Seconds with a unit in which they are easy to read."""
    if seconds is None:
        return "—"
    for size, unit in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= size:
            return f"{number(seconds / size)} {unit}"
    return f"{number(seconds / 1e-6)} µs"


def size_of_memory(count: int | None) -> str:
    """Bytes in megabytes or gigabytes."""
    if count is None:
        return "—"
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def spread(mean: float | None, std: float | None, digits: int = 4) -> str:
    """A mean with its standard deviation over seeds."""
    if mean is None:
        return "—"
    return number(mean, digits) + ("" if std is None else f" ± {number(std, 2)}")


def outcome(row: dict[str, Any], reading: str, key: str) -> str:
    """A row's value in a reading, or why there is none."""
    if row[f"{reading}_seeds"]:
        return spread(row[f"{reading}_{key}"], row[f"{reading}_{key}_std"])
    return "diverged" if "diverged" in row["status"] else "—"


# -- what this says


def summary(study: Any) -> list[str]:
    """The study in a few sentences: which size to take and why, and what the two readings say."""
    said = [_advice(study), _reading(study, "equal_epochs"), _reading(study, "equal_updates"), _critical(study)]
    broken = [row for row in study.table if row["status"] != "ok"]
    said += [f"Batch size {row['label']}: {row['status']}." for row in broken]
    return [sentence for sentence in said if sentence]


def _advice(study: Any) -> str:
    name = study.judge.key
    rows = [row for row in study.table if row["all_at_target"] and row["seconds_to_target"]]
    if study.target is None:
        return "Every fit diverged: try smaller learning rates."
    if not rows:
        return f"No batch size came to {name} {study.target:g} with all seeds: train longer, or set an easier target."
    best = min(rows, key=lambda row: row["seconds_to_target"])
    said = (
        f"Take batch size {best['label']}: it came to {name} {study.target:g} in the least training time, "
        f"{duration(best['seconds_to_target'])} ({number(best['updates_to_target'])} updates, "
        f"{number(best['epochs_to_target'])} epochs)."
    )
    others = [
        f"{row['label']} ({row['seconds_to_target'] / best['seconds_to_target']:.2g} times as long)"
        for row in rows
        if row is not best and row["seconds_to_target"] <= _NEARLY * best["seconds_to_target"]
    ]
    slow = max(rows, key=lambda row: row["seconds_to_target"])
    if others:
        said += f" Nearly as fast: {', '.join(others)}."
    if slow["seconds_to_target"] > _NEARLY * best["seconds_to_target"]:
        said += (
            f" Slowest was {slow['label']}, {slow['seconds_to_target'] / best['seconds_to_target']:.2g} times as long."
        )
    return said


def _reading(study: Any, reading: str) -> str:
    """Who is best after the same epochs, or updates, and what it cost the others."""
    key, protocol = study.judge.key, study.protocol
    rows = [row for row in study.table if row[f"{reading}_{key}"] is not None]
    if not rows:
        return ""
    ranked = sorted(rows, key=lambda row: float(study.judge.losses([row[f"{reading}_{key}"]])[0]))
    best, worst = ranked[0], ranked[-1]
    alike = [row["label"] for row in ranked[1:] if not _differs(best, row, f"{reading}_{key}")]
    small, large = rows[0], rows[-1]
    if reading == "equal_epochs":
        begin = f"After the same {protocol.epochs} epochs"
        cost = (
            f"In these, batch {small['label']} makes {protocol.epochs * small['updates_per_epoch']:,} updates, and "
            f"batch {large['label']} makes {protocol.epochs * large['updates_per_epoch']:,}."
        )
    else:
        begin = f"After the same {protocol.updates:,} updates"
        seen = [protocol.updates * min(row["batch_size"], protocol.n) for row in (small, large)]
        cost = (
            f"In these, batch {small['label']} sees {seen[0]:,} examples, and batch {large['label']} sees {seen[1]:,}."
        )
    said = f"{begin}, {key} is best with batch size {best['label']}: {_value(best, reading, key)}"
    if alike:
        said += f" (no different beyond chance: {', '.join(alike)})"
    if worst is not best and worst["label"] not in alike:
        said += f", and worst with {worst['label']}: {_value(worst, reading, key)}"
    return f"{said}. {cost}"


def _value(row: dict[str, Any], reading: str, key: str) -> str:
    return spread(row[f"{reading}_{key}"], row[f"{reading}_{key}_std"])


def _differs(a: dict[str, Any], b: dict[str, Any], name: str) -> bool:
    """Whether two means over seeds differ by more than two standard errors; with one seed, whether they differ."""
    stds = [row[f"{name}_std"] for row in (a, b)]
    if None in stds:
        return a[name] != b[name]
    reading = name.removesuffix(name.partition("_val_")[1] + name.partition("_val_")[2])
    error = math.sqrt(sum(std**2 / row[f"{reading}_seeds"] for std, row in zip(stds, (a, b), strict=True)))
    return abs(a[name] - b[name]) > 2 * error


def _critical(study: Any) -> str:
    law = study.fit()
    if law is None:
        return ""
    low, high = number(law.low), "∞" if not math.isfinite(law.high) else number(law.high)
    if high == "∞" or law.low == 0:
        return (
            f"These sizes tell the critical batch size only roughly: {number(law.value)} (95 %: {low} … {high}). It is "
            "where twice the least updates and twice the least examples are needed to the target."
        )
    return (
        f"The critical batch size is {number(law.value)} (95 %: {low} … {high}): well below it, twice the batch takes "
        f"half the updates to the target; well above it, hardly fewer ({number(law.min_steps)} at least)."
    )


BOTH_TRUE = (
    "Both readings are true: equal epochs asks what a pass over the data is worth, equal updates what a change of the "
    "weights is worth; neither asks for time, which the target does."
)


# -- the terminal


def terminal_table(study: Any) -> str:
    """The table and the sentences, as text."""
    key = study.judge.key
    head = [
        "batch",
        "updates/epoch",
        "s/update",
        "examples/s",
        "memory",
        f"{key}, {study.protocol.epochs} epochs",
        f"{study.protocol.updates:,} updates",
        "updates to target",
        "time to target",
    ]
    lines = [head, *[_terminal_row(row, key) for row in study.table]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    text = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    target = "" if study.target is None else f"Target: {key} {study.target:g}. "
    told = [f"{target}Learning rates: {rates_in_words(study)}.", *summary(study), BOTH_TRUE]
    return "\n".join([*text, "", *told])


def _terminal_row(row: dict[str, Any], key: str) -> list[str]:
    reached = row["all_at_target"]
    return [
        row["label"],
        f"{row['updates_per_epoch']:,}",
        duration(row["seconds_per_step"]),
        number(row["examples_per_second"]),
        size_of_memory(row["memory_bytes"]),
        outcome(row, "equal_epochs", key),
        outcome(row, "equal_updates", key),
        number(row["updates_to_target"]) if reached else f"{row['target_seeds']} there",
        duration(row["seconds_to_target"]) if reached else "—",
    ]


def rates_in_words(study: Any) -> str:
    """How the learning rates came about."""
    rates = study.protocol.rates
    if not isinstance(rates, str):
        return f"the best of {', '.join(f'{rate:g}' for rate in rates)} for each size"
    return {
        "tune": "tuned for each size and reading on the validation examples (first seed)",
        "linear": "the compiled one for batches of 32, scaled in proportion to the batch",
        "sqrt": "the compiled one for batches of 32, scaled with the square root of the batch",
        "fixed": "the compiled one for every size",
    }[rates]

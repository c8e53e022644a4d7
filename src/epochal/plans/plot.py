"""A plan as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from epochal.plans.choice import critical
from epochal.plans.measurements import PlanFigures


def draw(plan: PlanFigures, path: str | Path | None) -> Any:
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

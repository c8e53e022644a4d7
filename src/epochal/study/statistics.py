"""What the fits of a study come to: choice of learning rates, target, updates to it, and the table. Pure functions.

A fit is a dict: `size`, `rate`, `seed`; `updates`, when it was evaluated; `seconds` of training until then; for loss
and metric lists with a value per evaluation, `loss` and `val_loss` say; `diverged`, the number of updates after which
its loss was no finite number, or None; `memory` in bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from epochal.display.curves import plateau
from epochal.study.protocol import Protocol

Fit = dict[str, Any]
_MARGIN = 0.02  # of the way to the target that a chosen target leaves out
EPOCHS, UPDATES, TARGET = "equal_epochs", "equal_updates", "target"


class Judge(NamedTuple):
    """How fits are compared: by the reported value `name`, of which more is better or less."""

    name: str
    higher: bool

    @property
    def key(self) -> str:
        """The name of its values on validation examples."""
        return f"val_{self.name}"

    def losses(self, values: Sequence[float]) -> np.ndarray:
        """The values turned so that less is better."""
        return (-1 if self.higher else 1) * np.asarray(values, float)


def budget(protocol: Protocol, reading: str, size: int) -> int:
    """After how many updates a protocol reads a fit of this batch size."""
    return protocol.updates if reading == UPDATES else protocol.epochs * protocol.per_epoch(size)


def value_at(fit: Fit, updates: int, name: str) -> float | None:
    """A fit's value after so many updates; None where it had diverged before."""
    return fit[name][fit["updates"].index(updates)] if updates in fit["updates"] else None


def best_until(fit: Fit, updates: int, judge: Judge) -> float | None:
    """The best value among the evaluations up to so many updates."""
    values = [v for u, v in zip(fit["updates"], fit[judge.key], strict=True) if u <= updates]
    return (max if judge.higher else min)(values, default=None)


def updates_to(fit: Fit, target: float, judge: Judge) -> float | None:
    """After how many updates the validation value first is at the target; None if it never is.

    Between two evaluations the value is taken to run straight over the logarithm of the updates.
    """
    values, goal = judge.losses(fit[judge.key]), float(judge.losses([target])[0])
    there = np.flatnonzero(values <= goal)
    if len(there) == 0:
        return None
    i = int(there[0])
    if i == 0:
        return float(fit["updates"][0])
    before, after = math.log(fit["updates"][i - 1]), math.log(fit["updates"][i])
    part = (values[i - 1] - goal) / (values[i - 1] - values[i])
    return math.exp(before + float(part) * (after - before))


def best_rate(fits: Sequence[Fit], protocol: Protocol, reading: str, judge: Judge, target: float | None) -> Fit | None:
    """Of fits of one size and seed, the one whose learning rate serves a reading best; None if all have diverged.

    For the budgets: the best value there, among equals the least validation loss. For the target: the fewest updates.
    """
    ranked = []
    for fit in fits:
        if reading == TARGET:
            if target is None:
                raise ValueError("Expected a target to read fits at, got None.")
            place: Any = updates_to(fit, target, judge)
        else:
            at = budget(protocol, reading, fit["size"])
            value = value_at(fit, at, judge.key)
            place = None if value is None else (float(judge.losses([value])[0]), value_at(fit, at, "val_loss"))
        if place is not None:
            ranked.append((place, fit["rate"], fit))
    return min(ranked, key=lambda item: item[:2])[2] if ranked else None


def chosen_target(fits: Sequence[Fit], judge: Judge) -> float | None:
    """A target that at least three of four batch sizes reach with some learning rate; None if all fits diverged.

    It is what the size at the first quartile attains, less 2 % of the way there from where training begins.
    """
    by_size: dict[int, list[Fit]] = {}
    for fit in fits:
        by_size.setdefault(fit["size"], []).append(fit)
    bests = [
        min((judge.losses(f[judge.key]).min() for f in group if f[judge.key]), default=None)
        for group in by_size.values()
    ]
    attained = sorted(b for b in bests if b is not None)
    if not attained:
        return None
    goal = attained[math.ceil(0.75 * len(attained)) - 1]
    begin = float(np.median([judge.losses(f[judge.key])[0] for f in fits if f[judge.key]]))
    goal += _MARGIN * max(begin - goal, 0.0)
    return float(f"{float(judge.losses([goal])[0]):.4g}")


def matched_loss(fits: Sequence[Fit]) -> float | None:
    """A training loss that all of these fits come to; None if one never was below where it began."""
    lowest = [min(fit["loss"], default=math.inf) for fit in fits]
    return float(f"{max(lowest) * 1.05:.4g}") if lowest and max(lowest) < math.inf else None


def seconds_per_step(fits: Sequence[Fit]) -> float | None:
    """Of a training step: over the last three quarters of each fit, the least of the fits.

    What else runs on the machine only makes it longer, and for one size more than for another.
    """
    found = []
    for fit in fits:
        updates, seconds = fit["updates"], fit["seconds"]
        if len(updates) >= 2:
            i = int(np.searchsorted(updates[:-1], updates[-1] / 4))
            i = min(i, len(updates) - 2)
            found.append((seconds[-1] - seconds[i]) / (updates[-1] - updates[i]))
    return float(min(found)) if found else None


def plateau_epoch(fit: Fit, protocol: Protocol, judge: Judge) -> int | None:
    """The epoch from which on the validation value gains at most 2 % of all it gained; see `curves.plateau`."""
    per_epoch = protocol.per_epoch(fit["size"])
    epochs = [(u // per_epoch, v) for u, v in zip(fit["updates"], fit[judge.key], strict=True) if u % per_epoch == 0]
    epochs = [(e, v) for e, v in epochs if e <= protocol.epochs]
    index = plateau(list(judge.losses([v for _, v in epochs]))) if epochs else None
    return None if index is None else epochs[index][0]


def mean_std(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation; None where there are too few values."""
    mean = float(np.mean(values)) if len(values) else None
    return mean, float(np.std(values, ddof=1)) if len(values) > 1 else None


# -- the table


def row(
    size: int, fits: dict[str, list[Fit]], every: Sequence[Fit], protocol: Protocol, judge: Judge, target: float | None
) -> dict[str, Any]:
    """What there is to say of one batch size.

    Args:
        size: the batch size.
        fits: for each reading those with the rate chosen for it, one per seed; empty where all diverged.
        every: all fits of the size.
        protocol, judge, target: of the study.
    """
    step = seconds_per_step(every)
    per_epoch = protocol.per_epoch(size)
    memory = [fit["memory"] for fit in every if fit["memory"] is not None]
    found: dict[str, Any] = {
        "batch_size": size,
        "label": protocol.label(size),
        "updates_per_epoch": per_epoch,
        "seconds_per_step": step,
        "seconds_per_epoch": None if step is None else step * per_epoch,
        "examples_per_second": None if not step else protocol.n / (step * per_epoch),
        "memory_bytes": memory[0] if memory else None,
    }
    for reading in (EPOCHS, UPDATES):
        found |= _at_budget(reading, fits[reading], budget(protocol, reading, size), judge)
    found |= _to_target(fits[TARGET], per_epoch, step, judge, target)
    first = fits[EPOCHS][:1]
    found["plateau_epoch"] = plateau_epoch(first[0], protocol, judge) if first else None
    found["status"] = _status(fits, every)
    return found


def _at_budget(reading: str, fits: Sequence[Fit], updates: int, judge: Judge) -> dict[str, Any]:
    final = [v for fit in fits if (v := value_at(fit, updates, judge.key)) is not None]
    whole = [fit for fit in fits if value_at(fit, updates, judge.key) is not None]
    best = [v for fit in whole if (v := best_until(fit, updates, judge)) is not None]
    (mean, std), (best_mean, best_std) = mean_std(final), mean_std(best)
    return {
        f"{reading}_learning_rate": fits[0]["rate"] if fits else None,
        f"{reading}_{judge.key}": mean,
        f"{reading}_{judge.key}_std": std,
        f"{reading}_best_{judge.key}": best_mean,
        f"{reading}_best_{judge.key}_std": best_std,
        f"{reading}_seeds": len(final),
    }


def _to_target(
    fits: Sequence[Fit], per_epoch: int, step: float | None, judge: Judge, target: float | None
) -> dict[str, Any]:
    reached = [] if target is None else [u for fit in fits if (u := updates_to(fit, target, judge)) is not None]
    mean, std = mean_std(reached)
    return {
        "target_learning_rate": fits[0]["rate"] if fits else None,
        "updates_to_target": mean,
        "updates_to_target_std": std,
        "epochs_to_target": None if mean is None else mean / per_epoch,
        "seconds_to_target": None if mean is None or step is None else mean * step,
        "target_seeds": f"{len(reached)} of {len(fits)}" if fits else "0",
        "all_at_target": bool(fits) and len(reached) == len(fits),
    }


def _status(fits: dict[str, list[Fit]], every: Sequence[Fit]) -> str:
    broken = [fit for fit in fits[EPOCHS] if fit["diverged"] is not None]
    if "why" in every[0]:
        return every[0]["why"]
    if not fits[EPOCHS]:
        soonest = min(fit["diverged"] for fit in every if fit["diverged"] is not None)
        rates = sorted({fit["rate"] for fit in every})
        return f"diverged after {soonest:,} updates (learning rate {', '.join(f'{r:g}' for r in rates)})"
    if broken:
        return f"{len(broken)} of {len(fits[EPOCHS])} seeds diverged (learning rate {broken[0]['rate']:g})"
    return "ok"

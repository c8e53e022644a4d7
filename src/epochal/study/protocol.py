"""What a study runs: batch sizes, budgets, learning rates, and when a fit is looked at. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from epochal.optimizers.batch_scaling import scale_learning_rate

REFERENCE = 32  # the batch size that the compiled learning rate is taken to belong to
RULES = ("tune", "linear", "sqrt", "fixed")
_GRID = (-2, -1, 0, 1, 2)  # powers of 2 around a rule's rate
_FURTHER = 5  # so many more powers of 2 on either side, as long as the best is at the edge
_MARKS_PER_DOUBLING = 8
_MOST_EPOCH_MARKS = 100


@dataclass(frozen=True)
class Protocol:
    """The settings of a study that decide which fits there are.

    Attributes:
        n: training examples.
        sizes: batch sizes in growing order, each once; n is "full".
        epochs: the budget of the one protocol, the same number of passes over the data for every size.
        updates: the budget of the other, the same number of updates for every size.
        seeds: of first weights, order and masks; rates are chosen with the first.
        rates: one of `RULES`, or learning rates that are tried for every size.
    """

    n: int
    sizes: tuple[int, ...]
    epochs: int
    updates: int
    seeds: tuple[int, ...]
    rates: str | tuple[float, ...]

    def per_epoch(self, size: int) -> int:
        """Updates in a pass over the data; the last batch may be short."""
        return -(-self.n // size)

    def length(self, size: int) -> int:
        """Updates of a fit: enough for both budgets, which are read off the same fit."""
        return max(self.epochs * self.per_epoch(size), self.updates)

    def marks(self, size: int) -> list[int]:
        """After how many updates a fit is evaluated: 8 times per doubling, and at every epoch within the budget."""
        length, per_epoch = self.length(size), self.per_epoch(size)
        doublings = math.ceil(math.log2(length)) * _MARKS_PER_DOUBLING
        marks = {round(2 ** (k / _MARKS_PER_DOUBLING)) for k in range(doublings + 1)}
        step = max(1, -(-self.epochs // _MOST_EPOCH_MARKS))
        marks |= {epoch * per_epoch for epoch in range(step, self.epochs + 1, step)}
        marks |= {self.epochs * per_epoch, self.updates, length}
        return sorted(mark for mark in marks if mark <= length)

    def label(self, size: int) -> str:
        """The size as it is shown."""
        return f"full ({size})" if size == self.n else str(size)


def protocol_of(n: int, batch_sizes: Any, epochs: Any, updates: Any, seeds: Any, rates: Any) -> Protocol:
    """The protocol for arguments as `batch_size_study` takes them.

    Defaults keep a study short: about 60,000 examples (40 epochs at most, 2 at least) for the first budget, and about
    3,000,000 (2,000 updates at most, 100 at least) in full batches for the second.

    Raises:
        ValueError: a value that makes no sense.
    """
    epochs = max(2, min(40, -(-60_000 // n))) if epochs is None else _count("epochs", epochs)
    updates = max(100, min(2_000, 3_000_000 // n)) if updates is None else _count("updates", updates)
    return Protocol(n, _sizes(batch_sizes, n), epochs, updates, _seeds(seeds), _rates(rates))


def _sizes(given: Any, n: int) -> tuple[int, ...]:
    if isinstance(given, str) or not isinstance(given, Sequence) or not given:
        raise ValueError(f'Expected batch_sizes as a list of ints >= 1 and "full", got {given!r}.')
    for size in given:
        if size != "full" and not _is_count(size):
            raise ValueError(f'Expected batch_sizes of ints >= 1 and "full", got {size!r} among them.')
    return tuple(sorted({n if size == "full" else min(int(size), n) for size in given}))


def _seeds(given: Any) -> tuple[int, ...]:
    if _is_count(given):
        return tuple(range(int(given)))
    if isinstance(given, Sequence) and given and all(type(s) is int and 0 <= s < 2**32 for s in given):
        return tuple(dict.fromkeys(given))
    raise ValueError(f"Expected seeds as how many (an int >= 1), or a list of ints from 0 to 2**32 - 1, got {given!r}.")


def _rates(given: Any) -> str | tuple[float, ...]:
    if isinstance(given, str):
        if given not in RULES:
            raise ValueError(f"Expected learning_rates to be one of {', '.join(RULES)}, or numbers, got {given!r}.")
        return given
    numbers = isinstance(given, Sequence) and all(isinstance(r, int | float) and 0 < r < math.inf for r in given)
    if not numbers or not given:
        raise ValueError(f"Expected learning_rates to be one of {', '.join(RULES)}, or numbers > 0, got {given!r}.")
    return tuple(sorted({float(rate) for rate in given}))


def _count(name: str, value: Any) -> int:
    if not _is_count(value):
        raise ValueError(f"Expected {name} to be an int >= 1 or None, got {value!r}.")
    return int(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


# -- learning rates


def first_rates(protocol: Protocol, size: int, rate: float, rule: str) -> list[float]:
    """The learning rates that are tried first for a size.

    Args:
        protocol: of the study.
        size: the batch size.
        rate: as the model was compiled.
        rule: around which the grid of "tune" lies: "linear" or "sqrt".
    """
    if not isinstance(protocol.rates, str):
        return list(protocol.rates)
    if protocol.rates != "tune":
        return [_rounded(scale_learning_rate(protocol.rates, REFERENCE, size, rate))]
    centre = scale_learning_rate(rule, REFERENCE, size, rate)
    return [_rounded(centre * 2.0**power) for power in _GRID]


def next_rates(protocol: Protocol, tried: Sequence[float], best: Sequence[float]) -> list[float]:
    """With "tune": rates beyond the ones tried, where a best one lies at their edge; else none."""
    if protocol.rates != "tune" or not best:
        return []
    low, high = min(tried), max(tried)
    widest = 2.0 ** (len(_GRID) - 1 + 2 * _FURTHER)
    if high / low >= widest * 0.99:
        return []
    further = [_rounded(low / 2)] if low in best else []
    return [*further, *([_rounded(high * 2)] if high in best else [])]


def _rounded(rate: float) -> float:
    """A number as it is printed, so that a rate in a table is the rate that was used."""
    return float(f"{rate:.6g}")

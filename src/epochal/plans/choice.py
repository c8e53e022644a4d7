"""Which batch size reaches a target soonest: formulas over plain numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from epochal.plans.measurements import SHOWN, Measurements

CROOKED = 0.15  # a line that is further off than this is not used
ALIKE = 0.1  # sizes whose times to a target differ by less are not told apart


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
    return fitted(m) if fitted.error <= CROOKED else between(found.seconds, m)


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
    if found.noise is None or fitted.error > CROOKED:
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
    if line(found.seconds).error > CROOKED or len(found.seconds) == 2:  # two cannot show a bend
        top = min(top, max(found.seconds))  # nothing is said of sizes beyond those that were measured
    if len(found.seconds) < 3:
        far = 4 if len(found.seconds) == 1 else 2
        top, low = min(top, far * max(found.seconds)), min(min(found.seconds) // far, top)
    powers = {2**k for k in range(top.bit_length()) if 2**k >= low} | ({top} if top == found.n else set())
    finer = powers | {int(m) // 8 * 8 for m in np.geomspace(8, max(top, 8), 200) if max(low, 8) <= m <= top} | {top}
    best = min(sorted(finer), key=lambda m: cost(found, m))
    return min((m for m in powers if cost(found, m) <= (1 + ALIKE) * cost(found, best)), default=best)

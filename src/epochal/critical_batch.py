"""Estimates of the batch size from which on larger batches help little: closed formulas over plain numbers.

The noise scale B = tr Σ / |G|² (McCandlish et al. 2018, arXiv:1812.06162, equation 2.9) is always a ratio of means: a
mean of ratios does not exist where the mean gradient is small. Its interval is Fieller's (1954, "Some problems in
interval estimation"), which has no upper end where the data do not tell the mean gradient from zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

__all__ = [
    "Moments",
    "NoiseEstimate",
    "StepsToTarget",
    "combined",
    "fit_steps_to_target",
    "moments",
    "moments_of_batches",
    "noise_scale",
    "noise_scale_of_batches",
    "ratio_interval",
]


def __dir__() -> list[str]:
    return list(__all__)


Values = Float[np.ndarray, "k"]


@dataclass(frozen=True)
class NoiseEstimate:
    """The gradient noise scale, in examples, with its interval.

    Attributes:
        value: tr Σ / |G|²; infinite where the mean gradient is estimated as zero.
        low, high: ends of the interval; `high` is infinite where the data do not tell the mean gradient from zero.
        grad_sq: |G|², the squared norm of the mean gradient, estimated without bias; may come out below zero.
        trace: tr Σ, the variance of one example's gradient, summed over parameters.
        examples: how many gradients it is made of.
        n: how many examples there are to draw from; None when that is not known.
        confidence: of the interval.
    """

    value: float
    low: float
    high: float
    grad_sq: float
    trace: float
    examples: int
    n: int | None = None
    confidence: float = 0.95

    @property
    def resolved(self) -> bool:
        """Whether the interval has an upper end; if not, the answer is "at least `low`"."""
        return math.isfinite(self.high)

    def __str__(self) -> str:
        percent, made = f"{100 * self.confidence:g} %", f"from {self.examples:,} examples"
        if self.resolved:
            return f"noise scale {self.value:,.3g} ({percent}: {self.low:,.3g} … {self.high:,.3g}), {made}"
        more = "and there are no more" if self.n is not None and self.n <= self.examples else "more may"
        return (
            f"noise scale at least {self.low:,.3g} ({percent}), {made}: they do not tell the mean gradient from zero, "
            f"{more}"
        )


class Moments(NamedTuple):
    """What the gradients of some examples at the same weights tell.

    Attributes:
        grad_sq, trace: |G|² and tr Σ.
        covariance: theirs, trace first: the variance of `trace`, the covariance, the variance of `grad_sq`.
        examples: how many.
        gradients: how many gradients, or batches, the covariance is made of.
    """

    grad_sq: float
    trace: float
    covariance: tuple[float, float, float]
    examples: int
    gradients: int


def noise_scale(
    squares: Values, products: Values, *, group: int = 1, n: int | None = None, confidence: float = 0.95
) -> NoiseEstimate:
    """The noise scale from the gradients of N examples, or groups, at the same weights: `moments` and `combined`."""
    return combined([moments(squares, products, group)], n=n, confidence=confidence)


def moments(squares: Values, products: Values, group: int = 1) -> Moments:
    """|G|² and tr Σ from the gradients of N examples, or groups of them, at the same weights.

    With q = mean |g_i|² and p = |ḡ|²: |G|² = (N p - q) / (N - 1) and tr Σ = (q - p) N / (N - 1), without bias. Their
    covariance is the jackknife's: leaving an example out changes q and p by what |g_i|² and g_i·ḡ tell.

    Args:
        squares: (N,) |g_i|².
        products: (N,) g_i·ḡ, where ḡ is the mean of the N gradients.
        group: of how many examples each gradient is the mean: their variance is that of one example over this.

    Raises:
        ValueError: fewer than 3 gradients.
    """
    squares, products = np.asarray(squares, np.float64), np.asarray(products, np.float64)
    count = len(squares)
    if count < 3:
        raise ValueError(f"Expected at least 3 gradients, got {count}.")
    q, p = squares.mean(), products.mean()  # the mean of g_i·ḡ is |ḡ|²
    grad_sq, trace = _split(q, p, count)
    without_q = (count * q - squares) / (count - 1)
    without_p = (count**2 * p - 2 * count * products + squares) / (count - 1) ** 2
    left_out = np.stack(_split(without_q, without_p, count - 1))
    deviations = left_out - left_out.mean(axis=1, keepdims=True)
    covariance = deviations @ deviations.T * ((count - 1) / count)
    top, both, bottom = _triangle(covariance[::-1, ::-1])
    covariance = top * group**2, both * group, bottom
    return Moments(float(grad_sq), float(trace) * group, covariance, count * group, count)


def combined(
    measured: Sequence[Moments],
    *,
    weights: Sequence[float] | None = None,
    n: int | None = None,
    confidence: float = 0.95,
) -> NoiseEstimate:
    """The noise scale from measurements at different weights of a model.

    They are averaged before they are divided. Gradients shrink by orders of magnitude in the course of training, so
    each measurement is first divided by its mean |g_i|² = |G|² + tr Σ, else the oldest would decide. With `weights`
    they are summed as they are: Σ w tr Σ / Σ w |G|².

    Args:
        measured: one or more; the sizes of the result's `grad_sq` and `trace` are those of the last, or the mean ones.
        weights: of each in both sums, the updates that it stands for, say.
        n: how many examples there are to draw from.
        confidence: of the interval.
    """
    if weights is None:
        last = measured[-1].grad_sq + measured[-1].trace
        levels = [last / (m.grad_sq + m.trace) if m.grad_sq + m.trace else 1.0 for m in measured]
        scales = np.array(levels) / len(measured)
    else:
        scales = np.array(weights, float) / sum(weights)
    grad_sq, trace = (float(scales @ np.array([getattr(m, name) for m in measured])) for name in ("grad_sq", "trace"))
    top, both, bottom = np.square(scales) @ np.array([m.covariance for m in measured])
    examples = sum(m.examples for m in measured)
    covariance = float(top), float(both), float(bottom)
    freedom = sum(m.gradients for m in measured) - 1
    return _estimate(grad_sq, trace, covariance, examples, n, confidence, freedom)


def noise_scale_of_batches(
    small: Values, large: Values, b: float, m: float, *, examples: int, confidence: float = 0.95
) -> NoiseEstimate:
    """The noise scale from gradients of batches of two sizes, measured k times.

    |G|² = (m |g_m|² - b |g_b|²) / (m - b) and tr Σ = (|g_b|² - |g_m|²) / (1/b - 1/m) without bias, averaged over the
    measurements before they are divided (McCandlish et al. 2018, appendix A.1).

    Args:
        small: (k,) |g_b|², each averaged over all pieces of b examples that a batch consists of.
        large: (k,) |g_m|².
        b, m: the sizes, b < m.
        examples: how many examples were looked at in all.
        confidence: of the interval.

    Raises:
        ValueError: fewer than 3 measurements, or sizes that are not b < m.
    """
    small, large = np.asarray(small, np.float64), np.asarray(large, np.float64)
    count = len(small)
    if count < 3 or not 0 < b < m:
        raise ValueError(f"Expected at least 3 measurements with 0 < b < m, got {count} with b={b:g}, m={m:g}.")
    values = np.stack(of_pieces(small, large, m / b, m))
    sums = [count, examples, *values.sum(axis=1), *(values[0] * values).sum(axis=1), np.square(values[1]).sum()]
    return combined([moments_of_batches(np.array(sums, np.float64))], confidence=confidence)


def of_pieces(small: Any, large: Any, pieces: Any, m: Any) -> tuple[Any, Any]:
    """|G|² and tr Σ, without bias, from the gradients of a batch of m examples and of the pieces that it consists of.

    Args:
        small: |g|² of the pieces, averaged with their numbers of examples as weights.
        large: |g|² of the batch.
        pieces: how many there are, at least 2.
        m: examples of the batch.
    """
    trace = (small - large) * m / (pieces - 1)
    return large - trace / m, trace


def moments_of_batches(sums: np.ndarray) -> Moments:
    """What the gradients of batches and their pieces tell: the means over the batches, which also give the covariance.

    Args:
        sums: (7,) the number of batches, of their examples, and the sums of |G|², tr Σ, |G|⁴, |G|² tr Σ and (tr Σ)²,
            each batch's as of `of_pieces`.

    Raises:
        ValueError: fewer than 3 batches.
    """
    count, examples, *rest = np.asarray(sums, np.float64)
    if count < 3:
        raise ValueError(f"Expected at least 3 batches, got {count:g}.")
    grad_sq, trace, squares, products, traces = (value / count for value in rest)
    covariance = max(traces - trace**2, 0.0), products - trace * grad_sq, max(squares - grad_sq**2, 0.0)
    top, both, bottom = (value / (count - 1) for value in covariance)
    return Moments(grad_sq, trace, (top, both, bottom), int(examples), int(count))


def _triangle(covariance: np.ndarray) -> tuple[float, float, float]:
    return float(covariance[0, 0]), float(covariance[0, 1]), float(covariance[1, 1])


def _split(q: Any, p: Any, count: int) -> tuple[Any, Any]:
    """|G|² and tr Σ from the mean of |g_i|² and |ḡ|² of so many examples."""
    return (count * p - q) / (count - 1), (q - p) * count / (count - 1)


def _estimate(
    grad_sq: float,
    trace: float,
    covariance: tuple[float, float, float],
    examples: int,
    n: int | None,
    confidence: float,
    freedom: int,
) -> NoiseEstimate:
    if not 0 < confidence < 1:
        raise ValueError(f"Expected confidence between 0 and 1, got {confidence!r}.")
    if trace == 0 and grad_sq > 0:  # all gradients are equal: there is no noise
        return NoiseEstimate(0.0, 0.0, 0.0, grad_sq, 0.0, examples, n, confidence)
    low, high = ratio_interval(trace, grad_sq, covariance, confidence, freedom)
    value = trace / grad_sq if grad_sq > 0 else math.inf
    return NoiseEstimate(value, low, high, grad_sq, trace, examples, n, confidence)


def ratio_interval(
    top: float, bottom: float, covariance: tuple[float, float, float], confidence: float, freedom: int
) -> tuple[float, float]:
    """Fieller's interval for top / bottom, both estimates of numbers >= 0.

    It holds all r for which top - r * bottom does not differ from zero. Where the bottom does not, these have no upper
    end; where the top does not either, no lower one.

    Args:
        top, bottom: the estimates.
        covariance: the variance of the top, the covariance, the variance of the bottom.
        confidence: of the interval.
        freedom: degrees of freedom of the covariance.
    """
    t2 = _quantile(freedom, confidence) ** 2
    a, b, c = bottom**2 - t2 * covariance[2], top * bottom - t2 * covariance[1], top**2 - t2 * covariance[0]
    discriminant = b * b - a * c
    if discriminant < 0 or (a > 0 and bottom < 0):
        return 0.0, math.inf
    if a > 0:
        root = math.sqrt(discriminant)
        return max(float((b - root) / a), 0.0), float((b + root) / a)
    if c <= 0:
        return 0.0, math.inf
    root = math.sqrt(discriminant)  # >= |b|, since a <= 0 < c
    if b > 0:
        return float(c / (b + root)), math.inf
    return float((b - root) / a) if a < 0 else math.inf, math.inf


def _quantile(freedom: int, confidence: float) -> float:
    """How many standard errors to both sides the interval of a mean reaches (Student's t)."""
    if freedom < 60:
        from scipy.special import stdtrit  # takes a quarter of a second to import

        return float(stdtrit(freedom, 0.5 + confidence / 2))
    z = NormalDist().inv_cdf(0.5 + confidence / 2)  # Abramowitz & Stegun 26.7.5, to 1e-6 of what it is here
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return sum(term / freedom**k for k, term in enumerate(terms))


@dataclass(frozen=True)
class StepsToTarget:
    """How many steps a target takes, as a function of the batch size m: S(m) = min_steps * (1 + B / m).

    Attributes:
        min_steps: S_min, the steps that the largest batches would need.
        value: B, the critical batch size in examples: there a target takes twice the least steps and twice the least
            examples. Infinite where every size needed the same number of examples, 0 where the same number of steps.
        low, high: ends of its interval; infinite `high`: the sizes are all too small to tell.
        error: root mean square of log S - log S(m).
        confidence: of the interval.
    """

    min_steps: float
    value: float
    low: float
    high: float
    error: float
    confidence: float = 0.95

    def steps(self, m: Any) -> Any:
        """S(m) for a batch size or an array of them."""
        return self.min_steps * (1 + self.value / np.asarray(m, np.float64))

    def __str__(self) -> str:
        interval = f"{100 * self.confidence:g} %: {self.low:,.3g} … {self.high:,.3g}"
        return f"critical batch size {self.value:,.3g} ({interval}), least steps {self.min_steps:,.3g}"


def fit_steps_to_target(m: Any, steps: Any, *, confidence: float = 0.95) -> StepsToTarget:
    """Fits log S = log S_min + log(1 + B / m) by least squares (McCandlish et al. 2018, equation 2.7, in log space).

    The interval of B holds the values with which the squared errors are not significantly larger than with the best one
    (profile likelihood), so that it may reach 0 or be without end.

    Args:
        m: (k,) batch sizes, at least two different ones.
        steps: (k,) steps that each needed to reach the target.
        confidence: of the interval.

    Raises:
        ValueError: fewer than two sizes, or numbers that are not finite and > 0.
    """
    m, steps = np.asarray(m, np.float64), np.asarray(steps, np.float64)
    sizes = np.unique(m)
    if m.shape != steps.shape or m.ndim != 1 or len(sizes) < 2:
        raise ValueError(f"Expected steps for at least two batch sizes, got shapes {m.shape} and {steps.shape}.")
    if not (np.isfinite([m, steps]).all() and min(m.min(), steps.min()) > 0):
        raise ValueError("Expected finite batch sizes and steps > 0. Leave out sizes that never reached the target.")
    # Of log B. Its ends stand for 0 and infinity.
    grid = np.linspace(math.log(sizes[0]) - 12, math.log(sizes[-1]) + 12, 20_001)
    levels = np.log(steps) - np.logaddexp(0, grid[:, None] - np.log(m))
    errors = np.square(levels - levels.mean(axis=1, keepdims=True)).sum(axis=1)
    best = int(np.argmin(errors))
    freedom = len(m) - 2
    allowed = math.inf
    if freedom:
        allowed = errors[best] * (1 + _quantile(freedom, confidence) ** 2 / freedom) + 1e-12
    inside = np.flatnonzero(errors <= allowed).tolist()

    def at(i: int) -> float:
        return 0.0 if i == 0 else math.inf if i == len(grid) - 1 else math.exp(grid[i])

    least = 0.0 if best == len(grid) - 1 else math.exp(levels[best].mean())
    error = math.sqrt(errors[best] / len(m))
    return StepsToTarget(least, at(best), at(inside[0]), at(inside[-1]), error, confidence)

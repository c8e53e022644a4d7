"""The gradient noise scale and the steps to a target, against closed forms."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from scipy.special import stdtrit
from support.data import breast_cancer, diabetes
from support.noise import HARMONIC, TRUTHS, gradients_of, linear, regression, scale_of

import epochal as keras
from epochal import layers
from epochal.critical_batch import (
    _quantile,
    combined,
    fit_steps_to_target,
    moments,
    noise_scale_of_batches,
)

# -- closed forms


@pytest.mark.parametrize(("h", "truth"), TRUTHS)
def test_the_interval_holds_the_true_noise_scale_in_90_of_100_seeds(h: np.ndarray, truth: float) -> None:
    delta = np.full(10, 0.5)
    assert 1 + h.sum() * (delta @ (h * delta) + 1) / np.square(h * delta).sum() == pytest.approx(truth, abs=1e-3)
    found = [scale_of(gradients_of(*regression(h, 2048, seed))) for seed in range(100)]
    assert sum(e.low <= truth <= e.high for e in found) >= 90  # 2048 examples are the default
    assert all(e.high < 2.5 * e.low for e in found)  # and it tells something
    assert np.mean([e.trace for e in found]) / np.mean([e.grad_sq for e in found]) == pytest.approx(truth, rel=0.02)


@pytest.mark.parametrize(("h", "truth"), TRUTHS)
def test_the_interval_of_a_real_model_holds_the_true_noise_scale(h: np.ndarray, truth: float) -> None:
    model, within = linear(10), 0
    for seed in range(6):
        x, y = regression(h, 1000, seed)
        found = keras.gradient_noise_scale(model, x, y, group=1)
        ours = scale_of(gradients_of(x, y), n=1000)
        assert [found.value, found.low, found.high] == pytest.approx([ours.value, ours.low, ours.high], rel=1e-3)
        assert found.trace == pytest.approx(4 * ours.trace, rel=1e-4)  # Keras's loss has no ½
        within += found.low <= truth <= found.high
    assert within >= 5


def test_groups_of_examples_tell_what_single_ones_do() -> None:
    """Their gradients' variance is that of one example over their size; the interval holds as often."""
    found = []
    for seed in range(100):
        means = gradients_of(*regression(HARMONIC, 2048, seed)).reshape(128, 16, 10).mean(1)
        found.append(scale_of(means, group=16))
    assert sum(e.low <= 14.095 <= e.high for e in found) >= 90
    assert np.mean([e.trace for e in found]) / np.mean([e.grad_sq for e in found]) == pytest.approx(14.095, rel=0.02)
    x, y = diabetes(400)
    model = linear(10)
    rows = np.random.default_rng(0).choice(400, 400, replace=False)
    ours = scale_of(gradients_of(x, y)[rows].reshape(80, 5, 10).mean(1), group=5, n=400)
    measured = keras.gradient_noise_scale(model, x, y, group=5)
    assert [measured.value, measured.low, measured.high] == pytest.approx([ours.value, ours.low, ours.high], rel=1e-3)
    assert measured.examples == 400


def test_a_ratio_of_means_finds_what_a_mean_of_ratios_misses() -> None:
    """Batches of 8 and 16 of a problem with B = 15: each single ratio is nearly all noise."""
    random = np.random.default_rng(0)
    x, y = random.normal(size=(4000, 16, 10)), random.normal(size=(4000, 16))
    g = x * (x @ np.full(10, 0.5) - y)[..., None]
    large = np.square(g.mean(1)).sum(-1)
    small = np.square(g.reshape(4000, 2, 8, 10).mean(2)).sum(-1).mean(1)
    found = noise_scale_of_batches(small, large, 8, 16, examples=64_000)
    ratios = ((small - large) / (1 / 8 - 1 / 16)) / ((16 * large - 8 * small) / 8)
    assert found.low <= 15 <= found.high
    assert found.value == pytest.approx(15, rel=0.05)
    assert abs(ratios.mean() - 15) > 7.5


def test_batches_of_two_sizes_and_single_examples_estimate_the_same() -> None:
    """With b = 1 and all N examples as the batch, one measurement is the pooled estimate."""
    g = gradients_of(*diabetes())
    squares, mean_sq = np.square(g).sum(1).mean(), np.square(g.mean(0)).sum()
    found, n = noise_scale_of_batches(np.full(3, squares), np.full(3, mean_sq), 1, len(g), examples=len(g)), len(g)
    assert found.value == pytest.approx(scale_of(g).value, rel=1e-9)
    assert found.trace == pytest.approx((squares - mean_sq) * n / (n - 1), rel=1e-9)


def test_the_variance_of_a_batch_mean_without_replacement_is_exact() -> None:
    """S²/m (1 - m/n), over all batches that there are; "1/√m" is its limit, and at m = n it is zero."""
    g = gradients_of(*diabetes(8))
    n, s2 = len(g), scale_of(g).trace
    for m in range(1, n + 1):
        means = np.array([g[list(batch)].mean(0) for batch in itertools.combinations(range(n), m)])
        variance = np.square(means - g.mean(0)).sum(1).mean()
        assert variance == pytest.approx(s2 / m * (1 - m / n), rel=1e-9, abs=1e-12)


def test_gradient_diversity_is_one_plus_the_noise_of_the_sample() -> None:
    """n Σ|g_i|² / |Σ g_i|² = 1 + tr Σ_n / |ḡ|² (Yin et al. 2018), on the gradients of a real model."""
    x, y = breast_cancer(200)
    model = keras.Sequential([layers.Dense(1, activation="sigmoid", kernel_initializer="zeros", use_bias=False)])
    model.compile("sgd", "binary_crossentropy")
    found = keras.gradient_noise_scale(model, x, y)
    g, n = (0.5 - y)[:, None] * x, 200
    diversity = n * np.square(g).sum() / np.square(g.sum(0)).sum()
    mean_sq = found.grad_sq + found.trace / n
    assert diversity == pytest.approx(1 + found.trace * (n - 1) / n / mean_sq, rel=1e-4)


# -- steps to a target


def steps_of_the_noisy_quadratic(m: int) -> int:
    """Steps to 10 % of the loss with the best constant rate: h = c = 1/i, d = 100 (Zhang et al. 2019, equation 4)."""
    h = 1 / np.arange(1, 101)
    rates = np.geomspace(0.05, 2, 300)[:, None]
    squares = np.ones((300, 100))
    for step in itertools.count(1):
        squares = (1 - rates * h) ** 2 * squares + rates**2 * h / m
        if (squares @ h).min() <= 0.1 * h.sum():
            return step
    raise AssertionError


def test_the_noisy_quadratic_has_its_least_steps_and_its_critical_batch() -> None:
    m = 2 ** np.arange(11)
    steps = [steps_of_the_noisy_quadratic(int(size)) for size in m]
    assert steps == [424, 217, 113, 62, 38, 26, 21, 18, 16, 16, 15]  # shared/design/batch-size.md, section 5
    found = fit_steps_to_target(m, steps)
    assert found.min_steps == pytest.approx(14.8, rel=0.1)
    assert found.value == pytest.approx(26.6, rel=0.1)
    assert found.low < found.value < found.high < 2 * found.low
    assert found.steps(m) == pytest.approx(np.array(steps), rel=0.1)


def test_a_fit_of_steps_says_what_the_sizes_do_not_tell() -> None:
    exact = fit_steps_to_target([1, 8, 64, 512], 20 * (1 + 50 / np.array([1, 8, 64, 512])))
    assert (exact.min_steps, exact.value) == pytest.approx((20, 50), rel=2e-3)
    two = fit_steps_to_target([8, 64], [100, 40])
    assert (two.low, two.high) == (0, math.inf)  # two points fit exactly: nothing is known of the error
    small = fit_steps_to_target([1, 2, 4, 8], [1000, 501, 249, 126])  # all far below the critical size
    assert small.low > 20
    assert small.high == math.inf
    assert fit_steps_to_target([8, 16, 32], [50, 50, 50]).value == 0
    random = np.random.default_rng(0)
    m, held = 2.0 ** np.arange(10), 0
    for _ in range(200):
        noisy = fit_steps_to_target(m, 20 * (1 + 50 / m) * np.exp(0.1 * random.normal(size=10)))
        held += noisy.low <= 50 <= noisy.high
    assert held >= 180


@pytest.mark.parametrize(
    ("m", "steps"), [([8], [3]), ([8, 8], [3, 4]), ([8, 16], [3, math.inf]), ([8, 16], [0, 3]), ([8, 16], [3])]
)
def test_a_fit_of_steps_refuses_what_it_cannot_use(m: Any, steps: Any) -> None:
    with pytest.raises(ValueError, match="Expected"):
        fit_steps_to_target(m, steps)


# -- what cannot be told is said


def test_a_mean_gradient_that_may_be_zero_gives_a_lower_end_alone() -> None:
    random = np.random.default_rng(0)
    for n in (200, 1000):
        found = scale_of(random.normal(size=(n, 50)), n=n)
        assert found.high == math.inf
        assert not found.resolved
        assert found.low > n / 3  # the scale is infinite: the larger n, the more is ruled out
        assert f"at least {found.low:,.3g}" in str(found)
        assert "there are no more" in str(found)
    assert "more may" in str(scale_of(random.normal(size=(200, 50)), n=5000))
    assert found.grad_sq / found.trace < 1e-3  # as it was estimated, not cut off at zero
    negative = next(e for s in range(9) if (e := scale_of(np.random.default_rng(s).normal(size=(99, 50)))).grad_sq < 0)
    assert negative.value == math.inf


def test_gradients_that_are_all_alike_have_no_noise() -> None:
    found = scale_of(np.ones((5, 3)))
    assert (found.value, found.low, found.high) == (0, 0, 0)
    with pytest.raises(ValueError, match="at least 3 gradients, got 2"):
        scale_of(np.ones((2, 3)))
    with pytest.raises(ValueError, match="0 < b < m"):
        noise_scale_of_batches(np.ones(3), np.ones(3), 8, 8, examples=24)


# -- several measurements in one


def test_measurements_at_different_weights_count_alike() -> None:
    """Of two problems with one noise scale, gradients of a thousand times the size decide nothing."""
    random = np.random.default_rng(0)
    parts = []
    for scale, noise in ((1000.0, 1.0), (1.0, 3.0), (1.0, 3.0)):
        g = scale * (np.ones((4000, 20)) + noise * random.normal(size=(4000, 20)))
        parts.append(moments(np.square(g).sum(1), g @ g.mean(0)))
    assert [p.trace / p.grad_sq for p in parts] == pytest.approx([1, 9, 9], rel=0.05)
    found = combined(parts)
    assert found.value == pytest.approx(1 / np.mean([1 / 2, 1 / 10, 1 / 10]) - 1, rel=0.05)  # |G|²/q = 1 / (1 + B)
    assert found.low < found.value < found.high


def test_measurements_of_one_training_are_summed_with_the_updates_they_stand_for() -> None:
    random = np.random.default_rng(0)
    parts, truth = [], np.array([(4.0, 80.0), (0.01, 40.0)])  # |G|², tr Σ
    for grad_sq, trace in truth:
        g = math.sqrt(grad_sq / 20) + math.sqrt(trace / 20) * random.normal(size=(8000, 20))
        parts.append(moments(np.square(g).sum(1), g @ g.mean(0)))
    found = combined(parts, weights=[1, 9])
    assert found.value == pytest.approx((80 + 9 * 40) / (4 + 9 * 0.01), rel=0.05)
    assert found.low < found.value < found.high


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_quantiles_of_student_s_t_are_those_of_scipy(confidence: float) -> None:
    for freedom in (3, 59, 60, 1000):
        assert _quantile(freedom, confidence) == pytest.approx(stdtrit(freedom, 0.5 + confidence / 2), rel=3e-6)

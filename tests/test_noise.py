"""The gradient noise scale: closed forms, and the gradients of single examples that it is made of."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data import breast_cancer, diabetes, digits
from flax import nnx
from scipy.special import stdtrit

import epochal as keras
from epochal import layers
from epochal.critical_batch import (
    _quantile,
    combined,
    fit_steps_to_target,
    moments,
    moments_of_batches,
    noise_scale,
    noise_scale_of_batches,
    of_pieces,
    ratio_interval,
)

# x ~ N(0, H), y ~ N(0, 1), δ = ½: with q = δᵀHδ, B = 1 + tr(H) (q + 1) / |Hδ|², shared/design/batch-size.md.
IDENTITY, HARMONIC = np.ones(10), 1 / np.arange(1, 11)
TRUTHS = [(IDENTITY, 15.0), (HARMONIC, 14.095)]


def regression(h: np.ndarray, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.normal(size=(n, 10)) * np.sqrt(h), random.normal(size=n)


def gradients_of(x: np.ndarray, y: np.ndarray, weights: Any = 0.5) -> np.ndarray:
    """(n, d), those of ½ (x·w - y)²."""
    return x * (x @ np.full(x.shape[1], weights) - y)[:, None]


def scale_of(gradients: np.ndarray, **named: Any) -> Any:
    return noise_scale(np.square(gradients).sum(1), gradients @ gradients.mean(0), **named)


def linear(features: int, weights: float = 0.5, optimizer: Any = "sgd") -> Any:
    model = keras.Sequential([layers.Dense(1, use_bias=False, input_shape=(features,))])
    model.compile(optimizer, "mse")
    model.set_weights([np.full((features, 1), weights, np.float32)])
    return model


def by_single_steps(model: Any, x: Any, y: Any, n: int, **named: Any) -> np.ndarray:
    """(n, p): what SGD with rate 1 takes off the weights for each example alone."""
    model.compile(keras.optimizers.SGD(1.0), **named)
    before = model.get_weights()
    found = []
    for i in range(n):
        model.set_weights(before)
        model.train_on_batch(*[{k: v[i : i + 1] for k, v in part.items()} for part in (x, y)])
        found.append(np.concatenate([(b - a).ravel() for b, a in zip(before, model.get_weights(), strict=True)]))
    model.set_weights(before)
    return np.array(found, np.float64)


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


# -- the gradients of a model


def two_by_two() -> tuple[Any, Any, Any]:
    """A graph of two inputs and two outputs that uses one layer twice; its data."""
    x, y = digits(12)
    left, right = keras.Input((32,), name="left"), keras.Input((32,), name="right")
    shared = layers.Dense(5, activation="tanh", kernel_regularizer="l2")
    both = layers.Concatenate()([shared(left), shared(right)])
    outputs = [
        layers.Dense(10, activation="softmax", name="digit")(both),
        layers.Dense(1, activation="sigmoid", name="even")(both),
    ]
    return (
        keras.Model([left, right], outputs),
        {"left": x[:, :32], "right": x[:, 32:]},
        {"digit": y, "even": (y % 2 == 0).astype(np.float32)[:, None]},
    )


@pytest.mark.parametrize("eager", [False, True])
def test_gradients_are_those_of_training_on_each_example_alone(eager: bool) -> None:
    """Several inputs and outputs, loss weights, a penalty, weights that are used twice."""
    model, x, y = two_by_two()
    arguments: dict[str, Any] = {"loss": "ce", "loss_weights": {"digit": 0.3, "even": 2.0}}
    n = 4 if eager else 12
    x, y = ({name: v[:n] for name, v in part.items()} for part in (x, y))
    gradients = by_single_steps(model, x, y, n, **arguments)
    model.compile("adam", **arguments, run_eagerly=eager)
    found, expected = keras.gradient_noise_scale(model, x, y, chunk=3, group=1), scale_of(gradients, n=n)
    assert found.trace == pytest.approx(expected.trace, rel=1e-4)
    assert found.grad_sq == pytest.approx(expected.grad_sq, rel=1e-3)


def test_weights_make_the_noise_of_weighted_losses() -> None:
    """Rows that weigh nothing are rows all the same: of twice as many examples half tell something (n_eff = n / 2)."""
    x, y = diabetes()
    weight = np.random.default_rng(0).uniform(0, 2, len(x))
    model, g = linear(10), gradients_of(x, y)
    found = keras.gradient_noise_scale(model, x, y, weight, group=1)
    assert found.value == pytest.approx(scale_of(g * weight[:, None]).value, rel=1e-3)
    plain = keras.gradient_noise_scale(model, x, y, group=1)
    twice = [np.concatenate([a, a]) for a in (x, y)]
    halved = keras.gradient_noise_scale(model, *twice, np.repeat([1.0, 0.0], len(x)), group=1)
    assert halved.value == pytest.approx(2 * plain.value + 1, rel=0.01)


def test_class_weights_are_sample_weights() -> None:
    x, y = breast_cancer()
    model = keras.Sequential([layers.Dense(1, activation="sigmoid")])
    model.compile("sgd", "bce")
    by_class = keras.gradient_noise_scale(model, x, y, class_weight={0: 3.0, 1: 0.5}, examples=300)
    by_example = keras.gradient_noise_scale(model, x, y, np.where(y == 0, 3.0, 0.5), examples=300)
    assert by_class == by_example


def test_data_sorted_by_label_are_drawn_at_random() -> None:
    x, y = digits()
    order = np.argsort(y, kind="stable")
    model = keras.Sequential([layers.Dense(10, activation="softmax")])
    model.compile("sgd", "ce")
    whole = keras.gradient_noise_scale(model, x, y)
    found = keras.gradient_noise_scale(model, x[order], y[order], examples=300)
    assert found.low <= whole.value <= found.high
    first = keras.gradient_noise_scale(model, x[order][:300], y[order][:300])  # two labels only
    assert first.high < whole.low / 2
    again = keras.gradient_noise_scale(model, x[order], y[order], examples=300)
    assert again == found  # the same seed draws the same examples
    assert keras.gradient_noise_scale(model, x[order], y[order], examples=300, seed=1) != found


def test_how_many_are_computed_at_a_time_does_not_matter() -> None:
    x, y = digits(50)
    model = keras.Sequential([layers.Dense(10, activation="softmax")])
    model.compile("sgd", "ce")
    found = [keras.gradient_noise_scale(model, x, y, chunk=chunk) for chunk in (1, 7, 50, None)]
    assert [f.value for f in found] == pytest.approx([found[0].value] * 4, rel=1e-4)


class Flax(nnx.Module):
    """A linear model with dropout and batch normalization of Flax."""

    def __init__(self, rate: float):
        self.dense = nnx.Linear(10, 1, use_bias=False, rngs=nnx.Rngs(0))
        self.drop = nnx.Dropout(rate, rngs=nnx.Rngs(0))
        self.norm = nnx.BatchNorm(1, use_bias=False, use_scale=False, epsilon=1e-3, rngs=nnx.Rngs(0))

    def __call__(self, x: Any) -> Any:
        return self.norm(self.dense(self.drop(x)))


class Seeded(layers.Layer):
    """Noise by a `SeedGenerator`."""

    def __init__(self) -> None:
        super().__init__()
        self.seeds = keras.random.SeedGenerator(0)

    def call(self, x: Any) -> Any:
        return x * keras.random.uniform(x.shape, seed=self.seeds)


@pytest.mark.parametrize("kind", ["epochal", "flax", "seeded", "none"])
def test_dropout_draws_a_mask_for_each_example(kind: str) -> None:
    """Examples that are all alike differ by their masks alone."""
    x, y = (np.repeat(a[:1], 20, 0) for a in diabetes())
    drop = {"epochal": layers.Dropout(0.5), "seeded": Seeded(), "none": layers.Dropout(0.0)}
    model: Any = keras.Model(Flax(0.5))
    if kind != "flax":
        model = keras.Sequential([drop[kind], layers.Dense(1, use_bias=False)])
    model.compile("sgd", "mse")
    found = keras.gradient_noise_scale(model, x, y)
    assert (found.trace > 0.1 * abs(found.grad_sq)) == (kind != "none")


@pytest.mark.parametrize("flax", [False, True])
def test_batch_normalization_uses_its_moving_statistics(flax: bool) -> None:
    """Those of the start are 0 and 1: the layer is a division by √(1 + epsilon)."""
    x, y = diabetes()
    norm = layers.BatchNormalization(center=False, scale=False, epsilon=1e-3)
    model: Any = keras.Model(Flax(0.0)) if flax else keras.Sequential([layers.Dense(1, use_bias=False), norm])
    plain = keras.Sequential([layers.Dense(1, use_bias=False), layers.Rescaling(1 / math.sqrt(1.001))])
    for each in (model, plain):
        each.compile("sgd", "mse")
    found = keras.gradient_noise_scale(model, x, y)
    statistics = [w for w in model.get_weights() if w.shape == (1,)]
    assert sorted(float(s[0]) for s in statistics) == [0, 1]  # and they stay
    plain.build((None, 10))
    plain.set_weights([w for w in model.get_weights() if w.shape == (10, 1)])
    expected = keras.gradient_noise_scale(plain, x, y)
    assert [found.trace, found.grad_sq] == pytest.approx([expected.trace, expected.grad_sq], rel=1e-4)


def test_weight_decay_and_clipping_are_not_part_of_the_gradient() -> None:
    x, y = diabetes()
    plain = keras.gradient_noise_scale(linear(10), x, y)
    optimizer = keras.optimizers.SGD(0.1, weight_decay=0.5, clipnorm=1e-3)
    assert keras.gradient_noise_scale(linear(10, optimizer=optimizer), x, y) == plain


@pytest.mark.parametrize("name", ["Adam", "AdamW", "Nadam"])
def test_preconditioned_by_what_the_optimizer_keeps(name: str) -> None:
    x, y = diabetes()
    model = linear(10, optimizer=getattr(keras.optimizers, name)(0.01))
    with pytest.raises(ValueError, match="train some steps first"):
        keras.gradient_noise_scale(model, x, y, preconditioned=True)
    model.fit(x, y, epochs=2, verbose=0)
    optimizer, w = model.optimizer, model.get_weights()[0]
    v = np.asarray(optimizer.state.slots[0]["velocity"])[:, 0]
    if name == "Nadam":
        v = v / (1 - optimizer.beta_2**optimizer.iterations)
    g = 2 * x * (x @ w - y[:, None]) / (np.sqrt(v) + 1e-7)
    found = keras.gradient_noise_scale(model, x, y, preconditioned=True, group=1)
    assert found.value == pytest.approx(scale_of(g).value, rel=1e-3)
    assert found.value != pytest.approx(keras.gradient_noise_scale(model, x, y).value, rel=0.01)


def test_measuring_changes_nothing() -> None:
    """Training goes on with the bits of a run that was not measured."""
    x, y = digits(300)

    def trained(measured: bool) -> list[np.ndarray]:
        keras.utils.set_random_seed(1)
        hidden = [layers.Dense(16, activation="relu"), layers.Dropout(0.3), layers.BatchNormalization()]
        model = keras.Sequential([*hidden, layers.Dense(10, activation="softmax")])
        model.compile("sgd", "ce")
        model.fit(x, y, epochs=1, verbose=0)
        if measured:
            before = model.get_weights()
            keras.gradient_noise_scale(model, x, y)
            assert all(map(np.array_equal, before, model.get_weights()))
        model.fit(x, y, epochs=1, verbose=0)
        return model.get_weights()

    assert all(map(np.array_equal, trained(True), trained(False)))


def test_arrays_on_disk_are_read_where_they_are_drawn(tmp_path: Path) -> None:
    x, y = diabetes()
    np.save(tmp_path / "x.npy", x)
    model = linear(10)
    found = keras.gradient_noise_scale(model, np.load(tmp_path / "x.npy", mmap_mode="r"), y, examples=100)
    assert found == keras.gradient_noise_scale(model, x, y, examples=100)


def test_what_cannot_be_measured_is_refused() -> None:
    x, y = diabetes(50)
    model = linear(10)

    def measure(*data: Any, of: Any = model, **named: Any) -> Any:
        return keras.gradient_noise_scale(of, *(data or (x, y)), **named)

    with pytest.raises(RuntimeError, match="Call compile"):
        measure(of=keras.Sequential([layers.Dense(1)]))
    for wrong in ({"examples": 0}, {"examples": "all"}, {"group": 0}, {"chunk": 0}, {"confidence": 95}):
        with pytest.raises(ValueError, match=f"Expected {next(iter(wrong))}"):
            measure(**wrong)
    with pytest.raises(ValueError, match="draws examples at random, which a list_iterator does not allow"):
        measure(iter([(x, y)]), None)
    with pytest.raises(ValueError, match=r"needs Adam, AdamW or Nadam.*has SGD"):
        measure(preconditioned=True)
    norm = keras.Sequential([layers.Dense(1), layers.BatchNormalization()])
    norm.compile("adam", "mse")
    with pytest.raises(ValueError, match="does not work with batch normalization"):
        measure(of=norm, preconditioned=True)
    stateful = keras.Sequential([keras.Input((5, 2), batch_size=10), layers.LSTM(2, stateful=True), layers.Dense(1)])
    stateful.compile("sgd", "mse")
    with pytest.raises(ValueError, match="stateful model's gradient"):
        measure(x.reshape(50, 5, 2), y, of=stateful)
    broken = x.copy()
    broken[7] = np.nan
    with pytest.raises(ValueError, match=r"1 of 50 gradients are not finite \(first that of rows \[7\] of x\)"):
        measure(broken, y)
    with pytest.raises(ValueError, match="at least 3 gradients, got 50 examples in groups of 20"):
        measure(group=20)


# -- the callback


def watched(callbacks: Any, epochs: int = 6, n: int = 400, **named: Any) -> tuple[Any, Any]:
    x, y = diabetes(n)
    keras.utils.set_random_seed(2)
    model = keras.Sequential([layers.Dense(8, activation="relu"), layers.Dropout(0.2), layers.Dense(1)])
    model.compile("sgd", "mse")
    keras.utils.set_random_seed(2)
    return model, model.fit(x, y, epochs=epochs, verbose=0, callbacks=callbacks, **named).history


def test_the_callback_logs_what_a_measurement_at_its_weights_finds_and_changes_nothing() -> None:
    model, history = watched([keras.callbacks.NoiseScale(every=1, examples=400)], epochs=1)
    plain, _ = watched([], epochs=1)
    assert all(map(np.array_equal, model.get_weights(), plain.get_weights()))
    found = keras.gradient_noise_scale(model, *diabetes(400), group=16)
    low, high = history["noise_scale_low"][0], history["noise_scale_high"][0]
    assert low < history["noise_scale"][0] < high
    assert low < found.value < high  # other groups of the same examples
    assert history["noise_scale"][0] == pytest.approx(found.value, rel=0.2)
    _, repeated = watched([keras.callbacks.NoiseScale(every=1, examples=400)], epochs=1)
    assert repeated == history


def test_the_callback_averages_five_measurements_and_starts_anew_with_a_new_learning_rate() -> None:
    callback = keras.callbacks.NoiseScale(every=2, examples=60)
    counts: list[int] = []
    count = keras.callbacks.LambdaCallback(on_epoch_end=lambda e, logs: counts.append(callback.estimate.examples))
    halved = keras.callbacks.LearningRateScheduler(lambda e: 0.01 if e < 13 else 0.005)
    _, history = watched([halved, callback, count], epochs=16)
    each = 8 * 7  # groups of 7
    assert counts == [each * k for k in (1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 5, 5, 5, 5, 1, 1)]
    assert history["noise_scale"][0] == history["noise_scale"][1] != history["noise_scale"][2]


@pytest.mark.parametrize("n", [50, 1797, 20_000, 60_000, 1_000_000])
def test_the_callback_measures_no_more_than_two_percent_pays_for(n: int) -> None:
    """By count, so that no result depends on the clock; benchmarks/noise_cost.py measures what a gradient costs."""
    callback = keras.callbacks.NoiseScale()
    callback._feed = type("Feed", (), {"n": n, "per_epoch": n})()
    drawn, every = callback.drawn, callback.due_every(callback.pause)
    assert callback.COST * drawn <= 0.02 * n * every
    assert min(n, 128) <= drawn <= 2048


def test_in_the_long_and_the_short_run_measurements_are_paid_for_before_they_are_made() -> None:
    callback = keras.callbacks.NoiseScale()
    with pytest.warns(UserWarning, match=r"with 442 examples .* after 362 epochs\. NoiseScale\(every=1\)"):
        _, history = watched([callback], epochs=2, n=442)
    assert all(map(math.isnan, history["noise_scale"]))
    measured: list[int] = []
    callback._steps = type("Steps", (), {"most": {}})()
    callback._feed = type("Feed", (), {"n": 1797, "per_epoch": 1797})()
    callback._measure = lambda epoch, drawn: measured.append(epoch)
    callback._reset()
    for epoch in range(200):
        callback.on_epoch_end(epoch)
    assert all((i + 1) * callback.COST * callback.drawn <= 0.02 * 1797 * (e + 1) for i, e in enumerate(measured))
    assert len(measured) == 2


# -- the callback, where batches are run in pieces


def in_pieces(callbacks: list[Any], epochs: int = 1, **named: Any) -> tuple[Any, Any]:
    """A linear model with a penalty, whose weights of 0.5 all but stay; batches of 32 in pieces of 8."""
    given = {"micro_batch_size": 8, "rate": 1e-9, "batch_size": 32, "n": 404, **named}
    x, y = diabetes(given["n"])
    model = keras.Sequential([layers.Dense(1, use_bias=False, input_shape=(10,), kernel_regularizer="l2")])
    model.compile(keras.optimizers.SGD(given["rate"]), "mse", micro_batch_size=given["micro_batch_size"])
    model.set_weights([np.full((10, 1), 0.5, np.float32)])
    fit = {"batch_size": given["batch_size"], "shuffle": False, "verbose": 0}
    return model, model.fit(x, y, epochs=epochs, callbacks=callbacks, **fit).history


def sums_by_hand(n: int = 404) -> np.ndarray:
    g, penalty = 2 * gradients_of(*diabetes(n)), np.full(10, 2 * 0.01 * 0.5)
    rows = []
    for start in range(0, n, 32):
        batch = g[start : start + 32]
        pieces = [batch[i : i + 8] for i in range(0, len(batch), 8)]  # of the last 20: 8, 8, 4
        m, k = len(batch), len(pieces)
        small = sum(len(piece) / m * np.square(piece.mean(0)).sum() for piece in pieces)
        trace = (small - np.square(batch.mean(0)).sum()) * m / (k - 1)
        grad_sq = np.square(batch.mean(0) + penalty).sum() - trace / m
        rows.append([1, m, grad_sq, trace, grad_sq**2, grad_sq * trace, trace**2])
    return np.sum(rows, axis=0)


@pytest.mark.parametrize(("h", "truth"), TRUTHS)
def test_batches_of_unequal_pieces_hold_the_true_noise_scale_in_90_of_100_seeds(h: np.ndarray, truth: float) -> None:
    within, found = 0, []
    for seed in range(100):
        g = gradients_of(*regression(h, 2400, seed)).reshape(60, 40, 10)
        parts = np.split(g, [9, 25], axis=1)
        small = sum(p.shape[1] / 40 * np.square(p.mean(1)).sum(1) for p in parts)
        grad_sq, trace = of_pieces(small, np.square(g.mean(1)).sum(1), 3, 40)
        values = [np.ones(60), np.full(60, 40), grad_sq, trace, grad_sq**2, grad_sq * trace, trace**2]
        found.append(combined([moments_of_batches(np.sum(values, axis=1))]))
        within += found[-1].low <= truth <= found[-1].high
    assert within >= 90
    assert np.mean([e.trace for e in found]) / np.mean([e.grad_sq for e in found]) == pytest.approx(truth, rel=0.05)


def test_batches_in_pieces_tell_the_noise_of_the_gradients_that_train() -> None:
    callback = keras.callbacks.NoiseScale(every=1)
    model, history = in_pieces([callback])
    expected = combined([moments_of_batches(sums_by_hand())], n=404)
    found = callback.estimate
    assert found is not None
    assert [found.value, found.low, found.high] == pytest.approx(
        [expected.value, expected.low, expected.high], rel=1e-3
    )
    assert (found.examples, found.n) == (404, 404)
    logged = [history[f"noise_scale{end}"][0] for end in ("", "_low", "_high")]
    assert logged == [found.value, found.low, found.high]
    plain, _ = in_pieces([])
    assert all(map(np.array_equal, model.get_weights(), plain.get_weights()))
    assert "gradients" not in model._training.current.kept  # none but those that train


def test_a_batch_in_pieces_per_epoch_is_measured_over_three_epochs_and_anew_with_a_new_rate() -> None:
    halved = keras.callbacks.LearningRateScheduler(lambda e: 0.01 if e < 7 else 0.005)
    _, history = in_pieces([halved, keras.callbacks.NoiseScale(every=1)], epochs=11, batch_size=404)
    changes = np.flatnonzero(np.diff(np.nan_to_num(history["noise_scale"], nan=-1.0))) + 1
    assert changes.tolist() == [2, 5, 9]  # the seventh epoch's batch was at the old rate


def test_where_the_memory_does_not_suffice_noise_is_measured_from_the_next_epoch_on(monkeypatch: Any) -> None:
    monkeypatch.setenv("EPOCHAL_MEMORY_LIMIT", "24kB")
    model, history = in_pieces([keras.callbacks.NoiseScale(every=1)], epochs=3, micro_batch_size="auto", batch_size=101)
    assert np.isfinite(history["noise_scale"]).tolist() == [False, True, True]
    assert "gradients" not in model._training.current.kept


class OneInTwo(keras.callbacks.NoiseScale):
    """Listens to one in two batches in pieces of 8."""

    PIECE, LIGHT = 16, 0  # whatever it costs


@pytest.mark.parametrize(("h", "truth"), TRUTHS)
def test_one_in_two_batches_hold_the_true_noise_scale_in_90_of_100_seeds(h: np.ndarray, truth: float) -> None:
    """Evenly, whatever the number of batches; and they train as if nobody listened."""
    model, within = linear(10), 0
    for seed in range(100):
        x, y = regression(h, 1920, seed)
        model.compile(keras.optimizers.SGD(1e-9), "mse", micro_batch_size=8) if seed == 0 else None
        model.set_weights([np.full((10, 1), 0.5, np.float32)])
        callback = OneInTwo()
        model.fit(x, y, batch_size=32, verbose=0, callbacks=[callback])
        found = callback.estimate
        assert found is not None
        assert 28 * 32 <= found.examples <= 32 * 32
        within += found.low <= truth <= found.high
    assert within >= 90


@pytest.mark.parametrize("steps", [1, 6, 57, 501, 5000])
def test_of_small_models_about_one_in_500_batches_is_heard_however_few_an_epoch_has(steps: int) -> None:
    callback, heard = keras.callbacks.NoiseScale(), 0.0
    callback._feed, callback._parameters = type("Feed", (), {"steps": steps})(), 4810
    for epoch in range(2000):
        callback.on_epoch_begin(epoch)
        one_in = callback.one_in(8)
        heard += steps / one_in if one_in else 0
    assert heard == pytest.approx(2000 * steps / 500, rel=0.1)


def test_weights_are_the_same_bits_whoever_listens() -> None:
    x, y = digits(400)
    found = []
    for callbacks in ([], [OneInTwo()], [keras.callbacks.NoiseScale(every=1)]):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([layers.Dense(32, activation="relu"), layers.Dropout(0.2), layers.Dense(10)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss, micro_batch_size=8)
        model.fit(x, y, batch_size=48, epochs=2, verbose=0, callbacks=callbacks)
        found.append(model.get_weights())
    assert all(np.array_equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def test_an_interval_of_a_mean_gradient_of_nothing_is_without_ends() -> None:
    assert ratio_interval(1.0, 0.0, (0.01, 0.0, 0.0), 0.95, 10) == (math.inf, math.inf)


@pytest.mark.parametrize("at", [(1, 2), pytest.param((1, "end"), marks=pytest.mark.slow)])
def test_noise_of_pieces_is_the_same_where_a_run_was_broken_off(at: Any, tmp_path: Path) -> None:
    class Broken(Exception):
        pass

    class BreakOff(keras.callbacks.Callback):
        def __init__(self, at: Any):
            self.at, self.epoch = at, 0

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.epoch = epoch

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            if self.at == (self.epoch, batch):
                raise Broken

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            if self.at == (epoch, "end"):
                raise Broken

    def run(folder: str, at: Any) -> Any:
        backup = keras.callbacks.BackupAndRestore(tmp_path / folder, save_freq=1)
        callbacks = [OneInTwo(), BreakOff(at), backup]
        return in_pieces(callbacks, epochs=2, rate=0.01, batch_size=101)

    expected = str(run("whole", None)[1])  # nothing is measured in the first epoch, and NaN is not NaN
    with pytest.raises(Broken):
        run("broken", at)
    assert str(run("broken", None)[1]) == expected


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


def test_noise_summed_over_a_training_tells_how_steps_to_a_target_grow_with_the_batch_size() -> None:
    """A noisy quadratic at its best constant learning rate: neither its first nor its last noise scale would do."""
    h = noise = 1 / np.arange(1, 31)

    def steps(m: float, rate: float, most: float) -> tuple[float, np.ndarray]:
        squares, t, path = np.ones(30), 0, []
        while h @ squares > 0.1 * h.sum() and t < most:
            path.append(h**2 @ squares)
            squares, t = (1 - rate * h) ** 2 * squares + rate**2 * noise / m, t + 1
        return t, np.array(path)

    sizes, needed = (1, 4, 16, 64, 256), []
    for m in sizes:
        best = 1000.0
        for rate in np.geomspace(0.01, 1.9, 60):
            best = min(best, steps(m, rate, best)[0])
        needed.append(best)
    tried = fit_steps_to_target(sizes, needed)
    _, signal = steps(64, 0.05, 1000)
    scale = noise.sum() / signal
    assert noise.sum() * len(signal) / signal.sum() == pytest.approx(tried.value, rel=0.35)
    assert scale[0] < tried.value / 4
    assert scale[-1] > tried.value * 4


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_quantiles_of_student_s_t_are_those_of_scipy(confidence: float) -> None:
    for freedom in (3, 59, 60, 1000):
        assert _quantile(freedom, confidence) == pytest.approx(stdtrit(freedom, 0.5 + confidence / 2), rel=3e-6)


@pytest.mark.parametrize("wrong", [{"every": 0}, {"every": 1.5}, {"examples": True}, {"confidence": 2}])
def test_arguments_of_the_callback_are_checked(wrong: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        keras.callbacks.NoiseScale(**wrong)

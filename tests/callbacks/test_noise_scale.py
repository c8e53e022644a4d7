"""The callback that measures the gradient noise scale while a model trains."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.data import diabetes, digits
from support.models import only_programs
from support.noise import TRUTHS, gradients_of, linear, regression
from support.same import same

import epochal as keras
from epochal import layers
from epochal.critical_batch import (
    combined,
    fit_steps_to_target,
    moments_of_batches,
    of_pieces,
    ratio_interval,
)

pytestmark = pytest.mark.optimized  # bits are compared

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
    assert same(model.get_weights(), plain.get_weights())
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
    callback._steps = SimpleNamespace(train=SimpleNamespace(most=None))
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
    assert same(model.get_weights(), plain.get_weights())
    assert not only_programs(model).gradients  # none but those that train


def test_a_batch_in_pieces_per_epoch_is_measured_over_three_epochs_and_anew_with_a_new_rate() -> None:
    halved = keras.callbacks.LearningRateScheduler(lambda e: 0.01 if e < 7 else 0.005)
    _, history = in_pieces([halved, keras.callbacks.NoiseScale(every=1)], epochs=11, batch_size=404)
    changes = np.flatnonzero(np.diff(np.nan_to_num(history["noise_scale"], nan=-1.0))) + 1
    assert changes.tolist() == [2, 5, 9]  # the seventh epoch's batch was at the old rate


def test_where_the_memory_does_not_suffice_noise_is_measured_from_the_next_epoch_on(monkeypatch: Any) -> None:
    monkeypatch.setenv("EPOCHAL_MEMORY_LIMIT", "24kB")
    model, history = in_pieces([keras.callbacks.NoiseScale(every=1)], epochs=3, micro_batch_size="auto", batch_size=101)
    assert np.isfinite(history["noise_scale"]).tolist() == [False, True, True]
    assert not only_programs(model).gradients


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


@pytest.mark.parametrize("wrong", [{"every": 0}, {"every": 1.5}, {"examples": True}, {"confidence": 2}])
def test_arguments_of_the_callback_are_checked(wrong: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        keras.callbacks.NoiseScale(**wrong)

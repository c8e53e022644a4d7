"""Batches that are run in micro-batches: the result is that of the whole batch, in the memory of a piece."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from data import digits

import epochal as keras

layers, losses = keras.layers, keras.losses

N, M = 110, 25  # five batches of 25, the last of 10


def classifier(*middle: Any, **compile_arguments: Any) -> Any:
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            layers.Dense(16, activation="relu", input_shape=(64,), kernel_regularizer=keras.regularizers.L2(0.01)),
            *middle,
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(**{"optimizer": "adam", "loss": "ce", "metrics": ["accuracy"], **compile_arguments})
    return model


def images(n: int = N) -> dict[str, Any]:
    x, y = digits(n)
    return {"x": x, "y": y}


def sequences() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Digits read row by row, some broken off: x (N, 8, 8), 0 behind the end; their sums of rows (N, 8, 1); classes."""
    x, y = digits(N)
    x = x.reshape(N, 8, 8).copy()
    lengths = np.random.default_rng(0).integers(1, 9, N)
    x[np.arange(8) >= lengths[:, None]] = 0
    return x, x.sum(-1, keepdims=True) / 8, y


class Squares(layers.Layer):
    """Adds the mean square of its inputs to the loss."""

    def call(self, x: Any) -> Any:
        self.add_loss(0.1 * jnp.mean(x**2))
        return x


class Right(keras.metrics.Metric):
    """A metric with a state of its own, which knows nothing of padding."""

    def __init__(self, name: str = "right"):
        super().__init__(name=name)
        self.count = self.add_variable(shape=(), initializer="zeros", name="count")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.count.assign_add(jnp.sum(jnp.argmax(y_pred, -1) == y_true.reshape(-1)))

    def result(self) -> Any:
        return self.count


def logarithm(y_true: Any, y_pred: Any) -> Any:
    """A loss of one's own, a value per example."""
    return -jnp.log(jnp.take_along_axis(y_pred, y_true.reshape(-1, 1), 1)[:, 0])


# -- the same result. Each case is a model, made for a micro-batch size, and what it is fitted with.


def weighted(**micro: Any) -> tuple[Any, dict[str, Any]]:
    optimizer = keras.optimizers.Adam(0.003, clipnorm=0.1, use_ema=True)
    model = classifier(layers.Dropout(0.3), optimizer=optimizer, weighted_metrics=["ce"], **micro)
    return model, {**images(), "sample_weight": np.linspace(0, 2, N, dtype=np.float32), "class_weight": {3: 2.0}}


def own_code(**micro: Any) -> tuple[Any, dict[str, Any]]:
    return classifier(loss=logarithm, metrics=[Right(), "accuracy"], **micro), images()


def penalties(**micro: Any) -> tuple[Any, dict[str, Any]]:
    active = layers.Dense(8, activity_regularizer=keras.regularizers.L1(0.01))
    return classifier(active, Squares(), optimizer="sgd", **micro), images()


def some_classes_ignored(**micro: Any) -> tuple[Any, dict[str, Any]]:
    return classifier(loss=losses.SparseCategoricalCrossentropy(ignore_class=3), **micro), images()


def divided_by_weights(**micro: Any) -> tuple[Any, dict[str, Any]]:
    loss = losses.SparseCategoricalCrossentropy(reduction="mean_with_sample_weight")
    return classifier(loss=loss, **micro), {**images(), "sample_weight": np.linspace(0, 2, N, dtype=np.float32)}


def several_outputs(**micro: Any) -> tuple[Any, dict[str, Any]]:
    """Outputs whose losses divide by other numbers: positions that a mask leaves, examples, nothing."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((8, 8))
    steps = layers.SimpleRNN(6, return_sequences=True, recurrent_dropout=0.2)(layers.Masking()(inputs))
    sums = layers.Dense(1, name="sums")(steps)
    digit = layers.Dense(10, activation="softmax", name="digit")(layers.GlobalAveragePooling1D()(steps))
    total = layers.Dense(1, name="total")(layers.Flatten()(inputs))
    model = keras.Model(inputs, {"sums": sums, "digit": digit, "total": total})
    compiled = {"sums": "mse", "digit": "ce", "total": losses.MeanSquaredError(reduction="sum")}
    weights = {"sums": 3.0, "digit": 1.0, "total": 0.01}
    model.compile("adam", compiled, {"sums": ["mae"], "digit": ["accuracy"]}, weights, **micro)
    x, y, classes = sequences()
    return model, {"x": x, "y": {"sums": y, "digit": classes, "total": y.sum(1)}}


def mask_made_by_weights(**micro: Any) -> tuple[Any, dict[str, Any]]:
    """How many positions count is known once the batch has gone through the first layer."""
    keras.utils.set_random_seed(5)
    model = keras.Sequential(
        [layers.Dense(2, activation="relu", input_shape=(8, 8)), layers.Dropout(0.2), layers.Masking(), layers.Dense(1)]
    )
    model.compile("sgd", "mse", ["mae"], **micro)
    x, y, _ = sequences()
    return model, {"x": x, "y": y}


class Stream:
    """Batches that can be gone over again."""

    def __iter__(self) -> Iterator[Any]:
        data = images()
        return ((data["x"][i : i + M], data["y"][i : i + M]) for i in range(0, N, M))


def batches_of_a_stream(**micro: Any) -> tuple[Any, dict[str, Any]]:
    return classifier(layers.Dropout(0.3), **micro), {"x": Stream()}


def updates_left_out(**micro: Any) -> tuple[Any, dict[str, Any]]:
    data = images()
    x = data["x"].copy()
    x[31] = np.nan
    return classifier(on_nonfinite="skip", **micro), {**data, "x": x, "shuffle": False}


CASES = [
    weighted,
    own_code,
    penalties,
    some_classes_ignored,
    divided_by_weights,
    several_outputs,
    mask_made_by_weights,
    batches_of_a_stream,
    updates_left_out,
]


def trained(case: Callable, micro_batch_size: Any, epochs: int = 2) -> tuple[Any, Any, dict[str, float]]:
    model, given = case(micro_batch_size=micro_batch_size)
    size = {} if case is batches_of_a_stream else {"batch_size": M}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Epoch .: 1 update was skipped")
        history = model.fit(**given, **size, epochs=epochs, verbose=0)
    scored = {name: given[name] for name in ("x", "y", "sample_weight") if name in given}
    return model, history, model.evaluate(**scored, **size, verbose=0, return_dict=True)


whole = functools.cache(lambda case: trained(case, "auto"))


def assert_same(found: Any, expected: Any, rtol: float = 1e-6) -> None:
    """Weights differ by at most so much of the largest in their array, values by so much of themselves."""
    (model, history, values), (other, same_history, same_values) = found, expected
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        assert np.abs(a - b).max() <= rtol * np.abs(b).max()
    assert history.skipped == same_history.skipped
    for name, series in same_history.history.items():
        np.testing.assert_allclose(history.history[name], series, rtol=2e-6, err_msg=name)
    assert {n: v for n, v in values.items() if np.isfinite(v)} == pytest.approx(
        {n: v for n, v in same_values.items() if np.isfinite(v)}, rel=2e-6
    )


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", [4])  # five pieces of 4 or 5, of the last batch two or three
def test_a_batch_in_pieces_has_the_result_of_the_whole(case: Callable, size: int) -> None:
    found = trained(case, size)
    assert found[0].programs()["train"] == whole(case)[0].programs()["train"] <= 2
    assert_same(found, whole(case))

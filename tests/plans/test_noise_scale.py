"""The gradients of single examples that the gradient noise scale is made of."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import nnx
from support.data import breast_cancer, diabetes, digits
from support.noise import gradients_of, linear, scale_of
from support.same import same

import epochal as keras
from epochal import layers


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
            assert same(before, model.get_weights())
        model.fit(x, y, epochs=1, verbose=0)
        return model.get_weights()

    assert same(trained(True), trained(False))


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

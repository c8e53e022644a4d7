"""Rule B.9: a mask weights the loss and every metric alike, in all methods, whatever the batches and padding."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import keras as real
import numpy as np
import pytest
from support.data import digits

import epochal as ours

# Sequences of 8 steps with 8 features: the rows of the digits. Each ends after a number of steps of its own.
STEPS = 8


def _sequences(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x = digits(n)[0].reshape(n, STEPS, 8).copy() + 0.1
    lengths = 1 + np.arange(n) * 5 % STEPS
    mask = np.arange(STEPS) < lengths[:, None]
    x[~mask] = 0
    y = x.sum(-1, keepdims=True) + np.arange(STEPS)[:, None] / 4
    return x, y.astype(np.float32), mask


def _model(k: Any, **kwargs: Any) -> Any:
    layers = [k.Input((STEPS, 8)), k.layers.Masking(), k.layers.Dense(4, "tanh"), k.layers.Dense(1)]
    model = k.Sequential(layers)
    model.compile("sgd", "mse", **kwargs)
    return model


def _pair(**kwargs: Any) -> tuple[Any, Any]:
    theirs = _model(real, **kwargs)
    model = _model(ours, **kwargs)
    model.set_weights(theirs.get_weights())
    return model, theirs


def test_B9_the_loss_of_fit_is_that_of_keras() -> None:
    x, y, _ = _sequences(50)
    model, theirs = _pair()
    got = model.fit(x, y, epochs=3, batch_size=10, shuffle=False, verbose=0).history["loss"]
    want = theirs.fit(x, y, epochs=3, batch_size=10, shuffle=False, verbose=0).history["loss"]
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_B9_loss_and_metrics_count_real_steps_only_in_every_method() -> None:
    """One batch, so that a mean over it is the mean over all: with the mask, by hand."""
    x, y, mask = _sequences(30)
    weight = np.linspace(0.5, 2, 30).astype(np.float32)
    model, theirs = _pair(metrics=["mae"], weighted_metrics=["mse"])
    error = (model.predict(x, verbose=0) - y)[..., 0]
    weights = mask * weight[:, None]
    want = {
        "loss": (error**2 * weights).sum() / mask.sum(),
        "mae": np.abs(error)[mask].mean(),
        "mse": (error**2 * weights).sum() / weights.sum(),
    }
    results = [
        model.evaluate(x, y, batch_size=30, sample_weight=weight, verbose=0, return_dict=True),
        model.test_on_batch(x, y, weight, return_dict=True),
        model.train_on_batch(x, y, weight, return_dict=True),
    ]
    for values in results:
        for name, value in want.items():
            assert values[name] == pytest.approx(value, rel=1e-5), name
    # Keras forgets the mask in the metrics of training (and cannot weight masked sequences by example).
    keras_values = theirs.train_on_batch(x, y, return_dict=True)
    assert keras_values["loss"] == pytest.approx((error**2)[mask].mean(), rel=1e-5)
    assert keras_values["mae"] != pytest.approx(want["mae"], rel=1e-2)


def test_B9_metrics_do_not_depend_on_batches_or_padding() -> None:
    x, y, _ = _sequences(37)
    model = _model(ours, metrics=["mae", "RootMeanSquaredError"])
    whole = model.evaluate(x, y, batch_size=37, verbose=0, return_dict=True)
    for size in (1, 8, 36):
        part = model.evaluate(x, y, batch_size=size, verbose=0, return_dict=True)
        assert part["mae"] == pytest.approx(whole["mae"], rel=1e-6)
        assert part["RootMeanSquaredError"] == pytest.approx(whole["RootMeanSquaredError"], rel=1e-6)


def test_B9_a_mask_goes_through_a_graph_and_its_sub_models() -> None:
    x, y, mask = _sequences(20)

    def graph(k: Any) -> Any:
        inside = k.Sequential([k.Input((STEPS, 8)), k.layers.Dense(4, "relu"), k.layers.Dropout(0.1)])
        a = k.Input((STEPS, 8))
        hidden = inside(k.layers.Masking()(a))
        out = k.layers.Dense(1)(k.layers.Add()([hidden, k.layers.Dense(4)(hidden)]))
        model = k.Model(a, out)
        model.compile("sgd", "mse")
        return model

    model = graph(ours)
    error = (model.predict(x, verbose=0) - y)[..., 0]
    assert model.evaluate(x, y, batch_size=20, verbose=0) == pytest.approx((error**2)[mask].mean(), rel=1e-5)


def test_B9_a_layer_that_does_not_support_masks_ends_them() -> None:
    x, y, _ = _sequences(20)

    class Plain(ours.Layer):
        def call(self, x: Any) -> Any:
            return x * 1.0

    class Handing(Plain):
        supports_masking = True

    def loss(layer: Any) -> tuple[float, np.ndarray]:
        model = ours.Sequential([ours.layers.Masking(), layer])
        model.compile("sgd", "mse")
        return model.evaluate(x, y * np.ones(8), batch_size=20, verbose=0), model.predict(x, verbose=0)

    every, outputs = loss(Plain())
    some, _ = loss(Handing())
    assert every == pytest.approx(((outputs - y) ** 2).mean(), rel=1e-5)
    assert some != pytest.approx(every, rel=1e-3)


def test_B9_a_layer_gets_the_mask_as_an_argument_and_may_make_its_own() -> None:
    seen = []

    class Last(ours.Layer):
        """The last real step; further on there is no mask."""

        supports_masking = True

        def call(self, x: Any, mask: Any = None) -> Any:
            seen.append(mask is not None)
            last = jnp.sum(mask, -1).astype(int) - 1
            return jnp.take_along_axis(x, last[:, None, None], 1)[:, 0]

        def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
            return None

    x, _, mask = _sequences(20)
    model = ours.Sequential([ours.layers.Masking(), Last()])
    got = model.predict(x, verbose=0)
    assert all(seen)
    np.testing.assert_allclose(got, x[np.arange(20), mask.sum(1) - 1], rtol=1e-6)


@pytest.mark.parametrize("name", ["Add", "Average", "Concatenate", "GlobalAveragePooling1D", "BatchNormalization"])
def test_B9_layers_use_masks_as_in_keras(name: str) -> None:
    x, y, _ = _sequences(24)
    weights: list[Any] = []

    def values(k: Any) -> Any:
        a = k.Input((STEPS, 8))
        masked = k.layers.Masking()(a)
        if name in ("Add", "Average", "Concatenate"):
            hidden = getattr(k.layers, name)()([masked, k.layers.Dense(8)(masked)])
            out = k.layers.Dense(1)(hidden)
        else:
            hidden = getattr(k.layers, name)()(masked)
            out = k.layers.Dense(1)(hidden)
        model = k.Model(a, out)
        model.compile("sgd", "mse")
        if weights:
            model.set_weights(weights[0])
        else:
            weights.append(model.get_weights())
        target = y if len(model.output_shape) == 3 else y[:, 0]
        history = model.fit(x, target, batch_size=12, epochs=2, shuffle=False, verbose=0).history["loss"]
        return history, model.predict(x, verbose=0)

    theirs, mine = values(real), values(ours)
    np.testing.assert_allclose(mine[0], theirs[0], rtol=2e-5)
    np.testing.assert_allclose(mine[1], theirs[1], rtol=1e-4, atol=1e-5)

"""What a model's class may override: `compute_loss` and `train_step`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.data import diabetes, digits

import epochal as keras
from epochal import layers


class _Net(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = layers.Dense(8, "relu", kernel_regularizer="l2")
        self.drop = layers.Dropout(0.3)
        self.out = layers.Dense(1)

    def call(self, x: Any) -> Any:
        return self.out(self.drop(self.hidden(x)))


def _fit(cls: type[keras.Model], metrics: Any = ("mae",), **kwargs: Any) -> Any:
    x, y = diabetes(50)
    keras.utils.set_random_seed(1)
    model = cls()
    model.compile("adam", "mse", metrics=list(metrics))
    history = model.fit(x, y, epochs=3, verbose=0, **kwargs).history
    return model, history, model.evaluate(x, y, verbose=0, return_dict=True)


def test_K_compute_loss_that_calls_super_changes_nothing() -> None:
    class Same(_Net):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return super().compute_loss(x, y, y_pred, sample_weight, training)

    plain, own = _fit(_Net), _fit(Same)
    assert list(plain[1]) == list(own[1])
    for name in plain[1]:  # a short batch is padded in one and not in the other
        np.testing.assert_allclose(plain[1][name], own[1][name], rtol=1e-6)
    np.testing.assert_allclose(plain[2]["loss"], own[2]["loss"], rtol=1e-6)


def test_K_an_own_compute_loss_is_what_is_minimised_and_reported() -> None:
    """Without `training` among its arguments, as in Keras 2; weighted by a weight of the model's own."""

    class Own(_Net):
        def compute_loss(self, x, y, y_pred, sample_weight):
            return jnp.mean(jnp.abs(y - y_pred[:, 0])) + 0 * x.sum()

    model, history, values = _fit(Own)
    x, y = diabetes(50)
    assert values["loss"] == pytest.approx(np.abs(y - model.predict(x, verbose=0)[:, 0]).mean(), rel=1e-5)
    assert values["loss"] == pytest.approx(values["mae"], rel=1e-5)
    assert history["loss"] != _fit(_Net)[1]["loss"]


def test_K_compute_loss_alone_needs_no_compiled_loss() -> None:
    class Own(_Net):
        def compute_loss(self, x, y, y_pred, sample_weight, training):
            return jnp.mean((y[:, None] - y_pred) ** 2)

    x, y = diabetes(50)
    model = Own()
    model.compile("adam")
    assert model.fit(x, y, epochs=2, verbose=0).history["loss"][1] > 0


def test_K_compute_loss_outside_of_training_is_the_compiled_loss() -> None:
    x, y = digits(20)
    model = keras.Sequential([layers.Dense(10, "softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    value = model.compute_loss(x, y, model(x))
    assert float(value) == pytest.approx(model.evaluate(x, y, verbose=0), rel=1e-6)


def test_K_a_train_step_that_calls_super_trains_the_same() -> None:
    class Same(_Net):
        def train_step(self, state, batch):
            state, logs = super().train_step(state, batch)
            return state, {**logs, "twice": 2 * logs["loss"]}

    plain, own = _fit(_Net), _fit(Same)
    assert list(own[1]) == ["loss", "twice"]
    np.testing.assert_allclose(plain[1]["loss"], own[1]["loss"], rtol=1e-6)
    np.testing.assert_allclose(2 * np.array(own[1]["loss"]), own[1]["twice"], rtol=1e-6)
    for a, b in zip(plain[0].get_weights(), own[0].get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_K_a_train_step_written_by_hand_trains_the_same() -> None:
    class ByHand(_Net):
        def train_step(self, state, batch):
            def loss_of(params):
                y_pred, buffers = self.stateless_call(params, state.buffers, batch.x, training=True)
                return self.compute_loss(batch.x, batch.y[0], y_pred), buffers

            (loss, buffers), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
            params, opt = self.optimizer.update(list(gradients), state.opt, list(state.params))
            norm = jnp.sqrt(sum(jnp.sum(g**2) for g in gradients))
            return state._replace(params=tuple(params), buffers=buffers, opt=opt), {"loss": loss, "norm": norm}

    plain, own = _fit(_Net), _fit(ByHand)
    np.testing.assert_allclose(plain[1]["loss"], own[1]["loss"], rtol=1e-6)
    assert all(norm > 0 for norm in own[1]["norm"])
    model, (x, y) = own[0], diabetes(50)
    assert isinstance(model.train_on_batch(x, y), list)
    assert set(own[2]) == {"loss", "mae"}


def test_K_a_train_step_must_log_numbers() -> None:
    class Bad(_Net):
        def train_step(self, state, batch):
            state, _ = super().train_step(state, batch)
            return state, {"loss": jnp.ones(3)}

    x, y = diabetes(50)
    model = Bad()
    model.compile("sgd", "mse")
    model.build((None, 10))
    before = model.get_weights()
    with pytest.raises(ValueError, match="'loss' has the shape"):
        model.fit(x, y, verbose=0)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)

"""One batch at a time: what is remembered from call to call changes no result and hides no error."""

from __future__ import annotations

import os
import signal
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.data import diabetes, digits
from support.same import same

import epochal as keras
from epochal.engine.state import TrainedArrays

layers = keras.layers
SIZES = [1, 2, 3, 5, 7, 9, 13, 17, 22, 31, 32, 33, 40, 63, 64, 65, 100, 150, 222, 300]


def classifier() -> keras.Sequential:
    model = keras.Sequential([layers.Input((64,)), layers.Dense(16, "relu"), layers.Dense(10, "softmax")])
    model.compile("adam", "ce", ["accuracy"])
    return model


def by_hand(model: Any, x: np.ndarray) -> np.ndarray:
    (w1, b1), (w2, b2) = ((layer.kernel.numpy(), layer.bias.numpy()) for layer in model.layers)
    logits = np.maximum(np.float64(x) @ w1 + b1, 0) @ w2 + b2
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("method", ["predict", "predict_on_batch", "test_on_batch"])
def test_H_calls_see_weights_that_were_set_trained_or_loaded_since_the_last_call(method: str) -> None:
    x, y = digits(20)
    model = classifier()

    def check() -> None:
        probability = by_hand(model, x)
        if method == "test_on_batch":
            expected = -np.log(probability[np.arange(20), y]).mean()
            assert model.test_on_batch(x, y)[0] == pytest.approx(expected, rel=1e-5)
        else:
            found = model.predict(x, verbose=0) if method == "predict" else model.predict_on_batch(x)
            np.testing.assert_allclose(found, probability, rtol=1e-4, atol=1e-6)

    check()
    model.set_weights([w + 0.1 for w in model.get_weights()])
    check()
    model.fit(x, y, verbose=0)
    check()
    model.train_on_batch(x, y)
    check()
    model.layers[0].kernel = keras.Variable(2 * model.layers[0].kernel.numpy())
    check()


def test_H_calls_notice_a_frozen_layer_another_compile_and_another_activation() -> None:
    x, y = digits(20)
    model = classifier()
    model.train_on_batch(x, y)
    model.predict_on_batch(x)
    model.layers[0].trainable = False
    first, last = model.layers[0].get_weights(), model.layers[1].get_weights()
    model.train_on_batch(x, y)
    assert same(first, model.layers[0].get_weights())
    assert not np.array_equal(last[0], model.layers[1].get_weights()[0])
    model.compile("sgd", "mse")
    assert model.test_on_batch(x, np.eye(10)[y]) == pytest.approx(((by_hand(model, x) - np.eye(10)[y]) ** 2).mean())
    before = model.predict_on_batch(x)
    model.layers[1].activation = keras.activations.linear
    logits = model.predict_on_batch(x)
    np.testing.assert_allclose(np.exp(logits - logits.max(1)[:, None]).argmax(1), before.argmax(1))
    assert logits.min() < 0


def test_H_calls_with_other_types_of_the_same_numbers_give_the_same() -> None:
    x, y = digits(20)
    model = classifier()
    expected, loss = model.predict_on_batch(x), model.test_on_batch(x, y)
    for other in (np.float64(x), jnp.asarray(x), x.tolist(), np.float16(x), np.asfortranarray(x), x.astype(">f4")):
        for _ in range(2):
            np.testing.assert_array_equal(model.predict_on_batch(other), expected)
            assert model.test_on_batch(other, y.astype(np.int64)) == loss


def test_H_dicts_and_lists_of_inputs_reach_the_right_inputs_whatever_their_order() -> None:
    a, b = layers.Input((2,), name="a"), layers.Input((2,), name="b")
    model = keras.Model([b, a], layers.Subtract()([b, a]))
    x = {"b": np.full((3, 2), 5, np.float32), "a": np.full((3, 2), 3, np.float32)}
    for _ in range(2):
        np.testing.assert_array_equal(model.predict_on_batch(x), np.full((3, 2), 2))
        np.testing.assert_array_equal(model.predict_on_batch({"a": x["a"], "b": x["b"]}), np.full((3, 2), 2))
        np.testing.assert_array_equal(model.predict_on_batch([x["b"], x["a"]]), np.full((3, 2), 2))


def test_H_errors_are_those_of_a_first_call() -> None:
    x, y = digits(20)
    model = classifier()
    model.train_on_batch(x, y, sample_weight=np.ones(20))
    model.predict_on_batch(x)
    weights = model.get_weights()
    with pytest.raises(ValueError, match="model has 10 classes; y holds 10"):
        model.train_on_batch(x, y + 1, sample_weight=np.ones(20))
    with pytest.raises(ValueError, match="finite numbers in sample_weight"):
        model.train_on_batch(x, y, sample_weight=np.full(20, np.nan))
    with pytest.raises(ValueError, match="same number of examples"):
        model.train_on_batch(x, y[:19], sample_weight=np.ones(20))
    with pytest.raises(ValueError, match="batch_size"):
        model.predict(x, batch_size=[3], verbose=0)
    for wrong, message in ((x[:, :63], r"\(n, 64\)"), (x[:0], "at least one example"), (x[0], r"\(n, 64\)")):
        with pytest.raises(ValueError, match=message):
            model.predict_on_batch(wrong)
    with pytest.raises(RuntimeError, match="tracing"):
        jax.jit(lambda a: a + model.predict_on_batch(x).sum())(1.0)
    with pytest.raises(RuntimeError, match="tracing"):
        jax.jit(lambda a: a + model.train_on_batch(x, y)[0])(1.0)
    assert same(weights, model.get_weights())


def test_H_predictions_belong_to_the_caller() -> None:
    x, _ = digits(20)
    model = classifier()
    first = model.predict_on_batch(x)
    kept = first.copy()
    model.predict_on_batch(x[::-1])
    np.testing.assert_array_equal(first, kept)
    first[:] = 0  # may be written to
    np.testing.assert_array_equal(model.predict_on_batch(x), kept)


def test_H_running_values_do_not_depend_on_what_becomes_of_the_users_arrays() -> None:
    """R2 is computed about the first target of all: a buffer that is filled anew must not change that."""
    x, y = diabetes(60)
    model = keras.Sequential([layers.Dense(1, input_shape=(10,))])
    model.compile(keras.optimizers.SGD(0.0), "mse", ["r2_score"])
    expected = model.evaluate(x, y + 1000, verbose=0, return_dict=True)
    buffer = np.empty(20, np.float32)
    for start in range(0, 60, 20):
        buffer[:] = y[start : start + 20] + 1000
        found = model.test_on_batch(x[start : start + 20], buffer, reset_metrics=start == 0, return_dict=True)
    assert found == pytest.approx(expected, rel=1e-5)


def test_H_twenty_sizes_of_predict_on_batch_share_five_programs_and_a_users_layer_is_never_padded() -> None:
    x, _ = digits(300)
    model = classifier()
    for n in SIZES:
        np.testing.assert_allclose(model.predict_on_batch(x[:n]), by_hand(model, x[:n]), rtol=1e-4, atol=1e-6)
    assert model.programs()["predict"] <= 5

    class AcrossTheBatch(layers.Layer):
        def call(self, x: Any) -> Any:
            return x - x.mean(axis=0)

    across = keras.Sequential([layers.Input((64,)), AcrossTheBatch()])
    for n in SIZES[:5]:
        np.testing.assert_allclose(across.predict_on_batch(x[:n]), x[:n] - x[:n].mean(axis=0), atol=1e-5)
    assert across.programs()["predict"] == 5


def test_H7_ctrl_c_in_train_on_batch_never_takes_the_model_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The arrays of the model are used up when its step starts: the press waits until the new ones are in it."""
    x, y = digits(20)
    model = classifier()
    model.train_on_batch(x, y)
    original = TrainedArrays.write

    def pressed(self: Any, state: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        original(self, state)

    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(TrainedArrays, "write", pressed)
    with pytest.raises(KeyboardInterrupt):
        model.train_on_batch(x, y)
    monkeypatch.setattr(TrainedArrays, "write", original)
    assert signal.getsignal(signal.SIGINT) is handler
    assert model.optimizer.iterations == 2
    model.train_on_batch(x, y)
    assert np.isfinite(model.predict_on_batch(x)).all()


def test_H_stateful_models_go_on_from_call_to_call() -> None:
    x = np.random.default_rng(0).normal(size=(2, 6, 3)).astype(np.float32)
    model = keras.Sequential([layers.LSTM(4, stateful=True, batch_input_shape=(2, 3, 3))])
    first, second = model.predict_on_batch(x[:, :3]), model.predict_on_batch(x[:, 3:])
    whole = keras.Sequential([layers.Input((6, 3)), layers.LSTM(4)])
    whole.set_weights(model.get_weights())
    np.testing.assert_allclose(second, whole.predict_on_batch(x), rtol=1e-5, atol=1e-6)
    assert not np.allclose(first, second)


@pytest.mark.parametrize("verbose", [0, 2])
def test_H_twenty_sizes_of_evaluate_share_five_programs(verbose: int) -> None:
    """One batch and several, with and without weights: whatever a program has room for enters no value."""
    x, y = digits(300)
    weight = np.linspace(0.5, 2, 300, dtype=np.float32)
    model = classifier()
    probability = by_hand(model, x)
    losses, right = -np.log(probability[np.arange(300), y]), probability.argmax(1) == y
    for n in SIZES:
        assert model.evaluate(x[:n], y[:n], verbose=verbose) == pytest.approx(
            [losses[:n].mean(), right[:n].mean()], rel=1e-5
        )
    assert model.programs()["test"] <= 5
    for n in SIZES:
        weighted = (weight[:n] * losses[:n]).mean()
        found = model.evaluate(x[:n], y[:n], sample_weight=weight[:n], verbose=verbose)
        assert found == pytest.approx([weighted, right[:n].mean()], rel=1e-5)
    assert model.programs()["test"] <= 10


@pytest.mark.optimized
def test_H_evaluate_gives_the_same_bits_whether_anybody_looks_or_not_and_as_validation() -> None:
    x, y = digits(300)
    for n in (1, 9, 32, 33, 300):
        for batch_size in (32, 300):
            model = classifier()
            history = model.fit(x, y, validation_data=(x[:n], y[:n]), validation_batch_size=batch_size, verbose=0)
            expected = [history.history[name][0] for name in ("val_loss", "val_accuracy")]
            for verbose in (0, 0, 2):  # the second call knows what the first has checked
                assert model.evaluate(x[:n], y[:n], batch_size, verbose=verbose) == expected
            assert model.programs()["test"] == 1


def test_H_evaluate_sees_other_weights_labels_and_a_recompiled_model_and_leaves_running_values_alone() -> None:
    x, y = digits(40)
    model = classifier()
    expected = model.test_on_batch(x, y)
    model.test_on_batch(x[:20], y[:20])
    for _ in range(2):
        model.evaluate(x[20:], y[20:], verbose=0)
    assert model.test_on_batch(x[20:], y[20:], reset_metrics=False) == pytest.approx(expected)
    with pytest.raises(ValueError, match="model has 10 classes; y holds 10"):
        model.evaluate(x[20:], y[20:] + 1, verbose=0)
    with pytest.raises(ValueError, match="same number of examples"):
        model.evaluate(x[20:], y[21:], verbose=0)
    with pytest.raises(ValueError, match="workers"):
        model.evaluate(x[20:], y[20:], verbose=0, workers=-1)
    model.set_weights([2 * w for w in model.get_weights()])
    again = -np.log(by_hand(model, x[20:])[np.arange(20), y[20:]]).mean()
    assert model.evaluate(x[20:], y[20:], verbose=0)[0] == pytest.approx(again, rel=1e-5)
    model.compile("sgd", "mse")
    target = np.eye(10)[y[20:]]
    assert model.evaluate(x[20:], target, verbose=0) == pytest.approx(((by_hand(model, x[20:]) - target) ** 2).mean())


@pytest.mark.parametrize("arguments", [{"workers": -1}, {"max_queue_size": 0}, {"steps": 0}, {"batch_size": 0}])
def test_H_predict_refuses_the_same_arguments_whether_anybody_looks_or_not(arguments: dict[str, int]) -> None:
    x, _ = digits(40)
    model, said = classifier(), set()
    model.predict(x, verbose=0)
    for verbose in (0, 2):
        with pytest.raises(ValueError, match=f"Expected {next(iter(arguments))} to be") as error:
            model.predict(x, verbose=verbose, **arguments)
        said.add(str(error.value))
    assert len(said) == 1


def test_H_what_calls_remember_keeps_no_data_alive() -> None:
    x, y = digits(300)
    x, y = np.tile(x, (20, 1)), np.tile(y, 20)
    model = classifier()

    def largest() -> int:
        return max((array.size for array in jax.live_arrays()), default=0)

    before = largest()

    model.evaluate(x, y, batch_size="full", verbose=0)
    model.test_on_batch(x, y)
    model.predict_on_batch(x)
    assert largest() <= max(before, x.size / 10)


def test_H_evaluate_never_pads_what_a_users_layer_sees() -> None:
    class AcrossTheBatch(layers.Layer):
        def call(self, x: Any) -> Any:
            return x - x.mean(axis=0)

    x, _ = diabetes(40)
    model = keras.Sequential([layers.Input((10,)), AcrossTheBatch()])
    model.compile("sgd", "mse")
    for n in (3, 9, 20):
        expected = ((x[:n] - x[:n].mean(0)) ** 2).mean()
        for verbose in (0, 0, 2):
            assert model.evaluate(x[:n], 0 * x[:n], verbose=verbose) == pytest.approx(expected, rel=1e-5)
    assert model.programs()["test"] == 3

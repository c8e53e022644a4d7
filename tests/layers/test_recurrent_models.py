"""Stateful recurrent layers, their wrappers, and models of them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from support.data import digits
from support.sequences import FEATURES, MASK, ZEROS, N, T, close, draw, with_weights

import epochal
from epochal import layers

# -- stateful layers


def test_a_stateful_layer_goes_on_where_the_batch_before_ended() -> None:
    x = draw(2, 6, FEATURES)
    for make in (layers.LSTM, layers.GRU):
        stateful = with_weights(make(2, stateful=True, **ZEROS), x[:, :2])
        plain = make(2, **ZEROS)
        plain(x)
        plain.set_weights(stateful.get_weights())  # states are no weights
        stateful.reset_states()
        for start in (0, 2, 4):
            y = stateful(x[:, start : start + 2])
        close(y, plain(x))
        close(stateful.states[0].get_value(), y)
        stateful.reset_states()
        close(stateful(x), plain(x))
    with pytest.raises(ValueError, match="stateful and expects batches of 2 examples; got 3"):
        stateful(draw(3, 6, FEATURES))
    stateful.reset_states([np.ones((2, 2))])
    close(stateful(x), plain(x, initial_state=[np.ones((2, 2), "float32")]))
    with pytest.raises(ValueError, match="keeps 1 states; got 2"):
        stateful.reset_states([np.ones((2, 2))] * 2)


def stateful_model(k: Any) -> Any:
    first = k.Input(batch_shape=(2, 3, FEATURES))
    hidden = k.layers.LSTM(2, stateful=True, return_sequences=True, **ZEROS)(first)
    return k.Model(first, k.layers.Dense(1)(k.layers.GRU(2, stateful=True, **ZEROS)(hidden)))


def test_H6_states_go_on_from_batch_to_batch_in_every_method() -> None:
    """Two sequences of six steps, cut in halves, come as two batches."""
    x, y = draw(2, 6, FEATURES), draw(2, 1)
    halves, targets = np.concatenate([x[:, :3], x[:, 3:]]), np.concatenate([0 * y, y])
    model = stateful_model(epochal)
    weights = [draw(*w.shape, seed=i) for i, w in enumerate(model.weights)]
    model.set_weights(weights)
    model.compile(epochal.optimizers.SGD(0.1), "mse")
    a = epochal.Input((6, FEATURES))
    plain = epochal.layers.LSTM(2, return_sequences=True, **ZEROS)(a)
    long = epochal.Model(a, epochal.layers.Dense(1)(epochal.layers.GRU(2, **ZEROS)(plain)))
    long.set_weights(weights)

    def second_half(name: str) -> np.ndarray:
        model.reset_states()
        return model.predict(halves, batch_size=2, verbose=0)[2:]

    expected = long.predict(x, verbose=0)
    close(second_half("first"), expected)
    close(second_half("again"), expected)
    model.reset_states()
    first = model.predict(halves[:2], batch_size=2, verbose=0)
    losses = [(first**2).mean(), ((expected - y) ** 2).mean()]
    model.reset_states()
    assert model.evaluate(halves, targets, batch_size=2, verbose=0) == pytest.approx(np.mean(losses), rel=1e-5)
    model.reset_states()
    model.optimizer.learning_rate = 0.0
    history = model.fit(halves, targets, batch_size=2, shuffle=False, verbose=0).history
    assert history["loss"][0] == pytest.approx(np.mean(losses), rel=1e-5)
    # Keras on JAX forgets the states between batches.
    theirs = stateful_model(keras)
    theirs.set_weights(weights)
    assert np.abs(theirs.predict(halves, batch_size=2, verbose=0)[2:] - expected).max() > 1e-3


def test_a_stateful_layer_has_one_batch_size() -> None:
    assert layers.LSTM(2, stateful=True, batch_input_shape=(4, 3, 2)).states[0].shape == (4, 2)
    layer = layers.Bidirectional(layers.GRU(2, stateful=True, **ZEROS))
    assert layer.states is None
    layer.fix_batch_size(3)
    layer.fix_batch_size(3)
    assert [s.shape for s in layer.states] == [(3, 2), (3, 2)]
    with pytest.raises(ValueError, match="expects batches of 3 examples; got 4"):
        layer.fix_batch_size(4)
    assert not layer.padding_safe
    assert layers.LSTM(2).padding_safe
    open_size = layers.GRU(2, stateful=True)
    open_size.build((None, 3, 2))
    with pytest.raises(ValueError, match="has no batch size yet"):
        jax.jit(open_size)(jnp.zeros((2, 3, 2)))


# -- wrappers


def test_bidirectional_runs_two_layers_of_its_own() -> None:
    x = draw(N, T, FEATURES)
    given = layers.LSTM(2, return_sequences=True, name="mine", **ZEROS)
    both = layers.Bidirectional(given, merge_mode=None)
    there, back = with_weights(both, x)(x)
    assert not given.built
    assert (both.forward_layer.name, both.backward_layer.name) == ("forward_mine", "backward_mine")
    forward = layers.LSTM(2, return_sequences=True, **ZEROS)
    forward(x)
    forward.set_weights(both.forward_layer.get_weights())
    close(there, forward(x))
    forward.set_weights(both.backward_layer.get_weights())
    close(back, forward(x[:, ::-1])[:, ::-1])
    for mode, join in (("sum", there + back), ("mul", there * back), ("ave", (there + back) / 2)):
        layer = layers.Bidirectional(given, merge_mode=mode)
        layer(x)
        layer.set_weights(both.get_weights())
        close(layer(x), join)


def test_time_distributed_batch_normalization_takes_each_step_by_itself() -> None:
    x = draw(N, 2, FEATURES) + np.array([0, 5], "float32")[:, None]
    y = layers.TimeDistributed(layers.BatchNormalization(epsilon=1e-6))(x, training=True)
    np.testing.assert_allclose(np.mean(y, 0), np.zeros((2, FEATURES)), atol=1e-5)
    np.testing.assert_allclose(np.std(y, 0), np.ones((2, FEATURES)), atol=1e-3)


def test_time_distributed_hands_on_masks_of_inner_sequences() -> None:
    x, mask = draw(N, 2, T, FEATURES), np.stack([MASK, MASK[::-1]], 1)
    inner = layers.GRU(2, **ZEROS)
    layer = layers.TimeDistributed(inner)
    layer(x)
    inner.set_weights([draw(*w.shape, seed=i) for i, w in enumerate(inner.weights)])
    y = layer(x, mask=jnp.asarray(mask))
    for step in range(2):
        close(y[:, step], inner(x[:, step], mask=mask[:, step]))
    with pytest.raises(ValueError, match=r"mask of shape \(4, 2\)"):
        layer(x, mask=jnp.ones((N, 3), bool))


def test_wrappers_hold_models_and_wrappers() -> None:
    x = draw(N, 2, FEATURES)
    inside = epochal.Sequential([layers.Dense(4, "relu"), layers.Dropout(0.5), layers.Dense(2)])
    layer = layers.TimeDistributed(inside)
    close(layer(x)[:, 1], inside(x[:, 1]))
    assert len(layer.weights) == 4
    twice = layers.TimeDistributed(layers.TimeDistributed(layers.Dense(2)))
    assert twice(draw(N, 2, 3, FEATURES)).shape == (N, 2, 3, 2)
    with pytest.raises(ValueError, match="Expected a layer, got 3"):
        layers.Wrapper(3)


# -- models


def tokens(n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Digits as sequences of 8 steps with 8 features."""
    x, y = digits(n)
    return x.reshape(n, 8, 8), y


def sequence_model(k: Any) -> Any:
    return k.Sequential(
        [
            k.Input((8, 8)),
            k.layers.Bidirectional(k.layers.LSTM(4, return_sequences=True, kernel_regularizer="l2", **ZEROS)),
            k.layers.GRU(5, activity_regularizer=k.regularizers.L2(0.01), **ZEROS),
            k.layers.Dense(10, activation="softmax"),
        ]
    )


def encoder_decoder(k: Any) -> Any:
    source, target = k.Input((None, 8), name="source"), k.Input((8, 8), name="target")
    _, h, c = k.layers.LSTM(4, return_state=True, **ZEROS)(source)
    y = k.layers.LSTM(4, return_sequences=True, **ZEROS)(target, initial_state=[h, c])
    return k.Model([source, target], k.layers.TimeDistributed(k.layers.Dense(8))(y))


def train_both(make: Any, x: Any, y: Any, loss: str) -> tuple[Any, Any]:
    """Our model and Keras's after the same training, which must go the same way."""
    theirs, ours = make(keras), make(epochal)
    for model in (theirs, ours):
        model.set_weights([draw(*w.shape, seed=i) / 2 for i, w in enumerate(ours.weights)])
        model.compile("adam", loss)
    runs = [m.fit(x, y, batch_size=16, epochs=3, shuffle=False, verbose=0).history["loss"] for m in (theirs, ours)]
    np.testing.assert_allclose(runs[1], runs[0], rtol=1e-4)
    assert runs[1][-1] < runs[1][0]
    scores = [m.evaluate(x, y, verbose=0) for m in (theirs, ours)]
    assert scores[1] == pytest.approx(scores[0], rel=1e-4)
    close(ours.predict(x, verbose=0), theirs.predict(x, verbose=0), rtol=1e-3, atol=1e-4)
    return ours, theirs


def test_a_sequence_model_trains_like_keras() -> None:
    x, y = tokens()
    ours, _ = train_both(sequence_model, x, y, "sparse_categorical_crossentropy")
    close(ours.predict(x[:7], batch_size=3, verbose=0), ours.predict(x, batch_size=60, verbose=0)[:7], atol=1e-6)


def test_an_encoder_decoder_trains_like_keras_and_is_saved(tmp_path: Any) -> None:
    x, _ = tokens()
    ours, _ = train_both(encoder_decoder, [x[:, ::2], x], np.roll(x, -1, 1), "mse")
    ours.save(tmp_path / "model")
    again = epochal.models.load_model(tmp_path / "model")
    np.testing.assert_array_equal(again.predict([x[:, ::2], x], verbose=0), ours.predict([x[:, ::2], x], verbose=0))


def test_saved_recurrent_layers_are_layers_of_their_own(tmp_path: Any) -> None:
    x, _ = tokens(8)
    model = epochal.Sequential(
        [
            epochal.Input((8, 8)),
            layers.RNN([layers.LSTMCell(3), layers.SimpleRNNCell(2)], return_sequences=True),
            layers.Bidirectional(layers.SimpleRNN(2), backward_layer=layers.SimpleRNN(2, go_backwards=True)),
        ]
    )
    copy = epochal.Sequential.from_config(model.get_config())
    assert not {id(w) for w in copy.weights} & {id(w) for w in model.weights}
    model.save(tmp_path / "model")
    again = epochal.models.load_model(tmp_path / "model")
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))

"""Dtype policies: weights in float32, computing in bfloat16; what has which type is what Keras says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras as theirs
import numpy as np
import pytest
from support.data import digits

import epochal as keras

X, Y = digits(500)
MIXED = "mixed_bfloat16"


@pytest.fixture
def global_policy() -> Iterator[None]:
    keras.mixed_precision.set_global_policy(MIXED)
    yield
    keras.mixed_precision.set_global_policy("float32")


# -- one layer at a time

IMAGE, SERIES, ROW, IDS = (2, 6, 6, 4), (2, 5, 4), (2, 6), "ids"
LAYERS: dict[str, tuple[Any, Any]] = {
    "Dense": (lambda k, **d: k.layers.Dense(3, "relu", **d), ROW),
    "softmax": (lambda k, **d: k.layers.Dense(3, "softmax", **d), ROW),
    "Dense in float32": (lambda k, **d: k.layers.Dense(3, dtype="float32"), ROW),
    "Embedding": (lambda k, **d: k.layers.Embedding(9, 3, **d), IDS),
    "Conv2D": (lambda k, **d: k.layers.Conv2D(3, 3, **d), IMAGE),
    "Conv2DTranspose": (lambda k, **d: k.layers.Conv2DTranspose(3, 3, **d), IMAGE),
    "DepthwiseConv2D": (lambda k, **d: k.layers.DepthwiseConv2D(3, **d), IMAGE),
    "MaxPooling2D": (lambda k, **d: k.layers.MaxPooling2D(2, **d), IMAGE),
    "AveragePooling2D": (lambda k, **d: k.layers.AveragePooling2D(2, **d), IMAGE),
    "GlobalAveragePooling2D": (lambda k, **d: k.layers.GlobalAveragePooling2D(**d), IMAGE),
    "BatchNormalization": (lambda k, **d: k.layers.BatchNormalization(**d), IMAGE),
    "LayerNormalization": (lambda k, **d: k.layers.LayerNormalization(**d), ROW),
    "GroupNormalization": (lambda k, **d: k.layers.GroupNormalization(2, **d), IMAGE),
    "UnitNormalization": (lambda k, **d: k.layers.UnitNormalization(**d), ROW),
    "LSTM": (lambda k, **d: k.layers.LSTM(3, **d), SERIES),
    "GRU": (lambda k, **d: k.layers.GRU(3, return_sequences=True, **d), SERIES),
    "SimpleRNN": (lambda k, **d: k.layers.SimpleRNN(3, **d), SERIES),
    "Bidirectional": (lambda k, **d: k.layers.Bidirectional(k.layers.LSTM(3, **d), **d), SERIES),
    "TimeDistributed": (lambda k, **d: k.layers.TimeDistributed(k.layers.Dense(3, **d), **d), SERIES),
    "MultiHeadAttention": (lambda k, **d: _attends(k, **d), SERIES),
    "Rescaling": (lambda k, **d: k.layers.Rescaling(0.5, 0.1, **d), ROW),
    "PReLU": (lambda k, **d: k.layers.PReLU(**d), ROW),
    "Flatten": (lambda k, **d: k.layers.Flatten(**d), IMAGE),
    "Activation": (lambda k, **d: k.layers.Activation("tanh", **d), ROW),
}


def _attends(k: Any, **how: Any) -> Any:
    layer = k.layers.MultiHeadAttention(2, 3, **how)
    return layer


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_keeps_and_computes_in_the_types_that_keras_says(name: str) -> None:
    make, shape = LAYERS[name]
    draw = np.random.default_rng(0)
    x = draw.integers(0, 9, (2, 5)) if shape == IDS else draw.normal(size=shape).astype(np.float32)
    given = (x, x) if name == "MultiHeadAttention" else (x,)
    ours, oracle = make(keras, dtype=MIXED), make(theirs, dtype=MIXED)
    expected = oracle(*given)
    result = ours(*given)
    ours.set_weights(oracle.get_weights())
    result = ours(*given)
    assert result.dtype == expected.dtype
    assert (ours.compute_dtype, ours.variable_dtype) == (oracle.compute_dtype, oracle.variable_dtype)
    assert [w.get_raw_value().dtype for w in ours.weights] == [np.dtype(w.dtype) for w in oracle.weights]
    # Both round to 8 bits after each operation, in an order of their own.
    values = [np.asarray(a, np.float32) for a in (result, expected)]
    np.testing.assert_allclose(*values, rtol=0.05, atol=0.03)
    assert np.isfinite(values[0]).all()


def test_layers_of_ones_own_read_their_weights_in_the_type_they_compute_in() -> None:
    seen = []

    class Own(keras.layers.Layer):
        def build(self, input_shape: Any) -> None:
            self.w = self.add_weight("w", (input_shape[-1],), initializer="ones")
            self.w.assign(np.full(input_shape[-1], 2.0))  # kept as it is, not as it is read
            self.inner = keras.layers.Dense(2, dtype="float32")

        def call(self, x: Any) -> Any:
            y = x * self.w
            seen.extend([x.dtype, self.w.value.dtype, y.dtype, self.inner(y).dtype])
            return y

    layer = Own(dtype=MIXED)
    layer(X[:2])
    assert [str(d) for d in seen] == ["bfloat16", "bfloat16", "bfloat16", "float32"]
    assert (str(layer.w.value.dtype), float(layer.w.value[0])) == ("float32", 2.0)


# -- models


def network(kind: str) -> Any:
    layers = keras.layers
    inner: dict[str, list[Any]] = {
        "mlp": [layers.Dense(64, "relu"), layers.Dropout(0.1), layers.BatchNormalization()],
        "cnn": [layers.Reshape((8, 8, 1)), layers.Conv2D(16, 3, activation="relu"), layers.Flatten()],
        "lstm": [layers.Reshape((8, 8)), layers.LSTM(32)],
    }
    if kind != "attention":
        return keras.Sequential([keras.Input((64,)), *inner[kind], layers.Dense(10, activation="softmax")])
    x = keras.Input((64,))
    rows = layers.Dense(16)(layers.Reshape((8, 8))(x))
    rows = layers.LayerNormalization()(rows + layers.MultiHeadAttention(2, 8)(rows, rows))
    return keras.Model(x, layers.Dense(10, activation="softmax")(layers.Flatten()(rows)))


@pytest.mark.parametrize(
    "kind", ["mlp", "lstm", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("cnn", "attention"))]
)
def test_a_model_learns_nearly_as_well_as_in_float32(kind: str) -> None:
    accuracy = {}
    for policy in (None, MIXED):
        keras.utils.set_random_seed(1)
        model = network(kind)
        model.compile(keras.optimizers.Adam(0.005), "sparse_categorical_crossentropy", ["accuracy"], dtype=policy)
        history = model.fit(X, Y, batch_size=32, epochs=12, verbose=0).history
        assert all(np.dtype(w.get_raw_value().dtype) == np.float32 for w in model.weights)
        accuracy[policy] = history["accuracy"][-1]
    assert np.isfinite(history["loss"]).all()
    assert {layer.compute_dtype for layer in model.layers} <= {"bfloat16", "float32"}
    assert model.layers[-1].compute_dtype == "bfloat16"
    assert accuracy[None] > 0.85
    assert accuracy[MIXED] > accuracy[None] - 0.03


@pytest.mark.usefixtures("global_policy")
def test_losses_are_computed_in_float32_as_in_keras_and_metrics_too() -> None:
    x, y = X[:64], (Y[:64, None] * 100.0 + 0.37).astype(np.float32)  # what bfloat16 could not tell apart
    ours = keras.Sequential([keras.Input((64,)), keras.layers.Dense(1)])
    policy = theirs.config.dtype_policy()
    theirs.config.set_dtype_policy(MIXED)
    try:
        oracle = theirs.Sequential([theirs.layers.Input((64,)), theirs.layers.Dense(1)])
    finally:
        theirs.config.set_dtype_policy(policy)
    ours.set_weights(oracle.get_weights())
    results = []
    for model in (ours, oracle):
        model.compile("sgd", "mse", metrics=["mae"])
        results.append(model.evaluate(x, y, batch_size=64, verbose=0))
        assert str(model.predict(x, verbose=0).dtype) == "bfloat16"
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-5)
    # Keras rounds targets to 8 bits for its metrics.
    error = np.abs(ours.predict(x, verbose=0).astype(np.float64) - y).mean()
    np.testing.assert_allclose(results[0][1], error, rtol=1e-6)


def test_compile_leaves_layers_alone_that_were_given_a_type() -> None:
    model = keras.Sequential(
        [keras.Input((64,)), keras.layers.Dense(4), keras.layers.Dense(10, activation="softmax", dtype="float32")]
    )
    model.compile("adam", "sparse_categorical_crossentropy", dtype=MIXED)
    model.fit(X[:50], Y[:50], verbose=0)
    assert [layer.compute_dtype for layer in model.layers] == ["bfloat16", "float32"]
    assert model.predict(X[:2], verbose=0).dtype == np.float32
    model.compile("adam", "sparse_categorical_crossentropy", dtype="float32")  # and back: another program
    model.fit(X[:50], Y[:50], verbose=0)
    assert [layer.compute_dtype for layer in model.layers] == ["float32", "float32"]


def test_a_saved_model_keeps_its_policy(tmp_path: Path) -> None:
    model = network("attention")
    model.compile("adam", "sparse_categorical_crossentropy", dtype=MIXED)
    expected = model.predict(X[:9], verbose=0)
    model.save(tmp_path / "m")
    again = keras.models.load_model(tmp_path / "m")
    assert [a.dtype_policy for a in again.layers] == [a.dtype_policy for a in model.layers]
    assert again.layers[-1].dtype_policy == keras.DTypePolicy(MIXED)
    assert np.array_equal(again.predict(X[:9], verbose=0), expected)


@pytest.mark.usefixtures("global_policy")
def test_the_global_policy_holds_for_layers_made_from_then_on() -> None:
    assert keras.config.dtype_policy() == keras.mixed_precision.Policy(MIXED)
    assert keras.layers.Dense(3).compute_dtype == "bfloat16"
    assert keras.layers.Dense(3, dtype="float32").compute_dtype == "float32"
    keras.config.set_dtype_policy("float32")
    assert keras.layers.Dense(3).compute_dtype == "float32"


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("mixed_float16", r'needs no loss scaling, got "mixed_float16": use "mixed_bfloat16"'),
        ("mixed_bfloat", r'Expected a dtype policy such as "float32" or "mixed_bfloat16", got \'mixed_bfloat\''),
        ("bfloat16", r"has weights in float32; 'bfloat16' keeps them in bfloat16. Make the layer anew"),
    ],
)
def test_a_policy_that_cannot_be_is_refused(policy: str, message: str) -> None:
    model = network("mlp")
    with pytest.raises(ValueError, match=message):
        model.compile("adam", "sparse_categorical_crossentropy", dtype=policy)
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}

"""Models made of a graph, against Keras and in their own right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras as real
import numpy as np
import pytest
from support.data import breast_cancer, diabetes
from support.same import same

import epochal as keras

X, Y = diabetes(120)
A, B = X[:, :6], X[:, 6:]
CLASSES = np.digitize(Y, [-0.5, 0.5]).astype(np.int32)


def two_in_two_out(k: Any) -> Any:
    a, b = k.Input((6,), name="a"), k.Input((4,), name="b")
    shared = k.layers.Dense(5, activation="tanh", name="shared")
    left = shared(k.layers.Dense(4, name="left")(a))
    right = shared(b)
    both = k.layers.Concatenate()([left, right])
    both = k.layers.Dropout(0.0)(both)
    value = k.layers.Dense(1, name="value")(both)
    kind = k.layers.Dense(3, activation="softmax", name="kind")(k.layers.Add()([left, right]))
    return k.Model(inputs=[a, b], outputs=[value, kind], name="net")


@pytest.mark.parametrize("form", ["list", "dict"])
def test_C3_two_inputs_and_two_outputs_train_and_are_labelled_as_in_keras(form: str) -> None:
    theirs, ours = two_in_two_out(real), two_in_two_out(keras)
    ours.set_weights([np.asarray(v.value) for v in theirs.weights])
    compiled = {
        "loss": {"value": "mse", "kind": "sparse_categorical_crossentropy"},
        "metrics": {"value": ["mae"], "kind": ["accuracy"]},
        "weighted_metrics": {"kind": ["accuracy"]},
        "loss_weights": {"value": 0.5, "kind": 2},
    }
    x = [A, B] if form == "list" else {"a": A, "b": B}
    y = [Y, CLASSES] if form == "list" else {"value": Y, "kind": CLASSES}
    fit = {"batch_size": 32, "epochs": 3, "shuffle": False, "verbose": 0}
    theirs.compile("adam", **compiled)
    ours.compile("adam", **compiled)
    # Keras on JAX takes targets of a model with a list of outputs as a list only.
    expected = theirs.fit(x, [Y, CLASSES] if form == "list" else y, **fit).history
    found = ours.fit(x, y, **fit).history
    assert sorted(found) == sorted(expected)
    assert list(found) == ["loss", "value_loss", "kind_loss", "value_mae", "kind_accuracy", "kind_weighted_accuracy"]
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, err_msg=name)
    for mine, other in zip(ours.predict(x, verbose=0), theirs.predict(x, verbose=0), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-3, atol=1e-5)


def test_K_operators_slices_and_a_dict_of_outputs() -> None:
    x = keras.Input((10,))
    h = keras.layers.Dense(4)(x)
    model = keras.Model(x, {"sum": h + 1.0, "part": 2 * h[:, :2] - h[:, 2:], "ratio": h / (abs(h) + 1)})
    h_value = keras.Model(x, h).predict(X, verbose=0)
    found = model.predict(X, verbose=0)
    np.testing.assert_allclose(found["sum"], h_value + 1, rtol=1e-6)
    np.testing.assert_allclose(found["part"], 2 * h_value[:, :2] - h_value[:, 2:], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["ratio"], h_value / (abs(h_value) + 1), rtol=1e-6)
    model.compile("adam", loss={"part": "mse"})
    history = model.fit(X, {"part": X[:, :2]}, epochs=3, verbose=0).history
    assert list(history) == ["loss", "part_loss"]


def test_shapes_are_known_while_the_model_is_put_together() -> None:
    x = keras.Input((None, 8, 3))
    y = keras.layers.Conv2D(4, 3, strides=2, padding="same")(x)
    assert y.shape == (None, None, 4, 4)
    assert keras.layers.GlobalAveragePooling2D()(y).shape == (None, 4)
    assert keras.layers.Conv2D(4, 3).compute_output_shape((None, None, 9, 3)) == (None, None, 7, 4)
    assert (y * 2).shape == (None, None, 4, 4)
    for bad in (bool, np.asarray, list):
        with pytest.raises(TypeError, match="no values yet"):
            bad(y)


def test_an_open_axis_takes_any_size() -> None:
    x = keras.Input((None, 3))
    model = keras.Model(x, keras.layers.Dense(2)(keras.layers.GlobalMaxPooling1D()(keras.layers.Conv1D(4, 2)(x))))
    for length in (5, 9, 5):
        assert model.predict(np.ones((4, length, 3)), verbose=0).shape == (4, 2)
    with pytest.raises(ValueError, match=r"\(n, any, 3\)"):
        model.predict(np.ones((4, 5, 2)), verbose=0)


def test_K_a_shared_layer_has_its_weights_once() -> None:
    model = two_in_two_out(keras)
    assert len(model.weights) == 8
    assert [layer.name for layer in model.layers if layer.name == "shared"] == ["shared"]
    assert model.count_params() == 28 + 25 + 11 + 18


def test_K_parts_of_a_model_share_its_weights() -> None:
    model = two_in_two_out(keras)
    body = keras.Model(model.inputs, model.get_layer("value").input)
    before = body.predict([A, B], verbose=0)
    model.compile("adam", loss=["mse", None])
    model.fit([A, B], [Y, None], epochs=2, verbose=0)
    assert not np.allclose(before, body.predict([A, B], verbose=0))


def test_K_models_nest_as_layers() -> None:
    inner = keras.Sequential(
        [keras.layers.Dense(5, activation="relu"), keras.layers.BatchNormalization()], name="inner"
    )
    x = keras.Input((10,))
    model = keras.Model(x, keras.layers.Dense(1)(inner(x)))
    model.compile("adam", "mse")
    statistics = inner.layers[1].moving_mean.numpy()
    history = model.fit(X, Y, epochs=5, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert not np.allclose(statistics, inner.layers[1].moving_mean.numpy())


def test_K_the_same_model_after_saving_and_loading(tmp_path: Path) -> None:
    model = two_in_two_out(keras)
    model.compile("adam", loss=["mse", "ce"], metrics=[["mae"], ["accuracy"]])
    model.fit([A, B], [Y, CLASSES], epochs=2, verbose=0)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert loaded.output_names == ["value", "kind"]
    for mine, other in zip(loaded.predict([A, B], verbose=0), model.predict([A, B], verbose=0), strict=True):
        np.testing.assert_array_equal(mine, other)
    arguments = {"verbose": 0, "return_dict": True}
    assert loaded.evaluate([A, B], [Y, CLASSES], **arguments) == model.evaluate([A, B], [Y, CLASSES], **arguments)


BAD_INPUTS = {
    "one of two": (A, r"2 input\(s\).*got 1"),
    "three": ([A, B, B], r"2 input\(s\).*got 3"),
    "a name missing": ({"a": A, "c": B}, "no 'b'"),
    "wrong width": ([A, A], r"input 'b' of shape \(n, 4\).*\(120, 6\)"),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_inputs_that_do_not_fit_are_said_by_name(name: str) -> None:
    x, message = BAD_INPUTS[name]
    model = two_in_two_out(keras)
    model.compile("adam", ["mse", "ce"])
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        model.fit(x, [Y, CLASSES], verbose=0)
    assert same(before, model.get_weights())


def test_further_keys_of_a_dict_are_left_out_and_a_vector_is_a_column() -> None:
    model = two_in_two_out(keras)
    assert model.predict({"a": A, "b": B, "c": A}, verbose=0)[0].shape == (120, 1)
    column = keras.Input((1,))
    assert keras.Model(column, keras.layers.Dense(2)(column)).predict(np.arange(5.0), verbose=0).shape == (5, 2)


@pytest.mark.parametrize(
    ("compiled", "message"),
    [
        ({"loss": ["mse"]}, "one loss per output"),
        ({"loss": {"value": "mse", "sort": "ce"}}, "'sort'"),
        ({"loss": ["mse", "ce"], "metrics": ["mae"]}, "one entry per output"),
        ({"loss": ["mse", "ce"], "loss_weights": [1.0]}, "one loss weight per output"),
        ({"loss": ["mse", "ce"], "loss_weights": {"vale": 1.0}}, "'value'"),
    ],
)
def test_B3_B4_C1_losses_and_metrics_that_do_not_fit_the_outputs(compiled: dict[str, Any], message: str) -> None:
    """Keras trains on with a list of the wrong length."""
    model = two_in_two_out(keras)
    model.compile("adam", **compiled)
    with pytest.raises(ValueError, match=message):
        model.fit([A, B], [Y, CLASSES], verbose=0)


def test_graphs_that_cannot_be() -> None:
    a, b = keras.Input((3,), name="a"), keras.Input((3,), name="b")
    with pytest.raises(ValueError, match=r"'b'.*not among the inputs \['a'\]"):
        keras.Model(a, keras.layers.Add()([a, b]))
    with pytest.raises(ValueError, match="outputs of a model"):
        keras.Model(a, np.ones(3))
    with pytest.raises(ValueError, match="Model\\(inputs, outputs\\)"):
        keras.Sequential([keras.layers.Dense(2)(a)])
    with pytest.raises(ValueError, match="shape"):
        keras.Input()


def test_weights_of_a_graph_are_drawn_once_together_and_repeatably() -> None:
    drawn = []
    for _ in range(2):
        keras.utils.set_random_seed(4)
        drawn.append(two_in_two_out(keras).get_weights())
    assert same(*drawn)
    layer = keras.layers.Dense(4)
    layer(keras.Input((3,)))
    assert layer.get_weights()[0].std() > 0  # also before there is a model
    other = keras.layers.Dense(4)
    other(keras.Input((3,)))
    assert np.asarray(other(np.ones((1, 3)))).std() > 0


def test_D4_sample_weights_per_output_in_every_form() -> None:
    weight = np.linspace(0.1, 2, 120).astype(np.float32)
    runs = []
    for form in (weight, [weight, weight], {"value": weight, "kind": weight}):
        keras.utils.set_random_seed(0)
        model = two_in_two_out(keras)
        model.compile("sgd", ["mse", "ce"], weighted_metrics=[["mae"], []])
        runs.append(model.fit([A, B], [Y, CLASSES], sample_weight=form, shuffle=False, verbose=0).history)
    assert runs[0] == runs[1] == runs[2]
    assert "value_mae" in runs[0]


def test_binary_heads_of_two_models_on_one_input() -> None:
    x, y = breast_cancer(200)
    i = keras.Input((30,))
    h = keras.layers.Dense(8, activation="relu")(i)
    outputs = (keras.layers.Dense(1, activation="sigmoid")(h), keras.layers.Dense(2, activation="softmax")(h))
    model = keras.Model(i, outputs)
    model.compile(keras.optimizers.Adam(0.01), "ce", metrics=[["accuracy"], ["accuracy"]])
    history = model.fit(x, [y, y], epochs=15, verbose=0).history
    accuracies = [v[-1] for n, v in history.items() if n.endswith("accuracy")]
    assert len(accuracies) == 2
    assert min(accuracies) > 0.8

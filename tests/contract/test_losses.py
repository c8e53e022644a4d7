"""Section B (losses, rules 1 to 8) of the training contract: each rule is a test that bears its number."""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp
import keras as theirs
import numpy as np
import pytest
from support.data import diabetes

import epochal as keras
from epochal import layers

X, Y = diabetes(24)
Z = (Y > 0).astype(np.int32)


def kernel(columns: int, scale: float = 0.2) -> list[np.ndarray]:
    return [
        np.linspace(-scale, scale, 10 * columns, dtype=np.float32).reshape(10, columns),
        np.zeros(columns, "float32"),
    ]


@functools.cache
def bare_line(columns: int, activation: str | None, k: Any) -> Any:
    return k.Sequential([k.layers.Input((10,)), k.layers.Dense(columns, activation=activation, name="out")])


@functools.cache
def bare_two(k: Any) -> Any:
    """Outputs "b" and "a", in this order."""
    x = k.Input((10,))
    return k.Model(x, [k.layers.Dense(1, name="b")(x), k.layers.Dense(1, name="a")(x)])


def line(columns: int = 1, activation: str | None = None, k: Any = keras, **compile_arguments: Any) -> Any:
    """A linear model; one for all tests, compiled anew."""
    model = bare_line(columns, activation, k)
    model.set_weights(kernel(columns))
    model.compile(**{"optimizer": "sgd", "loss": "mse", **compile_arguments})
    return model


def two(k: Any = keras, **compile_arguments: Any) -> Any:
    model = bare_two(k)
    model.set_weights(kernel(1) + kernel(1, -0.3))
    model.compile(**{"optimizer": "sgd", **compile_arguments})
    return model


B, A = X @ kernel(1)[0][:, 0], X @ kernel(1, -0.3)[0][:, 0]  # what `two` and `line` predict
MSE_B, MAE_A, MSE_A = np.mean((B - Y) ** 2), np.mean(np.abs(A - Z)), np.mean((A - Z) ** 2)


def scores(model: Any, y: Any, **given: Any) -> dict[str, float]:
    return model.evaluate(X, y, verbose=0, return_dict=True, **given)


def near(value: Any) -> Any:
    return pytest.approx(float(value), rel=1e-5)


# -- B1


class Squares(keras.losses.Loss):
    def call(self, y_true: Any, y_pred: Any) -> Any:
        return jnp.mean((y_true - y_pred) ** 2, -1)


def squares(y_true: Any, y_pred: Any) -> Any:
    return jnp.mean((y_true - y_pred) ** 2, -1)


LOSSES = {
    "name": "mse",
    "function of ours": keras.losses.mean_squared_error,
    "function": squares,
    "object": keras.losses.MeanSquaredError(),
    "class": keras.losses.MeanSquaredError,
    "own object": Squares(),
    "list": ["mse"],
    "tuple": (squares,),
    "dict": {"out": Squares()},
}


@pytest.mark.parametrize("form", LOSSES)
def test_B1_every_form_of_a_loss(form: str) -> None:
    assert line(loss=LOSSES[form]).evaluate(X, Y, verbose=0) == near(MSE_B)


def test_B1_None_is_an_output_without_a_loss() -> None:
    model = two(loss=[None, "mae"])
    before = model.get_weights()
    assert scores(model, [None, Z]) == {"loss": near(MAE_A), "a_loss": near(MAE_A)}
    model.fit(X, [None, Z], verbose=0)
    unchanged = [np.array_equal(v, w) for v, w in zip(before, model.get_weights(), strict=True)]
    assert unchanged == [True, True, False, False]


@pytest.mark.parametrize("method", ["fit", "train_on_batch"])
def test_B1_no_loss_and_no_add_loss_is_refused_in_training(method: str) -> None:
    with pytest.raises(ValueError, match="Nothing to minimise"):
        getattr(line(loss=None, metrics=["mae"]), method)(X, Y)


def test_B1_add_loss_alone_is_enough() -> None:
    class Small(layers.Layer):
        def call(self, x: Any) -> Any:
            self.add_loss(3.0 * jnp.mean(x**2))
            return x

    model = keras.Sequential([keras.Input((10,)), layers.Dense(1), Small()])
    model.set_weights(kernel(1))
    model.compile("sgd")
    assert model.fit(X, verbose=0).history == {"loss": [near(3 * np.mean(B**2))]}


# -- B2


@pytest.mark.parametrize(
    ("columns", "activation", "y", "loss", "full"),
    [
        (1, "sigmoid", Z, "ce", "binary_crossentropy"),
        (2, "softmax", Z, "crossentropy", "sparse_categorical_crossentropy"),
        (2, "softmax", np.eye(2, dtype=np.float32)[Z], "ce", "categorical_crossentropy"),
    ],
)
def test_B2_the_crossentropy_is_chosen_by_shape_as_loss_and_metric(
    columns: int, activation: str, y: np.ndarray, loss: str, full: str
) -> None:
    model = line(columns, activation, loss=loss, metrics=["ce", "crossentropy", full])
    expected = theirs.losses.get(full)(y[:, None] if columns == 1 else y, model.predict(X, verbose=0))
    found = dict.fromkeys(["loss", "ce", "crossentropy", full], near(theirs.ops.mean(expected)))
    assert scores(model, y) == found


def test_B2_keras_knows_no_crossentropy_as_a_metric() -> None:
    model = line(2, "softmax", theirs, loss="crossentropy", metrics=["crossentropy"])
    with pytest.raises(ValueError, match="Could not interpret metric"):
        model.fit(X, Z, verbose=0)


# -- B3


def test_B3_one_bare_loss_is_for_every_output() -> None:
    assert scores(two(loss="mse"), [Y, Z]) == {
        "loss": near(MSE_B + MSE_A),
        "b_loss": near(MSE_B),
        "a_loss": near(MSE_A),
    }


def test_B3_losses_and_targets_are_lists_or_dicts_in_any_mixture() -> None:
    expected = {"loss": near(MSE_B + MAE_A), "b_loss": near(MSE_B), "a_loss": near(MAE_A)}
    for loss in (["mse", "mae"], ("mse", "mae"), {"a": "mae", "b": "mse"}):
        model = two(loss=loss)
        for y in ([Y, Z], (Y, Z), {"a": Z, "b": Y}):
            assert scores(model, y) == expected
        assert model.programs()["test"] == 1


def test_B3_a_dict_may_leave_outputs_out() -> None:
    model = two(loss={"a": "mae"})
    for y in ([Y, Z], {"a": Z}):
        assert scores(model, y) == {"loss": near(MAE_A), "a_loss": near(MAE_A)}


BAD_LOSSES = {
    "too few": (["mse"], r"one loss per output \(2: \['b', 'a'\]\), got 1"),
    "too many": (["mse"] * 3, r"one loss per output \(2: \['b', 'a'\]\), got 3"),
    "unknown key": ({"a": "mse", "c": "mse"}, r"'c' in loss; the outputs are \['b', 'a'\]"),
}


@pytest.mark.parametrize("name", BAD_LOSSES)
def test_B3_lists_of_another_length_and_unknown_keys_are_refused(name: str) -> None:
    loss, message = BAD_LOSSES[name]
    with pytest.raises(ValueError, match=message):
        two(loss=loss).fit(X, [Y, Z], verbose=0)


def test_B3_keras_takes_a_list_that_is_too_short_and_refuses_a_dict_with_a_gap() -> None:
    assert theirs_fit(loss=["mse"])["loss"] == [near(MSE_B)]  # the second output is not trained, in silence
    with pytest.raises(ValueError, match="Expected keys"):
        theirs_fit(loss={"a": "mse"})


def theirs_fit(**compile_arguments: Any) -> Any:
    model = two(theirs, **compile_arguments)
    return model.fit(X, [Y[:, None], Z[:, None]], verbose=0, batch_size=24).history


@pytest.mark.parametrize("form", ["graph", "subclass"])
def test_B3_a_dict_of_outputs_and_inputs_goes_by_its_keys_in_sorted_order(form: str) -> None:
    class Net(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.one = layers.Dense(3, activation="softmax"), layers.Dense(1)

        def call(self, x: Any) -> Any:
            return {"z": self.wide(x["q"]), "c": self.one(x["p"])}

    if form == "graph":
        x = {"q": keras.Input((4,), name="q"), "p": keras.Input((6,), name="p")}
        outputs = {"z": layers.Dense(3, activation="softmax")(x["q"]), "c": layers.Dense(1)(x["p"])}
        model = keras.Model(x, outputs)
    else:
        model = Net()
    model.compile(keras.optimizers.SGD(0.0), {"z": "ce", "c": "mse"}, metrics={"z": "accuracy"})
    inputs = {"q": X[:, :4], "p": X[:, 4:]}
    kinds = np.digitize(Y, [-0.5, 0.5])
    weighted = model.fit(inputs, {"z": kinds, "c": Y}, class_weight={"z": {0: 2.0, 1: 2.0, 2: 2.0}}, verbose=0).history
    found = model.evaluate(inputs, {"z": kinds, "c": Y}, verbose=0, return_dict=True)
    assert list(found) == ["loss", "c_loss", "z_loss", "z_accuracy"]
    assert found == model.evaluate(inputs, [Y, kinds], verbose=0, return_dict=True)
    assert weighted["z_loss"] == [near(2 * found["z_loss"])]
    predicted = model.predict(inputs, verbose=0)
    assert found["c_loss"] == near(np.mean((predicted["c"][:, 0] - Y) ** 2))
    assert found["z_loss"] == near(-np.mean(np.log(predicted["z"][np.arange(24), kinds])))


# -- B4, B5


@pytest.mark.parametrize(
    ("given", "b", "a"),
    [([2, 0.5], 2, 0.5), ({"a": 3}, 1, 3), (2, 2, 2), ((np.float32(0.25), 0), 0.25, 0)],
)
def test_B4_B5_loss_weights_weigh_the_total_alone(given: Any, b: float, a: float) -> None:
    model = two(loss=["mse", "mae"], loss_weights=given)
    assert scores(model, [Y, Z]) == {"loss": near(b * MSE_B + a * MAE_A), "b_loss": near(MSE_B), "a_loss": near(MAE_A)}


@pytest.mark.parametrize("given", ["2", True, [1, "x"], {"a": None}, [1.0], {"c": 1.0}, np.ones(2)])
def test_B4_other_loss_weights_are_refused(given: Any) -> None:
    with pytest.raises(ValueError, match=r"loss.weights?"):
        two(loss="mse", loss_weights=given).fit(X, [Y, Z], verbose=0)


def test_B4_keras_refuses_an_integer_and_a_dict_with_a_gap() -> None:
    for given in (2, {"a": 2}):
        with pytest.raises(ValueError, match="loss_weights"):
            theirs_fit(loss=["mse", "mae"], loss_weights=given)


def test_B5_the_total_has_added_losses_and_regularizers() -> None:
    class Adding(layers.Layer):
        def call(self, x: Any) -> Any:
            self.add_loss(0.5 * jnp.mean(x**2))
            return x

    x = keras.Input((10,))
    b = layers.Dense(1, name="b", kernel_regularizer=keras.regularizers.L2(0.1))(Adding()(x))
    model = keras.Model(x, [b, layers.Dense(1, name="a")(x)])
    model.set_weights(kernel(1) + kernel(1, -0.3))
    model.compile(keras.optimizers.SGD(0.0), ["mse", "mae"], loss_weights=[2, 3])
    extra = 0.5 * np.mean(X**2) + 0.1 * np.sum(kernel(1)[0] ** 2)
    expected = {"loss": near(2 * MSE_B + 3 * MAE_A + extra), "b_loss": near(MSE_B), "a_loss": near(MAE_A)}
    assert scores(model, [Y, Z]) == expected
    history = model.fit(X, [Y, Z], batch_size=24, verbose=0).history
    assert history == {name: [value] for name, value in expected.items()}


# -- B6


def test_B6_sum_is_the_batch_s_sum_as_in_keras() -> None:
    runs = []
    for k, y in ((keras, Y), (theirs, Y[:, None])):
        model = line(k=k, optimizer=k.optimizers.SGD(0.01), loss=k.losses.MeanSquaredError(reduction="sum"))
        history = model.fit(X, y, batch_size=10, epochs=2, shuffle=False, verbose=0).history
        runs.append((history["loss"], model.get_weights()))
    np.testing.assert_allclose(runs[0][0], runs[1][0], rtol=1e-5)
    for a, b in zip(runs[0][1], runs[1][1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reduction", ["none", None])
def test_B6_none_is_the_mean_where_one_number_is_needed(reduction: Any) -> None:
    model = line(loss=keras.losses.MeanSquaredError(reduction=reduction))
    assert model.fit(X, Y, batch_size=24, verbose=0).history["loss"] == [near(MSE_B)]


W = np.linspace(0, 3, 24).astype(np.float32)


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(lambda y, p: jnp.mean((y - p) ** 2, -1), id="per example"),
        pytest.param(lambda y, p: (y - p) ** 2, id="per element"),
    ],
)
def test_B6_values_of_an_own_function_are_weighted_one_by_one(function: Any) -> None:
    assert scores(line(loss=function), Y, sample_weight=W)["loss"] == near(np.mean(W * (B - Y) ** 2))


def test_B6_one_number_cannot_be_weighted() -> None:
    def scalar(y: Any, p: Any) -> Any:
        return jnp.mean((y - p) ** 2)

    model = line(loss=scalar)
    assert scores(model, Y)["loss"] == near(MSE_B)
    for weights in ({"sample_weight": W}, {"class_weight": {0: 2.0}}):
        with pytest.raises(ValueError, match=r"'scalar' of output 'out'.*one value per example"):
            model.fit(X, Z, **weights, verbose=0)
    # Keras multiplies the mean by the weights' mean, which is no weighted loss.
    k = theirs.ops
    other = line(k=theirs, loss=lambda y, p: k.mean((y - p) ** 2))
    wrong = other.evaluate(X, Y[:, None], sample_weight=W, batch_size=24, verbose=0)
    assert wrong == near(MSE_B * W.mean())
    assert wrong != near(np.mean(W * (B - Y) ** 2))


# -- B7


def test_B7_rank_1_matches_one_column() -> None:
    model = line()
    assert scores(model, Y) == scores(model, Y[:, None]) == {"loss": near(MSE_B)}


@pytest.mark.parametrize(
    ("columns", "shape"), [(1, (24, 2)), (2, (24, 1)), (2, (24,)), (1, (24, 1, 1)), (3, (24, 2))], ids=str
)
@pytest.mark.parametrize("loss", ["mse", "binary_crossentropy", "huber"])
def test_B7_any_other_shape_is_refused_with_both(columns: int, shape: tuple[int, ...], loss: str) -> None:
    named = str(shape).replace("24", "n")
    model = line(columns, "sigmoid", loss=loss)
    with pytest.raises(ValueError) as caught:
        model.fit(X, np.ones(shape, np.float32), verbose=0)
    assert f"shape (n, {columns}), got {named}" in str(caught.value)


def test_B7_keras_broadcasts() -> None:
    model = line(k=theirs)
    assert model.evaluate(X, np.stack([Y, Y], 1), verbose=0) == near(MSE_B)


# -- B8


@pytest.mark.parametrize("method", ["fit", "evaluate", "train_on_batch", "test_on_batch"])
def test_B8_missing_targets_are_said(method: str) -> None:
    with pytest.raises(ValueError, match=r"Output 'a' has the loss .* no targets"):
        getattr(two(loss={"a": "mse"}), method)(X)


@pytest.mark.parametrize("method", ["fit", "evaluate"])
def test_B8_missing_targets_of_batches_are_said(method: str) -> None:
    with pytest.raises(ValueError, match=r"Output 'out' has the loss .* no targets"):
        getattr(line(), method)(X[i : i + 8] for i in (0, 8))


def test_B8_a_metric_needs_targets_too() -> None:
    with pytest.raises(ValueError, match="'out' has metrics and no targets"):
        line(loss=None, metrics=["mae"]).evaluate(X, verbose=0)

"""Section C (metrics) of the training contract: each rule is a test that bears its number."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import keras as theirs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.data import diabetes, digits

import epochal as keras
from epochal import layers, metrics

X, Y = diabetes(60)
Z = (Y > 0).astype(np.int32)


@functools.cache
def bare_line(columns: int, k: Any) -> Any:
    return k.Sequential([k.layers.Input((10,)), k.layers.Dense(columns, name="out")])


@functools.cache
def bare_two(k: Any) -> Any:
    """Outputs "b" and "a", in this order."""
    x = k.Input((10,))
    return k.Model(x, [k.layers.Dense(1, name="b")(x), k.layers.Dense(1, name="a")(x)])


def line(columns: int = 1, k: Any = keras, **compile_arguments: Any) -> Any:
    """A linear model; one for all tests, compiled anew."""
    model = bare_line(columns, k)
    weights = np.linspace(-0.2, 0.3, 10 * columns, dtype=np.float32).reshape(10, columns)
    model.set_weights([weights, np.zeros(columns, np.float32)])
    model.compile(**{"optimizer": k.optimizers.SGD(0.0), "loss": "mse", **compile_arguments})
    return model


def two(k: Any = keras, **compile_arguments: Any) -> Any:
    model = bare_two(k)
    model.compile(**{"optimizer": "sgd", "loss": "mse", **compile_arguments})
    return model


def labels(model: Any, y: Any = Y) -> list[str]:
    return list(model.test_on_batch(X, y, return_dict=True))


def near(value: Any) -> Any:
    return pytest.approx(float(value), rel=1e-5)


# -- C1, C3


def absolute(y_true: Any, y_pred: Any) -> Any:
    return jnp.abs(y_true - y_pred)


ONE_OUTPUT = {
    "nothing": (None, []),
    "a string": ("mae", ["mae"]),
    "strings as typed": (
        ["mae", "MAE", "MeanAbsoluteError", "mean_absolute_error"],
        ["mae", "MAE", "MeanAbsoluteError", "mean_absolute_error"],
    ),
    "a function": (absolute, ["absolute"]),
    "a function of ours": ([keras.losses.mae], ["mean_absolute_error"]),
    "an object": ([metrics.MeanAbsoluteError(name="off")], ["off"]),
    "a class": ([metrics.MeanAbsoluteError], ["mean_absolute_error"]),
    "a loss": ([keras.losses.MeanAbsoluteError(name="cost")], ["cost"]),
    "a class of losses": ([keras.losses.MeanAbsoluteError], ["mean_absolute_error"]),
    "a tuple with a gap": (("mae", None, absolute), ["mae", "absolute"]),
    "a list in a list": ([["mae", "MAE"]], ["mae", "MAE"]),
    "a dict": ({"out": [absolute, "mae"]}, ["absolute", "mae"]),
    "repeated": (["mae", absolute, "mae", "mae", absolute], ["mae", "absolute", "mae_1", "mae_2", "absolute_1"]),
}


@pytest.mark.parametrize("form", ONE_OUTPUT)
def test_C1_C3_every_form_of_a_metric_and_its_key(form: str) -> None:
    given, names = ONE_OUTPUT[form]
    values = line(metrics=given).test_on_batch(X, Y, return_dict=True)
    error = np.mean(np.abs(X @ np.linspace(-0.2, 0.3, 10, dtype=np.float32) - Y))
    assert list(values) == ["loss", *names]
    assert list(values.values())[1:] == [near(error)] * len(names)


@pytest.mark.parametrize("given", [3, [3], dict, [object()], {"out": 3}, "maee", ["mae", "maee"], {"out": ["maee"]}])
def test_C1_what_is_no_metric_is_refused_at_compile(given: Any) -> None:
    with pytest.raises(ValueError, match=r"Expected a metric|Unknown metric 'maee'. Did you mean 'mae'"):
        line(metrics=given)


@pytest.mark.parametrize("what", ["metrics", "weighted_metrics"])
def test_C1_several_outputs_need_an_entry_for_each(what: str) -> None:
    for items in ("mae", ["mae"], [["mae"], ["mae"], ["mae"]], absolute):
        with pytest.raises(ValueError, match=rf"Expected {what} with one entry per output \(2: \['b', 'a'\]\), got"):
            two(**{what: items}).fit(X, [Y, Z], verbose=0)
    with pytest.raises(ValueError, match=rf"'c' in {what}; the outputs are \['b', 'a'\]"):
        two(**{what: {"c": "mae"}}).fit(X, [Y, Z], verbose=0)


SEVERAL_OUTPUTS = {
    "one each": (["mae", absolute], ["b_mae", "a_absolute"]),
    "lists": ([["mae", "mse"], ("mape",)], ["b_mae", "b_mse", "a_mape"]),
    "none for one": ([None, ["mae", "mae"]], ["a_mae", "a_mae_1"]),
    "an empty list": ([[], "mae"], ["a_mae"]),
    "a dict": ({"a": "mae", "b": [absolute]}, ["b_absolute", "a_mae"]),
    "a dict with a gap": ({"a": ["mae"]}, ["a_mae"]),
}


@pytest.mark.parametrize("form", SEVERAL_OUTPUTS)
def test_C1_C3_C5_several_outputs_in_their_order(form: str) -> None:
    given, names = SEVERAL_OUTPUTS[form]
    model = two(metrics=given)
    assert labels(model, [Y, Z]) == ["loss", "b_loss", "a_loss", *names]
    assert model.metrics_names == ["loss", "b_loss", "a_loss", *names]


class Answers(keras.Model):
    """A model without names for its outputs: a tuple, a list, a dict."""

    def __init__(self, form: Any) -> None:
        super().__init__()
        self.form, self.first, self.second = form, layers.Dense(1), layers.Dense(1)

    def call(self, x: Any) -> Any:
        pair = self.first(x), self.second(x)
        return dict(zip("qp", pair, strict=True)) if self.form is dict else self.form(pair)


@pytest.mark.parametrize("form", [tuple, list])
def test_C3_outputs_of_a_subclassed_model_are_numbered(form: type) -> None:
    model = Answers(form)
    model.compile("sgd", "mse", metrics=[["mae"], ["mae"]])
    names = ["loss", "output_1_loss", "output_2_loss", "output_1_mae", "output_2_mae"]
    assert labels(model, [Y, Z]) == names
    assert labels(model, {"output_1": Y, "output_2": Z}) == names


def test_C3_keras_mixes_up_the_outputs_of_a_tuple() -> None:
    class Net(theirs.Model):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = theirs.layers.Dense(1), theirs.layers.Dense(1)

        def call(self, x: Any) -> Any:
            return self.first(x), self.second(x)

    model = Net()
    model.compile("sgd", "mse", metrics=[["mae"], ["mae"]])
    history = model.fit(X, (Y[:, None], Z[:, None]), verbose=0).history
    assert sorted(history) == ["loss", "mae", "mae_1", "mse_loss"]  # one loss for two outputs


def test_C3_keys_of_a_dict_are_the_names_of_the_outputs() -> None:
    model = Answers(dict)
    model.compile("sgd", {"p": "mse", "q": "mae"}, metrics={"q": "mae", "p": ["mse"]})
    assert labels(model, {"q": Y, "p": Z}) == ["loss", "p_loss", "q_loss", "p_mse", "q_mae"]


def test_C3_weighted_metrics_that_collide_are_named_as_in_keras() -> None:
    compiled: dict[str, Any] = {"metrics": ["mae", "mse"], "weighted_metrics": ["mae", "mape", "mae"]}
    assert labels(line(**compiled)) == ["loss", "mae", "mse", "weighted_mae", "mape", "weighted_mae_1"]
    other = line(k=theirs, **compiled)
    assert sorted(other.fit(X, Y[:, None], verbose=0).history) == sorted(labels(line(**compiled)))
    compiled = {"metrics": [["mae", "mae"], ["mae"]], "weighted_metrics": [["mae"], ["mape"]]}
    names = ["loss", "b_loss", "a_loss", "b_mae", "b_mae_1", "a_mae", "b_weighted_mae", "a_mape"]
    assert labels(two(**compiled), [Y, Z]) == names
    other = two(theirs, **compiled)
    assert sorted(other.fit(X, [Y[:, None], Z[:, None]], verbose=0).history) == sorted(names)


# -- C2


def test_C2_accuracy_goes_by_shape_and_not_by_loss() -> None:
    name = "acc"
    scores = X @ np.linspace(-0.2, 0.3, 30, dtype=np.float32).reshape(10, 3)
    kinds = np.digitize(Y, [-0.5, 0.5])
    onehot = np.eye(3, dtype=np.float32)[kinds]
    right = near(np.mean(scores.argmax(1) == kinds))
    assert line(3, metrics=[name]).test_on_batch(X, onehot, return_dict=True)[name] == right
    model = line(3, metrics=[name], loss=lambda y, p: jnp.mean(p**2, -1))
    assert model.test_on_batch(X, kinds, return_dict=True)[name] == right
    assert model.test_on_batch(X, kinds[:, None], return_dict=True)[name] == right
    binary = line(metrics=[name])
    right = near(np.mean((binary.predict(X, verbose=0)[:, 0] > 0.5) == Z))
    assert binary.test_on_batch(X, Z, return_dict=True)[name] == right


# -- C4


def test_C4_weights_reach_weighted_metrics_alone_over_the_whole_epoch() -> None:
    w = np.random.default_rng(0).uniform(0, 3, 60).astype(np.float32)
    model = line(metrics=["mae"], weighted_metrics=["mae", keras.metrics.RootMeanSquaredError(name="root")])
    error = model.predict(X, verbose=0)[:, 0] - Y
    expected = {
        "loss": near(np.mean(w * error**2)),
        "mae": near(np.mean(np.abs(error))),
        "weighted_mae": near(np.sum(w * np.abs(error)) / w.sum()),
        "root": near(np.sqrt(np.sum(w * error**2) / w.sum())),
    }
    given: dict[str, Any] = {"sample_weight": w, "batch_size": 16, "verbose": 0}
    assert {name: values[0] for name, values in model.fit(X, Y, **given).history.items()} == expected
    assert model.evaluate(X, Y, **given, return_dict=True) == expected
    assert model.test_on_batch(X, Y, w, return_dict=True) == expected
    assert model.train_on_batch(X, Y, w, return_dict=True) == expected


# -- C5


class Extremes(keras.metrics.Metric):
    """A metric that gives several numbers by name."""

    def __init__(self) -> None:
        super().__init__(name="extremes")
        self.low = self.add_variable((), keras.initializers.Constant(np.inf))
        self.high = self.add_variable((), keras.initializers.Constant(-np.inf))

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.low.assign(jnp.minimum(self.low.value, jnp.min(y_true)))
        self.high.assign(jnp.maximum(self.high.value, jnp.max(y_true)))

    def result(self) -> Any:
        return {"low": self.low, "high": self.high}


def test_C5_everything_is_reported_in_one_order() -> None:
    given: Any = {"metrics": [["mae"], [Extremes(), "mse"]], "weighted_metrics": [[], ["mse"]]}
    model = two(**given)
    names = ["loss", "b_loss", "a_loss", "b_mae", "low", "high", "a_mse", "a_weighted_mse"]
    batch_logs: list[list[str]] = []
    watch = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: batch_logs.append(list(logs)))
    history = model.fit(X, [Y, Z], validation_split=0.5, verbose=0, callbacks=watch).history
    assert list(history) == names + [f"val_{name}" for name in names]
    assert batch_logs[0] == names
    assert model.metrics_names == names
    values = model.evaluate(X, [Y, Z], verbose=0)
    assert dict(zip(names, values, strict=True)) == model.evaluate(X, [Y, Z], verbose=0, return_dict=True)
    assert len(model.train_on_batch(X, [Y, Z])) == len(names)
    model.compile("sgd", "mse")
    assert model.metrics_names == []  # of the new recipe nothing is known before its first data


def test_C5_metrics_names_of_keras_are_no_labels() -> None:
    model = line(k=theirs, metrics=["mae"])
    history = model.fit(X, Y[:, None], verbose=0).history
    assert sorted(history) == ["loss", "mae"]
    assert model.metrics_names == ["loss", "compile_metrics"]


# -- C6


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z)
    return e / e.sum(-1, keepdims=True)


LEFT, RIGHT = X[:, :4], X[:, 4:8]
KINDS = LEFT.argmax(1)
BITS, CHANCES, YES = (LEFT > 0.3).astype(np.float32), softmax(RIGHT + LEFT), 1 / (1 + np.exp(-RIGHT - LEFT))
M = metrics
# Output -> targets, predictions, and the metrics that such numbers go with.
FAMILIES: dict[str, tuple[np.ndarray, np.ndarray, list[Any]]] = {
    "real": (
        LEFT,
        RIGHT,
        [
            *[M.MeanSquaredError(), M.RootMeanSquaredError(), M.MeanAbsoluteError(), M.MeanAbsolutePercentageError()],
            *[M.LogCoshError(), M.CosineSimilarity(), M.PearsonCorrelation(), M.ConcordanceCorrelation()],
            *[M.R2Score(), M.R2Score(class_aggregation=None, name="each")],
        ],
    ),
    "rate": (np.abs(LEFT), np.abs(RIGHT) + 0.1, [M.MeanSquaredLogarithmicError(), M.Poisson()]),
    "share": (
        np.eye(4, dtype=np.float32)[KINDS],
        CHANCES,
        [
            *[M.KLDivergence(), M.CategoricalCrossentropy(), M.CategoricalAccuracy(), M.CategoricalHinge()],
            *[M.TopKCategoricalAccuracy(2), M.F1Score("macro"), M.FBetaScore(beta=2.0, name="each")],
            *[M.OneHotIoU(4, [0, 2]), M.OneHotMeanIoU(4), M.AUC(multi_label=True, num_labels=4)],
        ],
    ),
    "kind": (
        KINDS,
        CHANCES,
        [
            *[M.SparseCategoricalCrossentropy(), M.SparseCategoricalAccuracy(), M.SparseTopKCategoricalAccuracy(2)],
            *[M.IoU(4, [1], sparse_y_pred=False), M.MeanIoU(4, sparse_y_pred=False)],
        ],
    ),
    "same": (KINDS[:, None], RIGHT.argmax(1)[:, None], [M.Accuracy()]),
    "bits": (
        BITS,
        YES,
        [
            *[M.BinaryAccuracy(), M.BinaryCrossentropy(), M.Hinge(), M.SquaredHinge(), M.BinaryIoU()],
            *[M.TruePositives(), M.FalsePositives(), M.TrueNegatives(), M.FalseNegatives([0.2, 0.7])],
            *[M.Precision(), M.Recall(top_k=2)],
        ],
    ),
    "bit": (
        BITS[:, :1],
        YES[:, :1],
        [
            *[M.AUC(), M.AUC(curve="PR", name="pr"), M.PrecisionAtRecall(0.5), M.RecallAtPrecision(0.5)],
            *[M.SensitivityAtSpecificity(0.5), M.SpecificityAtSensitivity(0.5)],
        ],
    ),
}
TARGETS = {name: y for name, (y, _, _) in FAMILIES.items()}
INPUTS = {name: p.astype(np.float32) for name, (_, p, _) in FAMILIES.items()}
WEIGHTS = np.random.default_rng(1).uniform(0.1, 2, 60).astype(np.float32)
WIDTH = 16  # the first batch has so many rows and none has more, so that one program runs all cuts


@functools.cache
def scorer() -> Any:
    """A model that hands on its inputs as predictions, with every metric of ours.

    One of a user's would see short batches in their true shapes, each of which needs another program.
    """
    inputs = {name: keras.Input(p.shape[1:], name=name) for name, p in INPUTS.items()}
    model = keras.Model(inputs, {name: layers.Activation("linear")(x) for name, x in inputs.items()})
    compiled = {name: items for name, (_, _, items) in FAMILIES.items()}
    model.compile("sgd", {"real": "mse"}, metrics=compiled, weighted_metrics={"real": ["mae", M.R2Score()]})
    return model


def cut(sizes: list[int]) -> Iterator[Any]:
    """The 60 rows in batches of these sizes, for as long as there are rows."""
    start = 0
    for size in [WIDTH, *sizes, *[WIDTH] * 4]:
        rows = slice(start, min(start + size, 60))
        if rows.start < rows.stop:
            yield tuple({k: a[rows] for k, a in t.items()} for t in (INPUTS, TARGETS, dict.fromkeys(INPUTS, WEIGHTS)))
        start += size


@functools.cache
def whole() -> dict[str, Any]:
    """Of all rows as one batch."""
    weights = dict.fromkeys(INPUTS, WEIGHTS)
    return scorer().evaluate(INPUTS, TARGETS, 60, sample_weight=weights, verbose=0, return_dict=True)


def test_C6_every_metric_is_in_the_next_test() -> None:
    classes = {v for v in vars(metrics).values() if inspect.isclass(v) and issubclass(v, metrics.Metric)}
    bases = {M.Metric, M.Mean, M.Sum, M.MeanMetricWrapper, M.MeanOfLoss}
    assert {type(m) for _, _, items in FAMILIES.values() for m in items} >= classes - bases


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, WIDTH), max_size=50))
def test_C6_cutting_the_examples_into_other_batches_changes_no_metric(sizes: list[int]) -> None:
    found = scorer().evaluate(cut(sizes), verbose=0, return_dict=True)
    assert list(found) == list(whole())
    for name, value in whole().items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6, atol=1e-6, err_msg=name)


def test_C6_keras_means_of_means() -> None:
    """A function that returns one number per batch, over batches of 16, 16, 16 and 12."""
    k = theirs.ops
    other = line(k=theirs, metrics=[lambda y, p: k.mean(k.abs(y - p))])
    ours = line(metrics=[lambda y, p: jnp.mean(jnp.abs(y - p))])
    error = np.mean(np.abs(ours.predict(X, verbose=0)[:, 0] - Y))
    assert ours.evaluate(X, Y, 16, verbose=0)[1] == near(error)
    assert other.evaluate(X, Y[:, None], 16, verbose=0)[1] != near(error)


@pytest.mark.parametrize("sparse", [True, False])
def test_accuracy_in_a_compiled_step_takes_the_class_from_the_logits_behind_a_softmax(sparse):
    x, y = digits()
    targets = y if sparse else np.eye(10, dtype=np.float32)[y]
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(10, activation="softmax")])
    loss = "sparse_categorical_crossentropy" if sparse else "categorical_crossentropy"
    model.compile("sgd", loss, metrics=["accuracy"])
    for weight in (
        1.0,
        np.nan,
        np.inf,
    ):  # probabilities of logits that are not finite are NaN, whose class is the first
        model.layers[-1].kernel.assign(weight * model.layers[-1].kernel.value)
        found = model.evaluate(x, targets, verbose=0, return_dict=True)["accuracy"]
        assert found == pytest.approx((model.predict(x, verbose=0).argmax(-1) == y).mean(), abs=1e-7)

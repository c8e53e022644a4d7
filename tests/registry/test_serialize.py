"""Objects as data and back, and nothing else out of data."""

from __future__ import annotations

import json
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import epochal
from epochal import activations, initializers, layers, losses, metrics, optimizers, regularizers
from epochal.registry.lookup import find
from epochal.registry.serialize import deserialize, serialize

OBJECTS = [
    layers.Dense(3, activation="relu", kernel_regularizer=regularizers.L2(0.1), name="a"),
    layers.Conv2D(4, (3, 2), padding="same", kernel_initializer=initializers.HeNormal(seed=3)),
    layers.Activation(activations.gelu),
    losses.Huber(0.5),
    losses.CategoricalCrossentropy(label_smoothing=0.1),
    metrics.AUC(num_thresholds=50, name="area"),
    optimizers.Adam(optimizers.schedules.ExponentialDecay(0.1, 10, 0.9), clipnorm=1.0),
    optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    layers.Normalization(mean=np.array([1.0, 2.0]), variance=np.array([1.0, 4.0])),
]


@pytest.mark.parametrize("item", OBJECTS, ids=lambda item: type(item).__name__)
def test_an_object_goes_through_json_and_comes_back_equal(item: Any) -> None:
    data = json.loads(json.dumps(serialize(item)))
    copy = deserialize(data)
    assert type(copy) is type(item)
    assert serialize(copy) == serialize(item)


DATA = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(), inner)
        | st.dictionaries(st.integers(), inner)
    ),
    max_leaves=10,
)


@given(DATA)
def test_plain_data_comes_back_equal_with_tuples_and_integer_keys(data: Any) -> None:
    assert deserialize(json.loads(json.dumps(serialize(data)))) == data


@pytest.mark.parametrize("value", [lambda x: x, jax.nn.relu, object(), open])
def test_what_is_not_data_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="Cannot write down"):
        serialize({"a": value})


@pytest.mark.parametrize(
    "data", [{"class": "os/system", "config": {}}, {"function": "builtins/eval"}, {"class": 3}, {"other": 1}]
)
def test_only_registered_classes_come_out_of_data(data: Any) -> None:
    with pytest.raises(ValueError, match=r"Unknown|Expected|Cannot read"):
        deserialize(data)


def test_registered_classes_and_functions_are_written_by_name() -> None:
    @epochal.saving.register_keras_serializable("mine")
    class Loss(losses.Loss):
        def call(self, y_true: Any, y_pred: Any) -> Any:
            return y_true - y_pred

    @epochal.saving.register_keras_serializable("mine")
    def double(x: Any) -> Any:
        return 2 * x

    assert serialize(Loss())["class"] == "mine/Loss"
    assert type(deserialize(serialize(Loss()))) is Loss
    assert deserialize(serialize(double)) is double


def test_the_nearest_names_are_said() -> None:
    table = {"relu": 1, "leaky_relu": 2, "BatchNormalization": 3}
    with pytest.raises(ValueError, match="'relu'"):
        find("activation", "rellu", table)
    with pytest.raises(ValueError, match="BatchNormalization"):
        find("layer", "batch_normalisation", table)
    with pytest.raises(ValueError, match=r"Known: BatchNormalization, leaky_relu, relu\."):
        find("activation", "zzz", table)

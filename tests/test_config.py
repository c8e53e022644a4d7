"""Objects as data and back, and nothing else out of data."""

from __future__ import annotations

import inspect
import json
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import epochal
from epochal import activations, config, initializers, layers, losses, metrics, optimizers, regularizers
from epochal.engine.objective.objective import _is_ours
from epochal.registry import configurable
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


@pytest.mark.parametrize("module", [epochal, layers, epochal.callbacks, epochal.models, epochal.utils])
def test_the_public_names_are_all_and_no_more(module: Any) -> None:
    public = {name for name in vars(module) if not name.startswith("_")}
    modules = {name for name in public if inspect.ismodule(getattr(module, name)) and name not in module.__all__}
    assert set(module.__all__) == public - modules


@pytest.mark.parametrize(
    "module",
    [
        *(epochal, layers, losses, metrics, optimizers, activations, initializers, regularizers, optimizers.schedules),
        *(config, epochal.backend, epochal.critical_batch, epochal.mixed_precision, epochal.random, epochal.saving),
    ],
)
def test_all_names_in_all_are_there_once(module: Any) -> None:
    assert [name for name in module.__all__ if not hasattr(module, name)] == []
    assert len(set(module.__all__)) == len(module.__all__)


OURS = ["epochal.layers.core", "epochal.models.sequential", "epochal.a.new.room"]
USERS = ["mine", "epochal_extras.layers", "__main__"]


@pytest.mark.parametrize("module", OURS + USERS)
@pytest.mark.parametrize(
    ("base", "family"),
    [
        (layers.Layer, "layers"),
        (layers.Dense, "layers"),
        (epochal.Model, "model"),
        (epochal.Sequential, "sequential"),
        (losses.Loss, "losses"),
        (metrics.Metric, "metrics"),
        (optimizers.SGD, "optimizers"),
        (optimizers.schedules.LearningRateSchedule, "optimizers"),
        (initializers.Initializer, "initializers"),
        (regularizers.L1L2, "regularizers"),
    ],
)
def test_a_saved_name_is_of_the_class_and_not_of_its_file(
    base: Any, family: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(configurable, "_REGISTRY", dict(configurable._REGISTRY))
    moved = type(base)("Moved", (base,), {"__module__": module})
    ours = module in OURS
    assert configurable.registered_name(moved) == (f"{family}/Moved" if ours else "custom/Moved")
    assert (f"{family}/Moved" in configurable._REGISTRY) is ours


@pytest.mark.parametrize("module", OURS + USERS)
def test_what_is_ours_is_told_by_the_package_wherever_in_it(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding is safe with our layers alone, our mathematics is row by row, and our models build their own layers."""
    monkeypatch.setattr(configurable, "_REGISTRY", dict(configurable._REGISTRY))
    ours = module in OURS
    layer: Any = type(layers.Layer)("Moved", (layers.Layer,), {"__module__": module})
    assert layer.padding_safe is ours

    def distance(y_true: Any, y_pred: Any) -> Any:
        return y_true - y_pred

    distance.__module__ = module
    assert _is_ours(distance) is ours
    assert _is_ours(losses.LossFunctionWrapper(distance)) is ours
    built: list[Any] = []

    def build(self: Any, input_shape: Any) -> None:
        built.append(input_shape)

    build.__module__ = module
    model: Any = type(epochal.Model)("Moved", (epochal.Sequential,), {"__module__": module, "build": build})
    model([layers.Dense(1)])(np.zeros((2, 3), "float32"))
    assert (built == []) is ours

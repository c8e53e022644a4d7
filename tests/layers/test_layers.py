"""Layers against real Keras with the same weights; then what Keras does not promise: padding, noise, errors."""

import inspect
import json

import jax
import keras
import pytest
from support.layer_cases import (
    CASES,
    as_arguments,
    case_id,
    close,
    draw,
    everything,
    functional,
    keras_functional,
    pair,
    resolved,
)

from epochal import layers
from epochal.registry.serialize import deserialize, serialize

each_case = pytest.mark.parametrize("case", CASES, ids=case_id)


@each_case
def test_equals_keras(case):
    ours, theirs, x = pair(case)
    training = "BatchNormalization" in case_id(case)  # the others are deterministic, or do not differ
    got = everything(*functional(ours), x, training)
    want = everything(*keras_functional(theirs), x, training)
    assert got[0].shape == want[0].shape
    close(got if training else (got[0], got[3]), want if training else (want[0], want[3]))
    assert [v.get_metadata()["name"] for v in ours.weights] == [v.name for v in theirs.weights]
    assert ours.output_shape == (None, *want[0].shape[1:])
    shapes = jax.tree.map(lambda a: (None, *a.shape[1:]), x)
    assert ours.compute_output_shape(*as_arguments(shapes)) == ours.output_shape


@each_case
def test_config_makes_an_equal_layer(case):
    layer = getattr(layers, case[0])(**{k: resolved(v, layers) for k, v in case[1].items()})
    written = serialize(layer)
    again = deserialize(json.loads(json.dumps(written)))
    assert type(again) is type(layer)
    assert serialize(again) == written
    assert serialize(type(layer).from_config(layer.get_config())) == written


def test_layer_from_config_computes_the_same():
    layer = layers.Conv2D(4, 3, padding="same", activation="relu")
    x = draw((5, 5, 2))
    layer(x)
    again = layers.Conv2D.from_config(layer.get_config())
    again(x)
    again.set_weights(layer.get_weights())
    close(again(x), layer(x), rtol=0, atol=0)


def test_every_layer_has_a_case():
    named = {case[0] for case in CASES}
    # InputLayer: contract/test_models.py, Keras's cannot be called on values; cells: test_recurrent.py
    apart = {"Layer", "Wrapper", "InputLayer", "SimpleRNNCell", "LSTMCell", "GRUCell", "StackedRNNCells"}
    public = {n for n in layers.__all__ if inspect.isclass(getattr(layers, n))} - apart
    aliases = {n for n in public if getattr(layers, n).__name__ != n}
    assert public - aliases == named
    for name in public:
        assert hasattr(keras.layers, name), name

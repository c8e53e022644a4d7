"""Section K (models) of the training contract and its names: Sequential, graphs, and whole models of Keras's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import keras as real
import numpy as np
import pytest
from support.data import digits
from support.graphs import branches, paths, sequences, shared_and_nested

import epochal as keras
from epochal import layers

X, Y = digits(64)


# -- names


NAMES = {
    "": "Model Sequential Input Layer Loss Metric Optimizer Regularizer Initializer Variable KerasTensor layers losses "
    "metrics optimizers regularizers initializers activations callbacks utils models saving ops random backend version",
    "utils": "Sequence PyDataset to_categorical set_random_seed DatasetCreator InputContext normalize clear_session "
    "timeseries_dataset_from_array split_dataset pad_sequences custom_object_scope register_keras_serializable",
    "models": "Sequential Model load_model save_model clone_model model_from_json",
    "saving": "load_model save_model register_keras_serializable custom_object_scope CustomObjectScope "
    "get_custom_objects serialize_keras_object deserialize_keras_object",
    "random": "SeedGenerator normal uniform truncated_normal categorical dropout shuffle",
    "optimizers.schedules": "ExponentialDecay CosineDecay PiecewiseConstantDecay PolynomialDecay InverseTimeDecay",
}


@pytest.mark.parametrize("module", NAMES)
def test_names_are_keras_s(module: str) -> None:
    ours: Any = keras
    theirs: Any = real
    for part in module.split(".") if module else ():
        ours, theirs = getattr(ours, part), getattr(theirs, part)
    of_keras_2 = ["DatasetCreator", "InputContext"]
    assert [name for name in NAMES[module].split() if not hasattr(ours, name)] == []
    assert [name for name in NAMES[module].split() if not hasattr(theirs, name)] in ([], of_keras_2)


def test_names_of_ops_are_keras_s() -> None:
    """All but transforms of sound, and those that Keras itself has no JAX code for."""
    missing = {n for n in dir(real.ops) if not n.startswith("_") and not hasattr(keras.ops, n)}
    sound = {"stft", "istft", "ctc_loss", "ctc_decode"}
    assert missing - sound <= {"adaptive_average_pool", "adaptive_max_pool", "fold", "unfold", "rearrange"}


def test_sequence_is_pydataset() -> None:
    assert keras.utils.Sequence is keras.utils.PyDataset


# -- Sequential


FIRST: dict[str, Callable[[], list[Any]]] = {
    "Input": lambda: [keras.Input((64,)), layers.Dense(3)],
    "InputLayer": lambda: [layers.InputLayer((64,)), layers.Dense(3)],
    "InputLayer, as in Keras 2": lambda: [layers.InputLayer(input_shape=(64,)), layers.Dense(3)],
    "input_shape": lambda: [layers.Dense(3, input_shape=(64,))],
    "input_dim": lambda: [layers.Dense(3, input_dim=64)],
}


@pytest.mark.parametrize("form", FIRST)
def test_K_sequential_with_a_shape_is_built_at_once(form: str) -> None:
    model = keras.Sequential(FIRST[form]())
    assert model.count_params() == 64 * 3 + 3
    assert (model.input_shape, model.output_shape) == ((None, 64), (None, 3))
    assert [type(layer).__name__ for layer in model.layers] == ["Dense"]


def test_K_an_input_layer_passes_its_input_on_and_has_its_tensor() -> None:
    layer = layers.InputLayer((3, None), batch_size=4, name="in")
    assert (layer.output.shape, layer.output_shape, layer.output.name) == ((4, 3, None), (4, 3, None), "in")
    np.testing.assert_array_equal(layer(X[:2]), X[:2])
    again = layers.InputLayer.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    model = keras.Model(layer.output, layers.Dense(2)(keras.ops.sum(layer.output, 2)))
    assert [type(item).__name__ for item in model.layers] == ["InputLayer", "Dense"]
    assert model.get_layer("in").output is layer.output


def test_K_sequential_without_a_shape_is_built_at_its_first_data_or_by_build() -> None:
    model = keras.Sequential([layers.Dense(3), layers.Dense(2)])
    assert model.weights == []
    with pytest.raises(ValueError, match="no weights yet"):
        model.set_weights([np.ones((64, 3))])
    assert model(X[:2]).shape == (2, 2)
    other = keras.Sequential([layers.Dense(3), layers.Dense(2)])
    other.build((None, 64))
    assert [w.shape for w in other.weights] == [w.shape for w in model.weights]
    with pytest.raises(AttributeError, match="no input shape"):
        _ = keras.Sequential([layers.Dense(3)]).output


def test_K_a_graph_goes_on_from_layers_of_a_sequential() -> None:
    """As scripts for transfer learning do; the tensors are made when they are asked for, after a fit too."""
    base = keras.Sequential([keras.Input((64,)), layers.Dense(5, "relu"), layers.Dense(3)])
    features = keras.Model(inputs=base.inputs, outputs=base.layers[-2].output)
    kernel, bias = base.get_weights()[:2]
    np.testing.assert_allclose(features(X), np.maximum(X @ kernel + bias, 0), rtol=1e-4, atol=1e-5)
    head = layers.Dense(2)(base.layers[0].output)
    assert keras.Model(base.input, head).output_shape == (None, 2)
    assert base.outputs[0].shape == (None, 3)
    base.pop()
    assert base.output.shape == (None, 5)
    assert base.count_params() == 65 * 5


# -- graphs


STRUCTURES: dict[str, Callable[[Any, Any], Any]] = {
    "list": lambda a, b: [a, b],
    "tuple": lambda a, b: (a, b),
    "dict": lambda a, b: {"two": b, "one": a},  # not in the order of the alphabet
    "nested": lambda a, b: {"both": [a, b], "b": b},
}


@pytest.mark.parametrize("form", STRUCTURES)
def test_K_a_graph_takes_and_returns_lists_tuples_and_dicts(form: str) -> None:
    make = STRUCTURES[form]
    a, b = keras.Input((3,), name="one"), keras.Input((3,), name="two")
    twin = keras.Input((3,), name="b")
    inputs = {"both": [a, b], "b": twin} if form == "nested" else make(a, b)
    last = twin if form == "nested" else b
    outputs = make(a + last, a - b) if form != "nested" else {"both": [a + last, a - b], "b": a * b}
    model = keras.Model(inputs, outputs)
    one, two = X[:4, 20:23], X[:4, 30:33]
    data = {"both": [one, two], "b": two} if form == "nested" else make(one, two)
    found = model.predict(data, verbose=0)
    expected = make(one + two, one - two) if form != "nested" else {"both": [one + two, one - two], "b": one * two}
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for value, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-6)


def random_graph(k: Any, seed: int) -> Any:
    """Layers, shared ones among them, operators, and inputs that nothing needs, put together by chance."""
    rng = np.random.default_rng(seed)
    inputs = [k.Input((4,), name=f"in{i}") for i in range(rng.integers(1, 4))]
    tensors, made = list(inputs), []

    def pick() -> Any:
        return tensors[rng.integers(len(tensors))]

    for i in range(rng.integers(3, 12)):
        kind = rng.integers(4)
        if kind == 0 and made:
            tensors.append(made[rng.integers(len(made))](pick()))
        elif kind == 1:
            tensors.append(k.layers.Add(name=f"add{i}")([pick(), pick()]))
        elif kind == 2:
            tensors.append(pick() + 1.0)
        else:
            made.append(k.layers.Dense(4, name=f"dense{i}", kernel_initializer="zeros"))
            tensors.append(made[-1](pick()))
    outputs = [tensors[-1], *[tensors[rng.integers(len(inputs), len(tensors))] for _ in range(rng.integers(0, 3))]]
    return k.Model(inputs, outputs)


def test_K_layers_and_weights_of_a_graph_come_in_keras_s_order() -> None:
    """That is by distance from the outputs, and not as they were made."""
    for seed in range(25):
        ours, theirs = random_graph(keras, seed), random_graph(real, seed)
        assert [layer.name for layer in ours.layers] == [layer.name for layer in theirs.layers], seed
        assert paths(ours) == paths(theirs), seed


# -- whole models of Keras's, moved over and back


WHOLE = {"branches": branches, "shared_and_nested": shared_and_nested, "sequences": sequences}


def inputs_for(model: Any, rng: Any) -> Any:
    def draw(tensor: Any) -> np.ndarray:
        if tensor.dtype == "int32":
            return rng.integers(0, 11, (4, *tensor.shape[1:])).astype(np.int32)
        return rng.normal(size=(4, *tensor.shape[1:])).astype(np.float32)

    return jax.tree.map(draw, model.input)


def outputs(model: Any) -> Callable[[Any], list[Any]]:
    """A function of inputs to what the model makes of them with the weights it then has; compiled once."""
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    run = jax.jit(lambda *given: model.stateless_call(*given)[0], compiler_options=options)

    def arrays(variables: Any) -> list[Any]:
        return [v.value for v in variables]

    if isinstance(model, real.Model):
        return lambda x: jax.tree.leaves(
            run(arrays(model.trainable_variables), arrays(model.non_trainable_variables), x)
        )
    return lambda x: jax.tree.leaves(run(*model._training.parts().collect(), x))


@pytest.mark.parametrize("name", WHOLE)
def test_K_weights_of_whole_models_move_between_keras_and_here(name: str) -> None:
    rng = np.random.default_rng(0)
    theirs, ours = WHOLE[name](real), WHOLE[name](keras)
    assert [v.shape for v in ours.weights] == [v.shape for v in theirs.weights]
    assert [v.shape for v in ours.trainable_weights] == [v.shape for v in theirs.trainable_weights]
    # Keras leaves the outer model out of the path of a sub-model made before it.
    assert [p.split("/")[-2:] for p in paths(ours)] == [p.split("/")[-2:] for p in paths(theirs)]
    x, run, run_theirs = inputs_for(ours, rng), outputs(ours), outputs(theirs)
    theirs.set_weights([rng.uniform(0.2, 1, v.shape).astype(np.float32) for v in theirs.weights])
    ours.set_weights([np.asarray(v.value) for v in theirs.weights])
    for mine, other in zip(run(x), run_theirs(x), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-5)
    ours.set_weights([rng.uniform(0.2, 1, v.shape).astype(np.float32) for v in ours.weights])
    theirs.set_weights(ours.get_weights())
    for mine, other in zip(run(x), run_theirs(x), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-5)


def test_K_a_step_of_a_moved_model_is_keras_s() -> None:
    """Gradients through the whole graph, and the statistics on the way; frozen weights stay."""
    rng = np.random.default_rng(0)
    theirs, ours = branches(real), branches(keras)
    x = inputs_for(ours, rng)
    y = {"out": rng.normal(size=(4, 1)).astype(np.float32), "aux": rng.normal(size=(4, 2)).astype(np.float32)}
    ours.set_weights([np.asarray(v.value) for v in theirs.weights])
    values = []
    for k, model in ((real, theirs), (keras, ours)):
        model.get_layer("first").trainable = False
        model.compile(k.optimizers.SGD(0.1), {"out": "mse", "aux": "mae"})
        model.train_on_batch(x, y)
        values.append([np.asarray(v.value) for v in model.weights])
    for mine, other in zip(values[1], values[0], strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-5)

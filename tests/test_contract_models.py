"""Section K (models) of the training contract and its names: each rule is a test that bears its number."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import keras as real
import numpy as np
import pytest
from data import diabetes, digits
from flax import nnx

import epochal as keras
from epochal import layers
from epochal.layers.base.tree import tracked

X, Y = digits(64)


def paths(model: Any) -> list[str]:
    """Weights' paths, of a model of ours or of Keras's."""
    return [v.path for v in model.weights] if isinstance(model, real.Model) else [t.path for t in tracked(model)]


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


def branches(k: Any) -> Any:
    """The short branch is made first and the long one is listed first; statistics in between."""
    a, b = k.Input((6,), name="a"), k.Input((4,), name="b")
    short = k.layers.Dense(3, name="short")(b)
    long = k.layers.BatchNormalization(name="norm")(k.layers.Dense(5, name="first")(a))
    long = k.layers.PReLU(name="prelu")(k.layers.Dense(3, name="second")(long))
    out = k.layers.Dense(1, name="out")(k.layers.Add(name="add")([short, long]))
    return k.Model([b, a], {"out": out, "aux": k.layers.Dense(2, name="aux")(short)})


def shared_and_nested(k: Any) -> Any:
    image = k.Input((6, 6, 1), name="image")
    h = k.layers.BatchNormalization(name="norm")(k.layers.Conv2D(3, 3, padding="same", name="conv")(image))
    h = k.layers.Add(name="skip")([h, k.layers.SeparableConv2D(3, 3, padding="same", name="separable")(h)])
    encoder = k.Model(image, k.layers.GlobalAveragePooling2D(name="pool")(h), name="encoder")
    head = k.Sequential([k.Input((3,)), k.layers.Dense(4, "tanh", name="h"), k.layers.LayerNormalization(name="n")])
    one, two = k.Input((6, 6, 1), name="one"), k.Input((6, 6, 1), name="two")
    gap = k.layers.Subtract(name="gap")([head(encoder(one)), head(encoder(two))])
    encoder.trainable = False
    return k.Model([one, two], k.layers.Dense(2, name="out")(gap))


def sequences(k: Any) -> Any:
    tokens, values = k.Input((6,), dtype="int32", name="tokens"), k.Input((6, 3), name="values")
    h = k.layers.Embedding(11, 4, mask_zero=True, name="embedding")(tokens)
    h = k.layers.Bidirectional(k.layers.LSTM(3, return_sequences=True, name="lstm"), name="both_ways")(h)
    steps = k.layers.TimeDistributed(k.layers.Dense(6, name="step"), name="steps")(values)
    seen = k.layers.MultiHeadAttention(2, 3, name="attention")(h, steps)
    h = k.layers.LayerNormalization(name="norm")(k.layers.Add(name="add")([seen, h]))
    frozen = k.layers.Dense(5, trainable=False, name="frozen")
    return k.Model({"tokens": tokens, "values": values}, k.layers.GRU(4, name="gru")(frozen(h)))


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


# -- subclasses


class Scale(layers.Layer):
    """A weight made in `build`, one made in `__init__`, and a count that only training moves."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.offset = self.add_weight(name="offset", shape=(), initializer="zeros")
        self.calls = keras.Variable(0.0, trainable=False, name="calls")

    def build(self, input_shape: Any) -> None:
        self.factor = self.add_weight(name="factor", shape=(input_shape[-1],), initializer="ones")
        self.factor.assign(2 * np.ones(input_shape[-1]))
        super().build(input_shape)

    def call(self, x: Any, training: bool = False) -> Any:
        if training:
            self.calls.assign_add(1.0)
        self.add_loss(0.25 * keras.ops.sum(keras.ops.square(self.factor)))
        return x * self.factor + self.offset


class Net(keras.Model):
    """Layers in a list, a dict, a tuple and a sub-model; two that only training reaches."""

    def __init__(self, units: int = 4, **kwargs: Any):
        super().__init__(**kwargs)
        self.units = units
        self.stack = [layers.Dense(units, "tanh") for _ in range(2)]
        self.norms = {"a": layers.LayerNormalization(), "b": (Scale(),)}
        self.head = keras.Sequential([layers.Dense(1, kernel_regularizer=keras.regularizers.L2(0.5))])
        self.noise = layers.GaussianNoise(0.0)
        self.late = layers.Dense(units, kernel_initializer="zeros")

    def call(self, x: Any, training: bool = False) -> Any:
        for layer in self.stack:
            x = layer(x)
        x = self.norms["b"][0](self.norms["a"](x))
        if training:
            x = self.noise(x) + self.late(x)
        return self.head(x)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}


def test_K_subclasses_hold_layers_in_lists_dicts_and_models_with_build_add_weight_and_add_loss() -> None:
    x, y = diabetes(24)
    model = Net()
    model.compile(keras.optimizers.SGD(0.0), "mse", metrics=["mse"])
    history = model.fit(x, y, batch_size=8, epochs=2, verbose=0).history
    scale = model.norms["b"][0]
    added = 0.25 * (scale.factor.numpy() ** 2).sum() + 0.5 * (model.head.layers[0].kernel.numpy() ** 2).sum()
    np.testing.assert_allclose(scale.factor.numpy(), 2)  # what `build` assigned
    np.testing.assert_allclose(history["loss"], history["mse"][0] + added, rtol=1e-5)
    assert float(scale.calls.value) == 6  # training steps
    assert len(model.trainable_weights) == 2 * 2 + 2 + 2 + 2 + 2
    assert len(model.non_trainable_weights) == 1
    assert [type(layer).__name__ for layer in model.layers] == [
        *["Dense", "Dense", "LayerNormalization", "Scale", "Sequential", "GaussianNoise", "Dense"]
    ]
    model(x)
    np.testing.assert_allclose(float(sum(model.losses)), added, rtol=1e-5)


class Doubled(keras.Model):
    """Takes a graph, as the guides to one's own training step do it."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return 2 * super().compute_loss(x, y, y_pred, sample_weight, training)


class Made(Doubled):
    """Makes its graph itself."""

    def __init__(self, units: int, **kwargs: Any):
        i = keras.Input((10,))
        super().__init__(inputs=i, outputs=layers.Dense(units)(i), **kwargs)


def test_K_a_subclass_may_be_a_graph(tmp_path: Path) -> None:
    (x, y), i = diabetes(24), keras.Input((10,))
    o = layers.Dense(1)(i)
    model, plain = Doubled(i, o), keras.Model(i, o)
    for each in (model, plain):
        each.compile("sgd", "mse")
    loss = plain.evaluate(x, y, verbose=0)
    assert model.evaluate(x, y, verbose=0) == pytest.approx(2 * loss, rel=1e-6)
    assert (isinstance(model, Doubled), type(model).__name__, model.input_shape) == (True, "Doubled", (None, 10))
    model.save(tmp_path / "m")
    loaded = keras.models.load_model(tmp_path / "m", custom_objects={"Doubled": Doubled})
    assert loaded.evaluate(x, y, verbose=0) == pytest.approx(2 * loss, rel=1e-6)
    assert (Made(3, name="made").output_shape, Made(2).count_params(), Made(2, name="n").name) == ((None, 3), 22, "n")


def test_K_a_subclass_is_saved_by_name_and_read_with_its_class(tmp_path: Path) -> None:
    model = Net(3)
    before = model.predict(X, verbose=0)
    model.save(tmp_path / "net.keras")
    with pytest.raises(ValueError, match="custom_objects"):
        keras.models.load_model(tmp_path / "net.keras")
    loaded = keras.models.load_model(tmp_path / "net.keras", custom_objects={"Net": Net})
    assert loaded.units == 3
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), before)


def test_K_training_given_to_a_model_holds_for_the_layers_in_it() -> None:
    """Frozen statistics in a graph that trains, as transfer learning does it; and dropout at will."""
    i = keras.Input((64,))
    base = keras.Model(i, layers.BatchNormalization()(i))
    model = keras.Model(i, layers.Dense(1)(base(i, training=False)))
    model.compile("sgd", "mse")
    model.fit(X, Y, verbose=0)
    np.testing.assert_array_equal(base.get_weights()[2], np.zeros(64))
    dropped = keras.Sequential([layers.Dropout(0.5)])
    assert 0.3 < (np.asarray(dropped(np.ones((20, 30)), training=True)) == 0).mean() < 0.7
    np.testing.assert_array_equal(dropped(np.ones((20, 30))), 1)


def test_K_dropout_that_is_always_on_is_on_in_predict_too() -> None:
    i = keras.Input((30,))
    model = keras.Model(i, layers.Dropout(0.5)(i, training=True))
    x = np.ones((20, 30), np.float32)
    assert 0.3 < (model.predict(x, verbose=0) == 0).mean() < 0.7
    assert (np.asarray(model(x)) != np.asarray(model(x))).any()


def test_K_add_loss_takes_scalars_only() -> None:
    class Bad(layers.Layer):
        def call(self, x: Any) -> Any:
            self.add_loss(x)
            return x

    with pytest.raises(ValueError, match=r"scalar in add_loss\(\) of 'bad', got shape \(2, 3\)"):
        Bad(name="bad")(np.ones((2, 3)))


# -- Flax modules


class Tied(nnx.Module):
    """Two layers in a list, statistics, dropout, and an output that takes the embedding's weights."""

    def __init__(self, rngs: nnx.Rngs):
        self.embedding = nnx.Embed(17, 8, rngs=rngs)
        self.blocks = nnx.List([nnx.Linear(8, 8, rngs=rngs) for _ in range(2)])
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.out = nnx.Linear(8, 17, rngs=rngs)
        self.out.kernel = self.embedding.embedding

    def __call__(self, x: Any) -> Any:
        h = self.embedding(x.astype(jnp.int32)).mean(1)
        for block in self.blocks:
            h = jax.nn.relu(block(h))
        h = self.drop(self.norm(h))
        return h @ self.out.kernel.T + self.out.bias


def test_K_any_flax_module_trains_with_lists_statistics_dropout_and_tied_weights() -> None:
    x, y = np.round(X * 16).astype(np.int32), Y
    net = Tied(nnx.Rngs(0))
    model = keras.Model(net)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.02), loss)
    statistics = np.asarray(net.norm.mean[...])
    history = model.fit(x, y, epochs=8, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert net.out.kernel is net.embedding.embedding
    assert model.count_params() == 17 * 8 + 2 * 72 + 17 + 4 * 8  # the tied array once
    assert not np.allclose(statistics, net.norm.mean[...])
    first = model.predict(x, verbose=0)
    np.testing.assert_array_equal(model.predict(x, verbose=0), first)  # no dropout
    net.eval()
    np.testing.assert_allclose(net(jnp.asarray(x)), first, rtol=1e-4, atol=1e-5)
    other = keras.Model(Tied(nnx.Rngs(1)))
    other.set_weights(model.get_weights())
    np.testing.assert_allclose(other.predict(x, verbose=0), first, rtol=1e-5, atol=1e-6)


# -- as data


@keras.saving.register_keras_serializable()
def registered_loss(y: Any, p: Any) -> Any:
    return keras.ops.mean(keras.ops.square(y - p), -1)


def own_loss(y: Any, p: Any) -> Any:
    return keras.ops.mean(keras.ops.abs(y - p), -1)


@pytest.mark.parametrize("form", ["folder", "m.keras"])
def test_K_loading_never_runs_code_of_a_file(tmp_path: Path, form: str) -> None:
    """A function of a user's is written by its name alone; who reads it brings it, or has registered it."""
    model = keras.Sequential([layers.Dense(1, input_shape=(10,))])
    model.compile("sgd", own_loss)
    model.save(tmp_path / form)
    with pytest.raises(ValueError, match="Unknown function 'custom/own_loss'"):
        keras.models.load_model(tmp_path / form)
    assert keras.models.load_model(tmp_path / form, compile=False).compiled is False
    x, y = diabetes(32)
    loaded = keras.models.load_model(tmp_path / form, custom_objects={"own_loss": own_loss})
    assert loaded.evaluate(x, y, verbose=0) == pytest.approx(np.abs(y - model(x)[:, 0]).mean(), rel=1e-5)
    model.compile("sgd", registered_loss)
    model.save(tmp_path / form)
    assert keras.models.load_model(tmp_path / form).compiled


def test_K_a_description_that_names_other_code_is_refused() -> None:
    for name in ("os/system", "custom/eval", "builtins/exec"):
        text = json.dumps({"format": 1, "model": {"class": name, "config": {"x": "1"}}, "inputs": None})
        with pytest.raises(ValueError, match="Unknown class"):
            keras.models.model_from_json(text)


def test_K_to_json_and_back() -> None:
    for model in (branches(keras), sequences(keras), keras.Sequential([layers.Dense(2), layers.Dropout(0.5)])):
        again = keras.models.model_from_json(model.to_json(indent=1))
        assert [layer.name for layer in again.layers] == [layer.name for layer in model.layers]
        assert paths(again) == paths(model)
        assert (again.input_shape if again.built else None) == (model.input_shape if model.built else None)
    with pytest.raises(ValueError, match="describes no epochal model"):
        keras.models.model_from_json("{}")


def test_K_clones_have_weights_of_their_own() -> None:
    model = shared_and_nested(keras)
    copy = keras.models.clone_model(model)
    assert paths(copy) == paths(model)
    assert len(copy.trainable_weights) == len(model.trainable_weights) < len(model.weights)
    assert not {id(v) for v in copy.weights} & {id(v) for v in model.weights}
    assert not np.allclose(copy.get_weights()[0], model.get_weights()[0])

    def wider(layer: Any) -> Any:
        return layers.Dense(7, name="out") if layer.name == "out" else layer

    assert keras.models.clone_model(model, wider).output_shape == (None, 7)
    with pytest.raises(TypeError, match="clone_function"):
        keras.models.clone_model(Net(), lambda layer: layer)


def test_K_a_compute_loss_of_keras_s_guide_adds_the_models_losses() -> None:
    class Guide(Net):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            loss = keras.ops.mean(keras.ops.square(y[:, None] - y_pred))
            return loss + sum(self.losses)

    x, y = diabetes(24)
    keras.utils.set_random_seed(0)
    model = Guide()
    model.compile(keras.optimizers.SGD(0.0))
    keras.utils.set_random_seed(0)
    plain = Net()
    plain.compile(keras.optimizers.SGD(0.0), "mse")
    plain.build((None, 10))
    model.build((None, 10))
    plain.set_weights(model.get_weights())
    assert model.evaluate(x, y, verbose=0) == pytest.approx(plain.evaluate(x, y, verbose=0), rel=1e-5)


# -- variables


def test_a_variable_is_a_value_or_an_initializer_with_a_shape() -> None:
    drawn = keras.Variable("ones", shape=(2,), name="w")
    assert (drawn.shape, drawn.dtype, drawn.name) == ((2,), np.float32, "w")
    drawn.value = np.array([1.0, 5.0])
    np.testing.assert_array_equal(keras.Variable(keras.initializers.Constant(3.0), (2,)).numpy() + drawn, [4, 8])
    assert keras.Variable(np.arange(3)).dtype.kind == "i"
    with pytest.raises(ValueError, match="shape for a Variable"):
        keras.Variable("zeros")
    with pytest.raises(ValueError, match=r"\(2,\)"):
        drawn.assign(np.ones(3))

"""Section K (models) of the training contract: subclasses, Flax modules, and models as data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support.data import diabetes, digits
from support.graphs import branches, paths, sequences, shared_and_nested

import epochal as keras
from epochal import layers

X, Y = digits(64)


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

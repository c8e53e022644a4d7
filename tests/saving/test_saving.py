"""Models on disk: whole, readable by others, and safe to read."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.data import digits
from support.same import same

import epochal as keras

layers = keras.layers
X, Y = digits(64)
IMAGES = X.reshape(-1, 8, 8, 1)


def trained() -> keras.Sequential:
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3, activation="relu", kernel_regularizer=keras.regularizers.L2(0.01)),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dropout(0.2),
            layers.Dense(10, activation="softmax", kernel_initializer=keras.initializers.HeNormal()),
        ]
    )
    rate = keras.optimizers.schedules.ExponentialDecay(0.01, 10, 0.9)
    model.compile(
        keras.optimizers.Adam(rate), "ce", metrics=["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(3)]
    )
    model.fit(IMAGES, Y, epochs=2, verbose=0)
    return model


@pytest.mark.parametrize("name", ["model", "model.keras", "model.zip"])
def test_K_a_loaded_model_predicts_scores_and_trains_on_like_the_saved_one(tmp_path: Path, name: str) -> None:
    model = trained()
    model.save(tmp_path / name)
    loaded = keras.models.load_model(tmp_path / name)
    np.testing.assert_array_equal(loaded.predict(IMAGES, verbose=0), model.predict(IMAGES, verbose=0))
    assert loaded.evaluate(IMAGES, Y, verbose=0) == model.evaluate(IMAGES, Y, verbose=0)
    assert loaded.optimizer.iterations == model.optimizer.iterations == 4
    for m in (model, loaded):
        keras.utils.set_random_seed(7)
        m.fit(IMAGES, Y, epochs=2, verbose=0)
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_K_weights_are_a_plain_safetensors_file(tmp_path: Path) -> None:
    model = trained()
    model.save_weights(tmp_path / "w.safetensors")
    arrays = safetensors.numpy.load_file(tmp_path / "w.safetensors")
    for (_, array), weight in zip(sorted(arrays.items()), model.get_weights(), strict=True):
        np.testing.assert_array_equal(array, weight)
    other = trained()
    other.load_weights(tmp_path / "w.safetensors")
    np.testing.assert_array_equal(other.predict(IMAGES, verbose=0), model.predict(IMAGES, verbose=0))


def test_K_weights_of_another_model_change_nothing(tmp_path: Path) -> None:
    small = keras.Sequential([layers.Dense(3, input_shape=(2,))])
    small.save_weights(tmp_path / "w.safetensors")
    other = keras.Sequential([layers.Dense(4, input_shape=(2,))])
    before = other.get_weights()
    with pytest.raises(ValueError, match=r"Expected shape \(2, 4\)"):
        other.load_weights(tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="Expected 8 weights"):
        trained().load_weights(tmp_path / "w.safetensors")
    assert same(other.get_weights(), before)


def test_nothing_is_replaced_that_should_not_be(tmp_path: Path) -> None:
    model = keras.Sequential([layers.Dense(3, input_shape=(2,))])
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"x")
    with pytest.raises(FileExistsError, match="holds no model"):
        model.save(tmp_path / "photos")
    model.save(tmp_path / "m")
    model.save(tmp_path / "m")
    with pytest.raises(FileExistsError, match="overwrite"):
        model.save(tmp_path / "m", overwrite=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m", "photos"]


def test_a_model_that_cannot_be_written_as_data_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    model = keras.Sequential([layers.Dense(3, activation=lambda x: x * 2, input_shape=(2,))])
    with pytest.raises(TypeError, match="nor a function with a name"):
        model.save(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="not built"):
        keras.Sequential([layers.Dense(3)]).save(tmp_path / "m")


def test_K_a_users_layer_is_loaded_by_name_only_when_it_is_given(tmp_path: Path) -> None:
    class Twice(layers.Layer):
        def call(self, x: Any) -> Any:
            return 2 * x

    model = keras.Sequential([layers.Dense(3, input_shape=(64,)), Twice(name="t")])
    model.save(tmp_path / "m")
    with pytest.raises(ValueError, match="custom_objects"):
        keras.models.load_model(tmp_path / "m")
    loaded = keras.models.load_model(tmp_path / "m", custom_objects={"Twice": Twice})
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), model.predict(X, verbose=0))


def test_what_is_said_of_files_that_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No model"):
        keras.models.load_model(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        keras.models.load_model(tmp_path / "empty")
    (tmp_path / "text.keras").write_text("hello")
    with pytest.raises(ValueError, match="not a model"):
        keras.models.load_model(tmp_path / "text.keras")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("config.json", "{}")
    with pytest.raises(ValueError, match="no epochal model"):
        keras.models.load_model(tmp_path / "other.zip")


def test_a_newer_format_and_truncated_weights_are_said(tmp_path: Path) -> None:
    model = keras.Sequential([layers.Dense(3, input_shape=(2,))])
    model.save(tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps({**config, "format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        keras.models.load_model(tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    weights = tmp_path / "m" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-3])
    with pytest.raises(ValueError, match="safetensors"):
        keras.models.load_model(tmp_path / "m")


SCALARS = st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=8)
NAMES = st.sampled_from(["layers/Dense", "os/system", "builtins/eval", "sequential/Sequential"])
KEYS = st.sampled_from(["class", "config", "function", "layers", "units", "array", "dtype", "pairs"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.recursive(
        SCALARS | NAMES,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
        max_leaves=8,
    )
)
def test_K_a_damaged_description_gives_a_clean_error(tmp_path: Path, part: Any) -> None:
    folder = tmp_path / "m"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"format": 1, "model": part, "inputs": part}))
    with pytest.raises((ValueError, FileNotFoundError)):
        keras.models.load_model(folder)


def test_a_file_of_keras_is_called_so(tmp_path: Path) -> None:
    import keras as real

    real.Sequential([real.Input((2,)), real.layers.Dense(1)]).save(tmp_path / "theirs.keras")
    with pytest.raises(ValueError, match="saved by Keras"):
        keras.models.load_model(tmp_path / "theirs.keras")

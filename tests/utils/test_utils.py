"""`epochal.utils` against Keras's, and what is better."""

from __future__ import annotations

import inspect
import random as python_random
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import keras as real
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.data import diabetes

import epochal as keras
from epochal import backend, saving, utils
from epochal.registry.serialize import deserialize, serialize

# -- names


def test_the_names_are_keras_s_and_arguments_too() -> None:
    ours_alone = {"DatasetCreator", "InputContext"}  # Keras 2's
    assert set(utils.__all__) - ours_alone <= set(dir(real.utils))
    left_out = {"split_dataset": {"preferred_backend"}, "timeseries_dataset_from_array": {"format"}}
    for name in ("pad_sequences", "split_dataset", "timeseries_dataset_from_array", "normalize", "clear_session"):
        theirs = inspect.signature(getattr(real.utils, name)).parameters.values()
        expected = [(p.name, p.default) for p in theirs if p.name not in left_out.get(name, ())]
        found = inspect.signature(getattr(utils, name)).parameters.values()
        assert [(p.name, p.default) for p in found] == expected


def test_backend_says_what_keras_says_on_jax() -> None:
    for name in ("backend", "floatx", "epsilon", "image_data_format"):
        assert getattr(backend, name)() == getattr(real.backend, name)()


def test_clear_session_starts_the_names_again() -> None:
    backend.clear_session(free_memory=False)
    first = [keras.layers.Dense(1).name for _ in range(2)]
    keras.utils.clear_session()
    assert [keras.layers.Dense(1).name for _ in range(2)] == first == ["dense", "dense_1"]


# -- pad_sequences

LISTS = st.lists(st.lists(st.integers(-9, 9), max_size=5), min_size=1, max_size=4)
SIDE = st.sampled_from(["pre", "post"])


@given(LISTS, st.none() | st.integers(1, 6), SIDE, SIDE, st.integers(-3, 3))
def test_pad_sequences_is_keras_s(lists: list, maxlen: int | None, padding: str, truncating: str, value: int) -> None:
    arguments = {"maxlen": maxlen, "padding": padding, "truncating": truncating, "value": value}
    found, expected = utils.pad_sequences(lists, **arguments), real.utils.pad_sequences(lists, **arguments)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_pad_sequences_of_arrays_and_of_words() -> None:
    arrays = [np.ones((2, 3)), np.zeros((4, 3)), np.zeros((0, 3))]
    found = utils.pad_sequences(arrays, dtype="float32", value=-1.0)
    np.testing.assert_array_equal(found, real.utils.pad_sequences(arrays, dtype="float32", value=-1.0))
    words = [["a"], ["b", "cde"]]
    found = utils.pad_sequences(words, dtype=object, value="")
    np.testing.assert_array_equal(found, real.utils.pad_sequences(words, dtype=object, value=""))
    assert utils.pad_sequences([[1, 2], []], maxlen=0).shape == (2, 0)  # Keras fails
    assert utils.pad_sequences([]).shape == (0, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[1]], 2, "int32", "front"), "padding 'pre' or 'post', got 'front'"),
        (([[1]], 2, "int32", "pre", "back"), "truncating 'pre' or 'post', got 'back'"),
        (([[1], 2],), "no length"),
        (([[1]], 2, "int32", "pre", "pre", "x"), "dtype=object"),
        (([np.ones((2, 3)), np.ones((1, 4))],), r"items of shape \(3,\) in sequence 1, got \(4,\)"),
    ],
)
def test_pad_sequences_refuses(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        utils.pad_sequences(*arguments)


# -- timeseries_dataset_from_array

SERIES = np.arange(40, dtype=np.float32).reshape(20, 2)
ARGUMENTS: list[dict[str, Any]] = [
    {"sequence_length": 3},
    {"sequence_length": 3, "batch_size": 4},
    {"sequence_length": 4, "sequence_stride": 3, "sampling_rate": 2, "batch_size": 2},
    {"sequence_length": 2, "start_index": 3, "end_index": 12, "batch_size": 3},
    {"sequence_length": 3, "batch_size": None},
]


@pytest.mark.parametrize("arguments", ARGUMENTS)
@pytest.mark.parametrize("targets", [None, SERIES[5:, 0]])
def test_windows_are_keras_s(arguments: dict[str, Any], targets: np.ndarray | None) -> None:
    found = utils.timeseries_dataset_from_array(SERIES, targets, **arguments)
    expected = list(real.utils.timeseries_dataset_from_array(SERIES, targets, **arguments, format="grain"))
    assert len(found) == len(expected)
    for _ in range(2):  # again and again
        for mine, other in zip(found, expected, strict=True):
            jax.tree.map(np.testing.assert_array_equal, mine, tuple(other) if targets is not None else other)


def test_shuffled_windows_are_all_there_in_an_order_by_seed_and_pass() -> None:
    def passes(seed: int | None) -> list[list[float]]:
        windows = utils.timeseries_dataset_from_array(SERIES, SERIES[:, 0], 3, batch_size=5, shuffle=True, seed=seed)
        found = []
        for _ in range(2):
            x, y = (np.concatenate(parts) for parts in zip(*windows, strict=True))
            np.testing.assert_array_equal(x[:, 0, 0], y)  # each window kept its target
            found.append(y.tolist())
        return found

    first, second = passes(1)
    assert sorted(first) == sorted(second) == SERIES[:18, 0].tolist()
    assert first != second
    assert passes(1) == [first, second]
    assert passes(2) != [first, second]
    assert passes(None) != passes(None)


def test_fit_takes_windows() -> None:
    series = np.sin(np.arange(200) / 5).astype(np.float32)
    windows = utils.timeseries_dataset_from_array(series[:-8], series[8:], 8, batch_size=32, shuffle=True, seed=0)
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.05), "mse")
    losses = model.fit(windows, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0] / 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sequence_length": 0}, "sequence_length of 1 or more, got 0"),
        ({"sequence_length": 2, "sampling_rate": 0}, "sampling_rate of 1"),
        ({"sequence_length": 2, "sequence_stride": -1}, "sequence_stride of 1"),
        ({"sequence_length": 2, "batch_size": 0}, "batch_size of 1"),
        ({"sequence_length": 2, "start_index": 20}, "end_index <= 20"),
        ({"sequence_length": 2, "start_index": 5, "end_index": 4}, "got 5 and 4"),
        ({"sequence_length": 21}, "21 rows and a target, got 20 rows and 20 targets"),  # Keras: an empty dataset
    ],
)
def test_windows_refuse(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        utils.timeseries_dataset_from_array(SERIES, SERIES, **arguments)


# -- split_dataset

X, Y = np.arange(20.0).reshape(10, 2), np.arange(10)


class Batches:
    """A dataset of batches that can be gone through again."""

    def __iter__(self) -> Any:
        for rows in (slice(0, 4), slice(4, 8), slice(8, 10)):
            yield X[rows], Y[rows]


class Numbered:
    """Samples by number, like a torch Dataset."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, i: int) -> Any:
        return X[i], Y[i]


class ByNumber(utils.PyDataset):
    def __len__(self) -> int:
        return 3

    def __getitem__(self, i: int) -> Any:
        return list(Batches())[i]


@pytest.mark.parametrize("dataset", [(X, Y), [X, Y], list(zip(X, Y, strict=True)), Numbered()])
@pytest.mark.parametrize(
    ("sizes", "expected"),
    [((0.8,), (8, 2)), ((3,), (3, 7)), ((None, 0.25), (8, 2)), ((2, 3), (2, 3)), ((0.5, 0.5), (5, 5))],
)
def test_split_dataset_into_first_and_last_samples(dataset: Any, sizes: tuple, expected: tuple) -> None:
    left, right = utils.split_dataset(dataset, *sizes)
    assert (len(left), len(right)) == expected
    for part, rows in ((left, range(expected[0])), (right, range(10 - expected[1], 10))):
        for _ in range(2):
            samples = list(part)
            np.testing.assert_array_equal([x for x, _ in samples], X[rows])
            np.testing.assert_array_equal([y for _, y in samples], Y[rows])


@pytest.mark.parametrize("dataset", [Batches(), ByNumber()])
def test_split_dataset_takes_batches_apart_and_puts_them_together(dataset: Any) -> None:
    left, right = utils.split_dataset(dataset, left_size=5)
    assert [y.tolist() for _, y in left] == [[0, 1, 2, 3], [4]]
    assert [x.shape for x, _ in right] == [(4, 2), (1, 2)]
    assert (len(left), len(right)) == (2, 2)


def test_split_dataset_of_other_forms() -> None:
    left, right = utils.split_dataset(X, 0.7)
    np.testing.assert_array_equal(list(right), X[7:])
    assert [float(sample) for sample in utils.split_dataset(jnp.arange(4.0), 3)[0]] == [0, 1, 2]
    left, _ = utils.split_dataset({"a": X, "b": Y}, 4)
    assert [sample["b"] for sample in left] == [0, 1, 2, 3]
    batch = next(iter(left.batch(3)))
    np.testing.assert_array_equal(batch["a"], X[:3])
    assert len(left.batch(3)) == 2


def test_split_dataset_shuffles_as_keras_does() -> None:
    order = list(range(10))
    python_random.Random(3).shuffle(order)  # what Keras does, on the global generator: its result needs TensorFlow
    left, right = utils.split_dataset((X, Y), 0.6, shuffle=True, seed=3)
    assert [int(y) for part in (left, right) for _, y in part] == order
    keras.utils.set_random_seed(1)
    first = [int(y) for _, y in utils.split_dataset((X, Y), 0.6, shuffle=True)[0]]
    assert first != [int(y) for _, y in utils.split_dataset((X, Y), 0.6, shuffle=True)[0]]


@pytest.mark.parametrize(
    ("error", "arguments", "message"),
    [
        (ValueError, ((X, Y),), "left_size or right_size"),
        (ValueError, ((X, Y), 10), "between 0 and 10"),
        (ValueError, ((X, Y), 1.0), "between 0 and 1, both excluded"),
        (ValueError, ((X, Y), 6, 5), "6 and 5 samples"),
        (ValueError, ((X, Y), 0.04), "0 and 10 samples"),
        (ValueError, ((X, Y[:5]), 2), r"\(10, 2\), \(5,\)"),
        (ValueError, (Batches(), 0.9, 0.2), "9 and 2 samples"),
        (TypeError, (3, 2), "got a int"),
        (TypeError, ((X, Y), True), "got True"),
    ],
)
def test_split_dataset_refuses(error: type, arguments: tuple, message: str) -> None:
    with pytest.raises(error, match=message):
        utils.split_dataset(*arguments)


def test_fit_takes_both_parts() -> None:
    left, right = utils.split_dataset(diabetes(100), 0.8, shuffle=True, seed=0)
    model = keras.Sequential([keras.Input((10,)), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    history = model.fit(left.batch(16), validation_data=right.batch(16), epochs=2, verbose=0).history
    assert list(history) == ["loss", "val_loss"]


# -- normalize


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("axis", [-1, 1])
def test_normalize_is_keras_s(axis: int, order: int) -> None:
    x = np.vstack([X, np.zeros((1, 2))])
    np.testing.assert_allclose(utils.normalize(x, axis, order), real.utils.normalize(x, axis, order), rtol=1e-7)
    found = utils.normalize(jnp.asarray(x), axis, order)
    assert isinstance(found, jax.Array)
    np.testing.assert_allclose(found, real.utils.normalize(real.ops.array(x), axis, order), rtol=1e-6)


def test_normalize_of_columns_and_of_all() -> None:
    np.testing.assert_allclose(np.linalg.norm(utils.normalize(X, axis=0), axis=0), 1)
    np.testing.assert_allclose(np.linalg.norm(utils.normalize(X[1:], axis=None)), 1)
    with pytest.raises(ValueError, match="broadcast"):
        real.utils.normalize(X, axis=0)


# -- custom objects


class Twice(keras.layers.Layer):
    def call(self, x: Any) -> Any:
        return 2 * x


def halved(x: Any) -> Any:
    return x / 2


def test_custom_objects_are_known_in_their_scope() -> None:
    data = serialize(Twice(name="t"))
    with pytest.raises(ValueError, match="Unknown class 'custom/Twice'"):
        deserialize(data)
    with utils.custom_object_scope({"Twice": Twice}):
        with saving.CustomObjectScope({"halved": halved}):
            assert isinstance(deserialize(data), Twice)  # the outer scope holds; Keras's inner one hides it
            assert deserialize(serialize(halved)) is halved
        with pytest.raises(ValueError, match="Unknown function 'custom/halved'"):
            deserialize(serialize(halved))
    with pytest.raises(ValueError, match="Unknown class 'custom/Twice'"):
        deserialize(data)


def test_custom_objects_may_be_known_for_good(tmp_path: Path) -> None:
    known = saving.get_custom_objects()
    assert known is utils.get_custom_objects()
    known |= {"Twice": Twice, "halved": halved}
    try:
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, activation=halved), Twice()])
        model.save(tmp_path / "model")
        x = np.ones((2, 3), np.float32)
        again = keras.models.load_model(tmp_path / "model")
        np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))
    finally:
        known.clear()


def test_registered_classes_need_no_scope() -> None:
    @utils.register_keras_serializable(package="tests")
    class Thrice(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return 3 * x

    assert isinstance(deserialize(serialize(Thrice())), Thrice)

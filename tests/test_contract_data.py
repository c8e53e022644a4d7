"""Sections D (weights) and E (data) of the training contract: each rule is a test that bears its number."""

from __future__ import annotations

import collections
import functools
import itertools
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import grain
import h5py
import jax
import jax.numpy as jnp
import keras as theirs
import numpy as np
import pandas
import polars
import pytest
import zarr
from data import breast_cancer, diabetes
from feeds import FORMS, Listed, M, N, Plain, batches, errors, forever, line, still

import epochal as keras
from epochal import layers

# -- D. weights


def weights(n: int = N) -> np.ndarray:
    return np.random.default_rng(0).uniform(0.1, 3, n).astype(np.float32)


@pytest.mark.parametrize("form", ["arrays", *FORMS])
def test_D1_a_weighted_loss_is_divided_by_the_batch_size_and_an_epoch_by_the_examples(form: str) -> None:
    (x, y), w = diabetes(N), weights()
    model = still()
    if form == "arrays":
        history = model.fit(x, y, batch_size=M, sample_weight=w, verbose=0).history
    else:
        history = model.fit(FORMS[form](batches(x, y, w)), verbose=0).history
    assert history["loss"][0] == pytest.approx((w * errors(model, x, y)).sum() / N, rel=1e-6)
    assert history["loss"][0] != pytest.approx((w * errors(model, x, y)).sum() / w.sum(), rel=1e-2)


def test_D1_the_gradient_of_a_weighted_batch_is_divided_by_its_size() -> None:
    (x, y), w = diabetes(N), weights()
    model = line(optimizer=keras.optimizers.SGD(1.0))
    before = model.get_weights()[0]
    residuals = (x @ before)[:, 0] - y
    model.fit(x, y, batch_size="full", sample_weight=w, verbose=0)
    expected = before[:, 0] - 2 * (w * residuals) @ x / N
    np.testing.assert_allclose(model.get_weights()[0][:, 0], expected, rtol=1e-4, atol=1e-5)


@functools.cache
def temporal(k: Any) -> Any:
    model = k.Sequential([k.layers.Input((3, 2)), k.layers.Dense(1)])
    model.set_weights([np.array([[1.0], [-2.0]], np.float32), np.zeros(1, np.float32)])
    model.compile(k.optimizers.SGD(0.0), "mse", weighted_metrics=["mae"])
    return model  # which training does not change


TEMPORAL = [(6,), (6, 1), (6, 3), (6, 3, 1)]


@pytest.mark.parametrize("shape", TEMPORAL)
def test_D2_weights_of_temporal_outputs_have_four_shapes(shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(1)
    x, y = random.normal(size=(6, 3, 2)).astype(np.float32), random.normal(size=(6, 3, 1)).astype(np.float32)
    w = random.uniform(0.1, 2, shape).astype(np.float32)
    difference = (x @ [[1.0], [-2.0]] - y)[..., 0]
    per_step = np.broadcast_to(w.reshape(6, -1), (6, 3)).astype(np.float64)
    loss = (per_step * difference**2).sum() / 18
    mae = (per_step * abs(difference)).sum() / per_step.sum()
    for data in ((x, y, w), (Listed(batches(x, y, w, size=4)),)):
        model = temporal(keras)
        given = dict(zip(("x", "y", "sample_weight"), data, strict=False))
        assert model.fit(**given, verbose=0).history["loss"][0] == pytest.approx(loss, rel=1e-5)
        assert model.evaluate(**given, verbose=0) == pytest.approx([loss, mae], rel=1e-5)


def test_D2_keras_does_not_take_all_of_them() -> None:
    refused = []
    for shape in TEMPORAL:
        try:
            temporal(theirs).fit(np.ones((6, 3, 2)), np.ones((6, 3, 1)), sample_weight=np.ones(shape), verbose=0)
        except ValueError:
            refused.append(shape)
    assert refused


def classes(labels: np.ndarray) -> np.ndarray:
    """The class weights used below; class 2 is missing and weighs 1."""
    return np.array([2.0, 0.25, 1.0])[labels]


CLASS_WEIGHT = {0: 2.0, 1: 0.25}
LABELS = np.random.default_rng(2).integers(0, 3, 20)
STEPS = np.random.default_rng(3).integers(0, 3, (20, 4))
TARGETS: dict[str, tuple[np.ndarray, str]] = {
    "integers": (LABELS, "sparse_categorical_crossentropy"),
    "columns": (LABELS[:, None], "sparse_categorical_crossentropy"),
    "one-hot": (np.eye(3)[LABELS], "categorical_crossentropy"),
    "floats": (LABELS.astype(np.float32), "sparse_categorical_crossentropy"),
    "sequences": (STEPS, "sparse_categorical_crossentropy"),
    "sequence columns": (STEPS[..., None], "sparse_categorical_crossentropy"),
    "sequences one-hot": (np.eye(3)[STEPS], "categorical_crossentropy"),
}


@functools.cache
def classifier(features: tuple[int, ...], loss: str) -> Any:
    model = keras.Sequential([layers.Dense(3, activation="softmax", input_shape=features)])
    model.compile(keras.optimizers.SGD(0.0), loss)
    return model


@pytest.mark.parametrize("name", TARGETS)
def test_D3_classes_are_told_from_every_form_of_y(name: str) -> None:
    y, loss = TARGETS[name]
    labels = STEPS if "sequence" in name else LABELS
    x = np.random.default_rng(4).normal(size=(*labels.shape, 2)).astype(np.float32)
    model = classifier(x.shape[1:], loss)
    found = model.fit(x, y, class_weight=CLASS_WEIGHT, batch_size=6, verbose=0).history["loss"][0]
    probability = np.take_along_axis(model.predict(x, verbose=0).astype(np.float64), labels[..., None], -1)[..., 0]
    assert found == pytest.approx(-(classes(labels) * np.log(probability)).mean(), rel=1e-5)


@functools.cache
def logistic(k: Any = keras) -> Any:
    model = k.Sequential([k.layers.Input((30,)), k.layers.Dense(1, activation="sigmoid")])
    model.set_weights([np.linspace(-0.3, 0.2, 30, dtype=np.float32)[:, None], np.zeros(1, np.float32)])
    model.compile(k.optimizers.SGD(0.0), "binary_crossentropy")
    return model


def entropies(model: Any, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    p = model.predict(x, verbose=0)[:, 0].astype(np.float64)
    return -np.where(y == 1, np.log(p), np.log(1 - p))


@pytest.mark.parametrize("form", ["arrays", *FORMS, "torch"])
def test_D3_class_weights_multiply_with_sample_weights_in_every_kind_of_data(form: str) -> None:
    (x, y), w = breast_cancer(N), weights()
    model = logistic()
    own = np.where(y == 0, 3.0, 0.5)
    for weight in (None, w):
        data = (x, y) if weight is None else (x, y, weight)
        kind = {**FORMS, "torch": Loader}.get(form)
        given = kind(batches(*data)) if kind else None
        arguments = {"x": x, "y": y, "sample_weight": weight, "batch_size": M} if given is None else {"x": given}
        history = model.fit(**arguments, class_weight={0: 3.0, 1: 0.5}, validation_data=(x, y), verbose=0).history
        both = own * (1 if weight is None else weight)
        assert history["loss"][0] == pytest.approx((both * entropies(model, x, y)).mean(), rel=1e-5)
        assert history["val_loss"][0] == pytest.approx(entropies(model, x, y).mean(), rel=1e-5)  # training only


def test_D3_keras_refuses_both_and_generators() -> None:
    x, y = breast_cancer(N)
    with pytest.raises(ValueError, match="class_weight"):
        logistic(theirs).fit(x, y, class_weight={0: 3.0}, sample_weight=weights(), verbose=0)
    with pytest.raises(ValueError, match="class_weight"):
        logistic(theirs).fit((batch for batch in batches(x, y)), class_weight={0: 3.0}, shuffle=False, verbose=0)


@functools.cache
def two_headed(k: Any = keras) -> Any:
    inputs = k.Input((10,))
    a, b = k.layers.Dense(1, activation="sigmoid", name="a")(inputs), k.layers.Dense(3, name="b")(inputs)
    model = k.Model(inputs, [a, k.layers.Activation("softmax", name="c")(b)])
    model.compile(k.optimizers.SGD(0.0), ["binary_crossentropy", "sparse_categorical_crossentropy"])
    return model


@pytest.mark.parametrize("form", ["arrays", "generator", "sequence"])
def test_D3_class_weights_of_several_outputs_go_by_output(form: str) -> None:
    x, _ = diabetes(20)
    y = [(LABELS > 0).astype(np.float32), LABELS]
    model = two_headed()
    items = [(x[i : i + 8], [part[i : i + 8] for part in y]) for i in (0, 8, 16)]
    data = (x, y) if form == "arrays" else (FORMS[form](items),)
    found = model.fit(*data, class_weight={"c": CLASS_WEIGHT}, verbose=0).history
    p, q = (part.astype(np.float64) for part in model.predict(x, verbose=0))
    binary = -np.where(LABELS > 0, np.log(p[:, 0]), np.log(1 - p[:, 0])).mean()
    sparse = -(classes(LABELS) * np.log(q[np.arange(20), LABELS])).mean()
    assert found["a_loss"][0] == pytest.approx(binary, rel=1e-5)
    assert found["c_loss"][0] == pytest.approx(sparse, rel=1e-5)
    assert found["loss"][0] == pytest.approx(binary + sparse, rel=1e-5)


def test_D3_keras_refuses_several_outputs() -> None:
    with pytest.raises(ValueError, match="class_weight"):
        two_headed(theirs).fit(diabetes(20)[0], [LABELS > 0, LABELS], class_weight={"c": CLASS_WEIGHT}, verbose=0)


@pytest.mark.parametrize(
    ("class_weight", "message"),
    [
        ({"0": 2.0}, "integers as keys"),
        ({0.5: 2.0}, "integers as keys"),
        ([1.0, 2.0], "dict"),
        ({"b": {0: 2.0}}, "Unknown output 'b'"),
    ],
)
@pytest.mark.parametrize("form", ["arrays", "generator"])
def test_D3_keys_that_are_no_integers_are_refused(class_weight: Any, message: str, form: str) -> None:
    x, y = breast_cancer(N)
    data = (x, y) if form == "arrays" else (iter(batches(x, y)),)
    with pytest.raises(ValueError, match=message):
        logistic().fit(*data, class_weight=class_weight, verbose=0)


@pytest.mark.parametrize("form", ["one array", "list", "dict"])
def test_D4_sample_weights_of_several_outputs(form: str) -> None:
    x, _ = diabetes(20)
    y = [(LABELS > 0).astype(np.float32), LABELS]
    a, c = weights(20), weights(40)[20:]
    given = {"one array": a, "list": [a, c], "dict": {"c": c}}[form]
    expected_a, expected_c = {"one array": (a, a), "list": (a, c), "dict": (1.0, c)}[form]
    model = two_headed()
    p, q = (part.astype(np.float64) for part in model.predict(x, verbose=0))
    binary = (expected_a * -np.where(LABELS > 0, np.log(p[:, 0]), np.log(1 - p[:, 0]))).mean()
    sparse = (expected_c * -np.log(q[np.arange(20), LABELS])).mean()
    for data in ((x, y, given), (iter([(x, y, given)]), None, None)):
        found = model.fit(data[0], data[1], sample_weight=data[2], batch_size=None, verbose=0).history
        assert found["a_loss"][0] == pytest.approx(binary, rel=1e-5)
        assert found["c_loss"][0] == pytest.approx(sparse, rel=1e-5)


# -- E.1 every kind of data


class Tensor:
    """What a torch tensor is to NumPy."""

    def __init__(self, array: np.ndarray):
        self._array, self.shape = array, array.shape

    def numpy(self) -> np.ndarray:
        return self._array

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.array(self._array, dtype=dtype)

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, index: Any) -> Tensor:
        return Tensor(self._array[index])

    def __iter__(self) -> Iterator[Tensor]:
        return (Tensor(row) for row in self._array)


class Loader:
    """A torch `DataLoader`: its batches are lists of tensors."""

    def __init__(self, items: list[Any]):
        self.dataset, self.batch_sampler, self._items = object(), object(), items

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[list[Tensor]]:
        return ([Tensor(a) for a in item] for item in self._items)


class TfData:
    """A `tf.data.Dataset` of unknown length: tuples of tensors."""

    def __init__(self, items: list[Any]):
        self._items = items

    def __len__(self) -> int:
        raise TypeError("The dataset length is unknown.")

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        return (tuple(Tensor(a) for a in item) for item in self._items)


class ArrowTable:
    """A table that only exports an Arrow stream."""

    def __init__(self, array: np.ndarray):
        self._frame = polars.DataFrame(array)

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self._frame.__arrow_c_stream__(requested_schema)


class InterchangeTable:
    """A table that only has the data frame interchange protocol."""

    def __init__(self, array: np.ndarray):
        self._frame = pandas.DataFrame(array)

    def __dataframe__(self, nan_as_null: bool = False, allow_copy: bool = True) -> Any:
        return self._frame.__dataframe__(nan_as_null, allow_copy)


class TheirSequence(theirs.utils.PyDataset):
    """A dataset written for Keras, and left as it is."""

    def __init__(self, items: list[Any]):
        super().__init__(workers=2)
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


class InTurn(TheirSequence):
    """With two workers Keras hands the batches over in another order."""

    def __init__(self, items: list[Any]):
        super().__init__(items)
        self.workers = 1


class Numberless(theirs.utils.PyDataset):
    """Keras 3's other way of saying how many batches there are."""

    def __init__(self, items: list[Any]):
        super().__init__()
        self.items = items

    @property
    def num_batches(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


def on_disk(array: np.ndarray) -> np.ndarray:
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:  # the mapping keeps what the name no longer does
        mapped = np.memmap(file, array.dtype, "w+", shape=array.shape)
    mapped[:] = array
    return mapped


_NUMBERS = itertools.count()


def hdf5(array: np.ndarray) -> Any:
    file = h5py.File(f"memory {next(_NUMBERS)}", "w", driver="core", backing_store=False)
    file.create_dataset("a", data=array, chunks=(5, *array.shape[1:]))
    return file


def torch_loader(x: np.ndarray, y: np.ndarray) -> Any:
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    return torch.utils.data.DataLoader(data, batch_size=M)


def grain_dataset(x: np.ndarray, y: np.ndarray) -> Any:
    return grain.MapDataset.range(len(x)).map(lambda i: (x[i], y[i])).batch(M)


def grain_loader(x: np.ndarray, y: np.ndarray) -> Any:
    class Source:
        def __len__(self) -> int:
            return len(x)

        def __getitem__(self, i: Any) -> Any:
            return x[i], y[i]

    sampler = grain.samplers.IndexSampler(len(x), grain.sharding.NoSharding(), shuffle=False, num_epochs=1)
    operations = [grain.transforms.Batch(M)]
    return grain.DataLoader(data_source=Source(), sampler=sampler, operations=operations, worker_count=0)


ARRAYS: dict[str, Callable[[np.ndarray, np.ndarray], Any]] = {
    "numpy": lambda x, y: (x, y),
    "float64": lambda x, y: (x.astype(np.float64), y.astype(np.float64)[:, None]),
    "jax": lambda x, y: (jnp.asarray(x), jnp.asarray(y)),
    "torch": lambda x, y: (Tensor(x), Tensor(y)),
    "real torch": lambda x, y: tuple(map(pytest.importorskip("torch").from_numpy, (x, y))),
    "pandas": lambda x, y: (pandas.DataFrame(x), pandas.Series(y)),
    "polars": lambda x, y: (polars.DataFrame(x), polars.Series(y)),
    "arrow": lambda x, y: (ArrowTable(x), y),
    "interchange": lambda x, y: (InterchangeTable(x), y),
    "memmap": lambda x, y: (on_disk(x), on_disk(y)),
    "h5py": lambda x, y: (hdf5(x)["a"], hdf5(y)["a"]),
    "zarr": lambda x, y: (zarr.array(x, chunks=(5, 3)), zarr.array(y, chunks=(7,))),
    "disk and memory": lambda x, y: (on_disk(x), y),
    "lists": lambda x, y: (x.tolist(), y.tolist()),
}
STREAMS: dict[str, Callable[[np.ndarray, np.ndarray], Any]] = {
    "generator": lambda x, y: forever(batches(x, y)),
    "iterator": lambda x, y: iter(batches(x, y) * 2),
    "plain": lambda x, y: Plain(batches(x, y)),
    "loader": lambda x, y: Loader(batches(x, y)),
    "real loader": torch_loader,
    "tf.data": lambda x, y: TfData(batches(x, y)),
    "grain": grain_dataset,
    "grain iter": lambda x, y: grain_dataset(x, y).to_iter_dataset(),
    "grain loader": grain_loader,
    "sequence": lambda x, y: Listed(batches(x, y)),
    "keras sequence": lambda x, y: TheirSequence(batches(x, y)),
    "keras sequence without len": lambda x, y: Numberless(batches(x, y)),
    "creator": lambda x, y: keras.utils.DatasetCreator(lambda context: Plain(batches(x, y))),
}


class Machine:
    """One model for all kinds of data, so that its programs are compiled once; plain SGD has weights only for state."""

    def __init__(self) -> None:
        self.model, self._start = line(), line().get_weights()
        x, y = diabetes(N)
        self.expected = self.trained(x, y, batch_size=M)
        self.score = self.model.evaluate(x, y, verbose=0)
        self.outputs = self.model.predict(x, verbose=0)

    def trained(self, *data: Any, **arguments: Any) -> tuple[dict[str, Any], list[list[float]]]:
        """History and weights after two epochs in order."""
        self.model.set_weights(self._start)
        history = self.model.fit(*data, epochs=2, **{"shuffle": False, "verbose": 0, **arguments}).history
        return history, [w.tolist() for w in self.model.get_weights()]


@pytest.fixture(scope="module")
def machine() -> Machine:
    return Machine()


@pytest.mark.filterwarnings("ignore:The Dataframe Interchange Protocol")
@pytest.mark.parametrize("kind", ARRAYS)
def test_E1_every_kind_of_array_trains_alike(kind: str, machine: Machine) -> None:
    data = ARRAYS[kind](*diabetes(N))
    assert machine.trained(*data, batch_size=M) == machine.expected
    assert machine.model.evaluate(*data, verbose=0) == pytest.approx(machine.score, rel=1e-6)
    np.testing.assert_allclose(machine.model.predict(data[0], batch_size=5, verbose=0), machine.outputs, rtol=1e-5)


@pytest.mark.parametrize("kind", STREAMS)
def test_E1_every_kind_of_batches_trains_as_the_arrays_do_to_the_last_bit(kind: str, machine: Machine) -> None:
    x, y = diabetes(N)
    once = kind in ("generator", "iterator")
    assert machine.trained(STREAMS[kind](x, y), steps_per_epoch=6 if once else None) == machine.expected
    steps = 6 if once else None
    assert machine.model.evaluate(STREAMS[kind](x, y), steps=steps, verbose=0) == pytest.approx(machine.score, rel=1e-6)
    predicted = machine.model.predict(STREAMS[kind](x, y), steps=steps, verbose=0)  # which leaves y alone
    np.testing.assert_allclose(predicted, machine.outputs, rtol=1e-5)


@functools.cache
def named() -> Any:
    """A model of two named inputs."""
    a, b = layers.Input((6,), name="a"), layers.Input((4,), name="b")
    model = keras.Model([a, b], layers.Dense(1)(layers.Concatenate()([a, b])))
    model.compile(keras.optimizers.SGD(0.0), "mse")
    return model


@pytest.mark.parametrize("form", ["list", "dict", "columns"])
def test_E1_several_inputs_are_a_list_or_a_dict_by_name(form: str) -> None:
    x, y = diabetes(20)
    parts = {"a": x[:, :6], "b": x[:, 6:]}
    given = {"list": list(parts.values()), "dict": {**parts, "more": y}, "columns": parts}[form]
    if form == "columns":
        given = {name: polars.DataFrame(part) for name, part in parts.items()}
    model = named()
    expected = errors_of(model.predict([x[:, :6], x[:, 6:]], verbose=0), y)
    assert model.evaluate(given, y, verbose=0) == pytest.approx(expected, rel=1e-6)
    halves = [(jax.tree.map(lambda a, r=rows: a[r], given), y[rows]) for rows in (slice(0, 12), slice(12, 20))]
    assert model.fit(Plain(halves), verbose=0).history["loss"][0] == pytest.approx(expected, rel=1e-6)


def errors_of(outputs: np.ndarray, y: np.ndarray) -> float:
    return float(((outputs[:, 0].astype(np.float64) - y) ** 2).mean())


class Rows:
    """A Hugging Face data set: rows are dicts by column, and so are its batches."""

    def __init__(self, columns: dict[str, list[Any]]):
        self._columns = columns

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))

    def __getitem__(self, i: Any) -> dict[str, Any]:
        return {name: column[i] for name, column in self._columns.items()}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[i] for i in range(len(self)))

    def batch(self, size: int) -> Plain:
        return Plain([self[i : i + size] for i in range(0, len(self), size)])


def test_E1_rows_of_hugging_face_are_batched_first() -> None:
    x, y = diabetes(20)
    rows = Rows({"a": x[:, :6].tolist(), "b": x[:, 6:].tolist(), "label": y.tolist()})
    expected = named().predict([x[:, :6], x[:, 6:]], verbose=0)
    np.testing.assert_allclose(named().predict(rows.batch(8), verbose=0), expected, rtol=1e-5)
    labelled = Plain([(batch, batch["label"]) for batch in rows.batch(8)])
    assert named().evaluate(labelled, verbose=0) == pytest.approx(errors_of(expected, y), rel=1e-6)
    with pytest.raises(ValueError, match=r"x\['label'\].*batch\(\)"):
        named().fit(rows, verbose=0)


@pytest.mark.parametrize("kind", ["generator", "sequence", "sequence shuffled", "pandas", "grain"])
def test_E1_histories_equal_those_of_keras_on_the_same_data(kind: str) -> None:
    x, y = diabetes(N)
    y = y[:, None]

    def data() -> tuple:
        if kind == "pandas":
            return pandas.DataFrame(x), pandas.DataFrame(y)
        if kind == "grain":
            return (grain_dataset(x, y),)
        return (forever(batches(x, y)),) if kind == "generator" else (TheirSequence(batches(x, y)),)

    fit = {"epochs": 3, "verbose": 0, "shuffle": False}
    fit |= {"steps_per_epoch": 6} if kind == "generator" else {"batch_size": M} if kind == "pandas" else {}
    if kind == "sequence shuffled":  # a full batch: the order cannot matter
        items, fit = [(x, y)], {"epochs": 3, "verbose": 0, "shuffle": True}
        expected, found = _oracle(), _ours()
        assert found.fit(TheirSequence(items), **fit).history["loss"] == pytest.approx(
            expected.fit(TheirSequence(items), **fit).history["loss"], rel=1e-4
        )
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Your input ran out of data", UserWarning, "keras")  # there was all it had
        expected = _oracle().fit(*data(), **fit).history
    found = _ours().fit(*data(), **fit).history
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=1e-4)


@functools.cache
def _kept(k: Any) -> Any:
    return line(k, metrics=["mae"])


def _oracle() -> Any:
    model = _kept(theirs)
    model.set_weights(line().get_weights())
    return model


def _ours() -> Any:
    model = _kept(keras)
    model.set_weights(line().get_weights())
    return model


class Slices:
    """An array on disk that counts what is read, and cannot be read whole."""

    def __init__(self, array: Any):
        self._array, self.shape, self.dtype, self.chunks = array, array.shape, array.dtype, (4,)
        self.reads: list[Any] = []

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Any:
        self.reads.append(rows)
        return self._array[rows]

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise AssertionError("read whole")

    @property
    def largest(self) -> int:
        return max(r.stop - r.start if isinstance(r, slice) else len(r) for r in self.reads)


@pytest.mark.parametrize("store", ["numpy", "h5py", "zarr"])
def test_E1_arrays_on_disk_are_read_batch_by_batch_and_each_row_once_per_pass(store: str) -> None:
    x, y = diabetes(N)
    make = {"numpy": lambda a: a, "h5py": lambda a: hdf5(a)["a"], "zarr": lambda a: zarr.array(a, chunks=5)}[store]
    lazy = Slices(make(x)), Slices(make(y))
    model = still()

    def rows_read() -> int:
        count = sum(r.stop - r.start if isinstance(r, slice) else len(r) for r in lazy[0].reads)
        assert lazy[0].largest <= M
        x_reads, y_reads = (collections.Counter(map(str, a.reads)) for a in lazy)
        assert not x_reads - y_reads
        firsts = {"slice(0, 1, None)", "slice(33, 34, None)"}  # what metrics like R² are taken relative to
        assert set(y_reads - x_reads) <= firsts
        lazy[0].reads.clear()
        lazy[1].reads.clear()
        return count

    model.fit(*lazy, batch_size=M, epochs=2, validation_split=0.2, verbose=0)
    assert rows_read() == 2 * N
    model.fit(*lazy, batch_size=M, steps_per_epoch=2, shuffle="batch", verbose=0)
    assert rows_read() == 2 * M
    score = model.evaluate(*lazy, batch_size=M, verbose=0)
    assert score == pytest.approx(errors(model, x, y).mean(), rel=1e-6)
    assert rows_read() == N
    model.evaluate(*lazy, batch_size=M, steps=1, verbose=0)
    assert rows_read() == M
    predicted = model.predict(lazy[0], batch_size=M, verbose=0)
    np.testing.assert_allclose(predicted, model.predict(x, verbose=0), rtol=1e-5)
    assert lazy[0].largest == M


def noisy(dropout: bool = True) -> Any:
    """A model with random masks and statistics over the batch."""
    keras.utils.set_random_seed(3)
    middle = [layers.Dropout(0.3), layers.BatchNormalization()] if dropout else [layers.BatchNormalization()]
    model = keras.Sequential([layers.Dense(4, activation="tanh", input_shape=(10,)), *middle, layers.Dense(1)])
    model.compile("adam", "mse", ["mae"])
    return model


@pytest.mark.parametrize(("n", "shuffle", "steps"), [(42, True, None), (40, "batch", None), (40, True, 3)])
def test_E1_training_from_disk_equals_training_from_memory_to_the_last_bit(n: int, shuffle: Any, steps: Any) -> None:
    x, y = diabetes(n)
    w = weights(n)
    runs = []
    for data in ((x, y, w), (on_disk(x), hdf5(y)["a"], on_disk(w))):
        model = noisy()
        history = model.fit(
            data[0],
            data[1],
            sample_weight=data[2],
            batch_size=M,
            epochs=3,
            shuffle=shuffle,
            steps_per_epoch=steps,
            validation_split=0.2,
            verbose=0,
        )
        runs.append((history.history, [a.tolist() for a in model.get_weights()]))
    assert runs[0] == runs[1]


def test_E1_training_from_a_sequence_equals_training_from_arrays_to_the_last_bit() -> None:
    x, y = diabetes(N)
    runs = []
    for data in ({"x": x, "y": y, "batch_size": M}, {"x": Listed(batches(x, y), workers=2)}):
        model = noisy(dropout=False)
        history = model.fit(**data, epochs=3, shuffle=False, verbose=0)
        runs.append((history.history, [a.tolist() for a in model.get_weights()]))
    assert runs[0] == runs[1]


def test_E1_a_dataset_creator_makes_its_data_once_for_this_process() -> None:
    x, y = diabetes(N)
    contexts = []

    def make(context: keras.utils.InputContext) -> Any:
        contexts.append(context)
        return Plain(batches(x, y, size=context.get_per_replica_batch_size(6)))

    still().fit(keras.utils.DatasetCreator(make), validation_data=keras.utils.DatasetCreator(make), verbose=0)
    assert [(c.num_input_pipelines, c.input_pipeline_id) for c in contexts] == [(1, 0), (1, 0)]
    still().evaluate(keras.utils.DatasetCreator(make), verbose=0)
    still().predict(keras.utils.DatasetCreator(make), verbose=0)
    assert len(contexts) == 4
    with pytest.raises(ValueError, match="devices can share, got 5"):
        keras.utils.InputContext(num_replicas_in_sync=2).get_per_replica_batch_size(5)
    with pytest.raises(TypeError, match="dataset_fn"):
        keras.utils.DatasetCreator(Plain([]))
    with pytest.raises(TypeError, match="return a dataset"):
        still().fit(keras.utils.DatasetCreator(lambda context: 3))


@pytest.mark.parametrize("x", [3.5, "data.csv", b"data", object(), None, {1, 2}.__iter__])
@pytest.mark.parametrize("method", ["fit", "evaluate", "predict"])
def test_E1_what_is_no_data_is_refused_with_what_is_accepted(x: Any, method: str) -> None:
    with pytest.raises(ValueError, match=r"arrays|needs data"):
        getattr(still(), method)(x)


# -- E.2 elements


@pytest.mark.parametrize("form", FORMS)
def test_E2_tuples_of_one_to_three_and_anything_else(form: str) -> None:
    x, y = diabetes(N)
    w = weights()
    model, make = still(), FORMS[form]
    expected = model.predict(x, verbose=0)
    for items in (
        [a for (a,) in batches(x)],
        batches(x),
        batches(x, y),
        batches(x, y, w),
        [(a, None) for (a,) in batches(x)],
    ):
        np.testing.assert_allclose(model.predict(make(items), verbose=0), expected, rtol=1e-5)
    assert model.evaluate(make(batches(x, y)), verbose=0) == pytest.approx(errors(model, x, y).mean(), rel=1e-6)
    assert model.evaluate(make(batches(x, y, w)), verbose=0) == pytest.approx(
        (w * errors(model, x, y)).mean(), rel=1e-6
    )
    nothing = [(*batch, None) for batch in batches(x, y)]
    assert model.evaluate(make(nothing), verbose=0) == pytest.approx(errors(model, x, y).mean(), rel=1e-6)
    dicts = [{"a": a[:, :6], "b": a[:, 6:]} for (a,) in batches(x)]
    assert named().predict(make(dicts), verbose=0).shape == (N, 1)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", ["fit", "evaluate", "predict", "validation"])
def test_E2_namedtuples_and_longer_tuples_are_refused(form: str, method: str) -> None:
    x, y = diabetes(N)
    pair = collections.namedtuple("pair", "x y")
    wrong = {
        r"fields \('x', 'y'\).*plain tuple": [pair(*batch) for batch in batches(x, y)],
        "a tuple of 4": batches(x, y, y, y),
        "a tuple of 0": [()],
    }
    for message, items in wrong.items():
        data = FORMS[form](items)
        arguments = {"x": data} if method != "validation" else {"x": x, "y": y, "validation_data": data}
        with pytest.raises(ValueError, match=message):
            getattr(still(), method.replace("validation", "fit"))(**arguments, verbose=0)


def test_E2_keras_takes_a_namedtuple_for_x_and_y() -> None:
    x, y = diabetes(N)
    pair = collections.namedtuple("pair", "a b")
    items = (pair(*batch) for _ in range(2) for batch in batches(x, y[:, None]))
    history = _oracle().fit(items, steps_per_epoch=2, shuffle=False, verbose=0)
    assert len(history.history["loss"]) == 1


# -- E.3 … E.5 what does not belong together, types, sizes


@pytest.mark.parametrize("form", [*FORMS, "creator"])
@pytest.mark.parametrize("what", ["y", "sample_weight", "batch_size", "validation_split", "validation_batch_size"])
def test_E3_datasets_bring_their_own_targets_weights_and_batches(form: str, what: str) -> None:
    x, y = diabetes(N)
    make = {**FORMS, "creator": lambda items: keras.utils.DatasetCreator(lambda context: Plain(items))}[form]
    value = {"y": y, "sample_weight": weights(), "batch_size": 8, "validation_split": 0.5, "validation_batch_size": 8}
    model = still()
    if what == "validation_batch_size":
        with pytest.raises(ValueError, match="batch_size beside"):
            model.fit(x, y, validation_data=make(batches(x, y)), validation_batch_size=8, verbose=0)
        return
    message = "validation_split needs arrays" if what == "validation_split" else f"{what} beside"
    with pytest.raises(ValueError, match=message):
        model.fit(make(batches(x, y)), **{what: value[what]}, verbose=0)
    if what != "validation_split":
        with pytest.raises(ValueError, match=message):
            model.evaluate(make(batches(x, y)), **{what: value[what]}, verbose=0)
    if what == "batch_size":
        with pytest.raises(ValueError, match=message):
            model.predict(make(batches(x, y)), batch_size=8, verbose=0)


def test_E4_floats_become_float32_and_integers_stay() -> None:
    seen = []

    class Look(layers.Layer):
        def call(self, x: Any) -> Any:
            seen.append(x.dtype.name)
            return jnp.asarray(x, jnp.float32)

    model = keras.Sequential([Look(), layers.Dense(1)])
    for x, name in (
        (np.ones((4, 2), np.float64), "float32"),
        (np.ones((4, 2), np.float16), "float32"),
        (np.ones((4, 2), np.int64), "int32"),
        (np.ones((4, 2), np.uint8), "uint8"),
        (np.ones((4, 2), bool), "bool"),
        ([[1, 2], [3, 4]], "int32"),
        ([[1.0, 2], [3, 4]], "float32"),
    ):
        for data in (x, iter([(x,)])):
            seen.clear()
            model.predict(data, verbose=0)
            assert set(seen) <= {name}
    assert seen == []  # compiled before


def test_E5_sizes_that_disagree_are_listed() -> None:
    x, y = diabetes(N)
    for data in ((x, y[:-1]), (iter([(x, y[:-1])]),), (Listed([(x, y[:-1])]),)):
        for method in (still().fit, still().evaluate):
            with pytest.raises(ValueError, match=f"x: {N}, y: {N - 1}"):
                method(*data, verbose=0)
            data = (x, y[:-1]) if len(data) == 2 else (Listed([(x, y[:-1])]),)
    with pytest.raises(ValueError, match=f"sample_weight: {N - 2}"):
        still().fit(x, y, sample_weight=weights(N - 2), verbose=0)
    with pytest.raises(ValueError, match=r"x\['b'\]: 3"):
        named().predict({"a": x[:, :6], "b": x[:3, 6:]}, verbose=0)


NOTHING = np.zeros((0, 10), np.float32), np.zeros(0, np.float32)
EMPTY: dict[str, Callable[[], tuple]] = {
    "arrays": lambda: NOTHING,
    "list": lambda: ([], []),
    "memmap": lambda: (Slices(NOTHING[0]), NOTHING[1]),
    "pandas": lambda: (pandas.DataFrame(NOTHING[0]), pandas.Series(NOTHING[1])),
    "generator": lambda: (iter(()),),
    "dataset": lambda: (Plain([]),),
    "loader": lambda: (Loader([]),),
    "sequence": lambda: (Listed([]),),
    "creator": lambda: (keras.utils.DatasetCreator(lambda context: Plain([])),),
    "empty batches": lambda: (Plain([NOTHING, NOTHING]),),
    "sequence of empty batches": lambda: (Listed([NOTHING]),),
}


@pytest.mark.parametrize("form", EMPTY)
def test_E5_no_data_is_an_error_in_every_method_and_form(form: str) -> None:
    x, y = diabetes(N)
    model, make = still(), EMPTY[form]
    with pytest.raises(ValueError, match="at least one"):
        model.fit(*make(), verbose=0)
    with pytest.raises(ValueError, match="at least one"):
        model.evaluate(*make(), verbose=0)
    with pytest.raises(ValueError, match="at least one"):
        model.predict(make()[0], verbose=0)
    held_out = make()
    with pytest.raises(ValueError, match="at least one"):
        model.fit(x, y, validation_data=held_out if len(held_out) == 2 else held_out[0], verbose=0)
    if form in ("arrays", "list", "memmap", "pandas"):
        for method in (model.train_on_batch, model.test_on_batch):
            with pytest.raises(ValueError, match="at least one"):
                method(*make())
        with pytest.raises(ValueError, match="at least one"):
            model.predict_on_batch(make()[0])


def test_E5_keras_breaks_on_empty_arrays() -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Your input ran out of data", UserWarning, "keras")
        with pytest.raises((StopIteration, UnboundLocalError)):
            _oracle().predict(NOTHING[0], verbose=0)


@pytest.mark.parametrize("value", [0, -1, 2.5, "all", True, [4]])
def test_E5_batch_sizes_that_are_none(value: Any) -> None:
    x, y = diabetes(N)
    for call in (
        lambda: still().fit(x, y, batch_size=value),
        lambda: still().evaluate(x, y, batch_size=value),
        lambda: still().predict(x, batch_size=value),
        lambda: still().fit(x, y, validation_data=(x, y), validation_batch_size=value),
    ):
        with pytest.raises(ValueError, match='"auto", "full" or an int >= 1'):
            call()


@pytest.mark.parametrize(("value", "steps"), [(None, 2), ("full", 1), (10**6, 1), (np.int64(20), 3), (1, 42)])
def test_E5_batch_sizes(value: Any, steps: int) -> None:
    x, y = diabetes(N)
    seen: list[dict] = []

    class Look(keras.callbacks.Callback):
        def on_train_begin(self, logs: Any = None) -> None:
            seen.append(self.params)

    still().fit(x, y, batch_size=value, verbose=0, callbacks=[Look()])
    assert (seen[0]["steps"], seen[0]["batch_size"]) == (steps, {2: 32, 1: N, 3: 20, 42: 1}[steps])


# -- E.6 every batch is fetched once


class Taken:
    """An iterator of batches that says which were taken."""

    def __init__(self, count: int):
        x, y = diabetes(8 * count)
        self.items, self.taken = batches(x, y), 0

    def __iter__(self) -> Taken:
        return self

    def __next__(self) -> Any:
        if self.taken == len(self.items):
            raise StopIteration
        self.taken += 1
        return self.items[self.taken - 1]


@pytest.mark.parametrize("built", [True, False])
def test_E6_every_batch_is_fetched_once(built: bool) -> None:
    model = still() if built else keras.Sequential([layers.Dense(1)])
    if not built:
        model.compile(keras.optimizers.SGD(0.0), "mse")
    source = Taken(12)
    model.fit(source, steps_per_epoch=3, epochs=2, verbose=0)
    assert source.taken == 6
    model.evaluate(source, steps=2, verbose=0)
    assert source.taken == 8
    outputs = model.predict(source, steps=1, verbose=0)
    assert source.taken == 9
    np.testing.assert_allclose(outputs, model.predict(source.items[8][0], verbose=0), rtol=1e-5)
    x, y = diabetes(16)
    model.fit(x, y, validation_data=source, validation_steps=1, epochs=2, verbose=0)
    assert source.taken == 11
    rest = model.evaluate(source, verbose=0)
    assert rest == pytest.approx(errors(model, *source.items[11]).mean(), rel=1e-5)

    sequence, dataset = Listed(batches(x, y)), Plain(batches(x, y))
    for data in (sequence, dataset):
        model.fit(data, epochs=2, validation_data=data, verbose=0)
        model.evaluate(data, verbose=0)
        model.predict(data, verbose=0)
    assert sorted(sequence.asked) == [0] * 6 + [1] * 6
    assert dataset.fetched == 12


def test_E6_no_batch_is_fetched_after_the_one_that_stops() -> None:
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.model.stop_training = batch == 2

        def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
            self.model.stop_evaluating = batch == 1

        def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
            self.model.stop_predicting = batch == 0

    source = Taken(12)
    still().fit(source, epochs=5, verbose=0, callbacks=[Stop()])
    assert source.taken == 3
    still().evaluate(source, verbose=0, callbacks=[Stop()])
    assert source.taken == 5
    assert len(still().predict(source, verbose=0, callbacks=[Stop()])) == M
    assert source.taken == 6


def test_E6_keras_fetches_the_first_batch_of_a_sequence_twice() -> None:
    x, y = diabetes(16)

    class Asked(TheirSequence):
        def __getitem__(self, index: int) -> Any:
            asked.append(index)
            return super().__getitem__(index)

    asked: list[int] = []
    model = theirs.Sequential([theirs.layers.Dense(1)])
    model.compile("sgd", "mse")
    sequence = Asked(batches(x, y[:, None]))
    sequence.workers = 1
    model.evaluate(sequence, verbose=0)
    assert asked.count(0) == 2


# -- E.7 the order


def orders(fit: Callable[[Any], Any], n: int = 20) -> list[list[int]]:
    """The examples' numbers, batch by batch, as a training sees them."""
    seen: list[list[int]] = []

    def look(y_true: Any, y_pred: Any) -> Any:
        if not isinstance(y_true, jax.core.Tracer):  # shapes are looked at first
            seen.append(np.asarray(y_true).astype(int).ravel().tolist())
        return jnp.mean((y_pred - y_true[:, None]) ** 2)

    model = keras.Sequential([layers.Dense(1, input_shape=(1,))])
    model.compile(keras.optimizers.SGD(0.0), look, run_eagerly=True)
    keras.utils.set_random_seed(5)
    seen.clear()
    fit(model)
    return seen


COUNTED = np.arange(20, dtype=np.float32)[:, None], np.arange(20, dtype=np.float32)
KINDS: dict[str, Callable[[], tuple]] = {
    "arrays": lambda: COUNTED,
    "disk": lambda: (Slices(COUNTED[0]), COUNTED[1]),
    "sequence": lambda: (Listed(batches(*COUNTED, size=6)),),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shuffle", [True, "batch"])
def test_E7_the_order_depends_on_the_seed_and_the_epoch_only(kind: str, shuffle: Any) -> None:
    fit = {"verbose": 0, "shuffle": shuffle} | ({"batch_size": 6} if kind != "sequence" else {})
    whole = orders(lambda model: model.fit(*KINDS[kind](), epochs=4, **fit))
    epochs = [whole[i : i + 4] for i in range(0, 16, 4)]
    assert len({str(epoch) for epoch in epochs}) == 4  # a new order every epoch
    assert all(sorted(itertools.chain(*epoch)) == list(range(20)) for epoch in epochs)  # of all examples
    again = orders(lambda model: model.fit(*KINDS[kind](), epochs=4, initial_epoch=2, **fit))
    assert again == epochs[2] + epochs[3]
    if kind == "disk":
        assert whole == orders(lambda model: model.fit(*COUNTED, epochs=4, **fit))


def test_E7_keras_shuffles_a_resumed_epoch_in_another_order() -> None:
    class Asked(TheirSequence):
        def __getitem__(self, index: int) -> Any:
            asked.append(index)
            return super().__getitem__(index)

    runs = []
    model = theirs.Sequential([theirs.layers.Input((1,)), theirs.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.evaluate(COUNTED[0], COUNTED[0], verbose=0)
    for first in (0, 1):
        asked: list[int] = []
        data = Asked(batches(COUNTED[0], COUNTED[0], size=2))
        data.workers = 1
        theirs.utils.set_random_seed(5)
        model.fit(data, epochs=2, initial_epoch=first, verbose=0)
        runs.append(asked[-10:])
    assert runs[0] != runs[1]


def test_E7_batch_moves_whole_batches_and_reads_disk_in_runs() -> None:
    lazy = Slices(COUNTED[0])
    seen = orders(lambda model: model.fit(lazy, COUNTED[1], batch_size=6, epochs=3, shuffle="batch", verbose=0))
    assert all(isinstance(rows, slice) for rows in lazy.reads)
    starts = [min(batch) for batch in seen]
    assert all(
        sorted(batch) == list(range(start, start + len(batch))) for batch, start in zip(seen, starts, strict=True)
    )
    assert all(start % 6 == 0 for start in starts)
    assert any(batch != sorted(batch) for batch in seen)


@pytest.mark.parametrize("kind", KINDS)
def test_E7_False_keeps_the_order_and_validation_is_never_shuffled(kind: str) -> None:
    fit = {"verbose": 0} | ({"batch_size": 6} if kind != "sequence" else {})
    in_order = [list(range(i, min(i + 6, 20))) for i in (0, 6, 12, 18)]
    assert orders(lambda model: model.fit(*KINDS[kind](), epochs=2, shuffle=False, **fit)) == 2 * in_order
    data = KINDS[kind]()
    data = data if len(data) == 2 else data[0]
    x, y = COUNTED[0][:6] + 20, COUNTED[1][:6] + 20
    seen = orders(lambda model: model.fit(x, y, validation_data=data, epochs=2, verbose=0, batch_size=6))
    assert [batch for batch in seen if max(batch) < 20] == 2 * in_order


def test_E7_generators_and_datasets_come_as_they_come_without_a_warning() -> None:
    in_order = [list(range(i, min(i + 6, 20))) for i in (0, 6, 12, 18)]
    for make in (iter, Plain, Loader):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert orders(lambda model, make=make: model.fit(make(batches(*COUNTED, size=6)), verbose=0)) == in_order
    x, y = diabetes(N)
    with pytest.warns(UserWarning, match="shuffle=True"):  # in Keras the default warns
        _oracle().fit((batch for batch in batches(x, y[:, None])), steps_per_epoch=1, verbose=0)


@pytest.mark.parametrize("value", ["rows", None, 2, 0.5])
def test_E7_values_of_shuffle_that_are_none(value: Any) -> None:
    with pytest.raises(ValueError, match='True, False or "batch"'):
        still().fit(*diabetes(N), shuffle=value, verbose=0)


# -- E.9, E.10 errors


class Broken(Exception):
    def __init__(self, code: int, place: str):
        super().__init__(f"{place}: {code}")


@pytest.mark.parametrize("form", ["generator", "dataset", "sequence"])
@pytest.mark.parametrize("at", [0, 3])
def test_E9_an_exception_in_the_data_keeps_its_type_and_the_model_goes_on(form: str, at: int) -> None:
    x, y = diabetes(N)
    items = batches(x, y)

    def generate() -> Iterator[Any]:
        yield from items[:at]
        raise Broken(7, "disk")

    class Failing(Listed):
        def __getitem__(self, i: int) -> Any:
            if i == at:
                raise Broken(7, "disk")
            return self.items[i]

    class Set:
        def __iter__(self) -> Iterator[Any]:
            return generate()

    make = {"generator": generate, "dataset": Set, "sequence": lambda: Failing(items)}[form]
    model = still()
    for call in (
        lambda: model.fit(make(), shuffle=False, verbose=0),
        lambda: model.evaluate(make(), verbose=0),
        lambda: model.predict(make(), verbose=0),
        lambda: model.fit(x, y, validation_data=make(), verbose=0),
    ):
        with pytest.raises(Broken, match="disk: 7") as caught:
            call()
        assert any(entry.name in ("generate", "__getitem__") for entry in caught.traceback)
    assert model.fit(x, y, verbose=0).history["loss"]


MISFITS: dict[str, tuple[Callable[[], Any], str]] = {
    "features": (lambda: np.ones((4, 9)), r"\(n, 10\).*got \(4, 9\)"),
    "rank": (lambda: np.ones((4, 10, 2)), r"\(n, 10\).*got \(4, 10, 2\)"),
    "two inputs": (lambda: [np.ones((4, 10)), np.ones((4, 10))], "got a list of 2"),
}


@pytest.mark.parametrize("name", MISFITS)
@pytest.mark.parametrize("method", ["fit", "evaluate", "predict"])
def test_E10_inputs_that_do_not_fit_are_named(name: str, method: str) -> None:
    make, message = MISFITS[name]
    model, x = still(), make()
    y = np.ones(4)
    with pytest.raises(ValueError, match=message):
        getattr(model, method)(x, **({} if method == "predict" else {"y": y}), verbose=0)
    for kind in (iter, Plain, Listed):
        with pytest.raises(ValueError, match=message):
            getattr(model, method)(kind([(x, y)]), verbose=0)
    fitting = np.ones((4, 10), np.float32)
    for kind in (iter, Plain, Listed):  # also in the middle of a stream
        with pytest.raises(ValueError, match=message):
            getattr(model, method)(kind([(fitting, y), (x, y)]), verbose=0)


def test_E10_missing_and_further_keys_of_a_dict() -> None:
    x, y = diabetes(20)
    whole = {"a": x[:, :6], "b": x[:, 6:]}
    assert named().predict({**whole, "c": y}, verbose=0).shape == (20, 1)
    assert named().predict(iter([{**whole, "c": y}]), verbose=0).shape == (20, 1)
    for data in ({"a": x[:, :6]}, Plain([{"a": x[:, :6]}]), Plain([whole, {"a": x[:, :6]}])):
        with pytest.raises(ValueError, match="found no 'b'"):
            named().predict(data, verbose=0)
    with pytest.raises(ValueError, match=re.escape("input 'b' of shape (n, 4)")):
        named().fit(Plain([({**whole, "b": x}, y)]), verbose=0)


def test_E10_targets_that_change_in_mid_stream_are_refused() -> None:
    x, y = diabetes(16)
    with pytest.raises(ValueError, match=r"\(n, 2\)|\(8, 2\)"):
        still().fit(Plain([(x[:8], y[:8]), (x[8:], np.ones((8, 2)))]), verbose=0)


def test_streams_of_batches_of_many_sizes_share_one_program_and_weigh_every_example_alike() -> None:
    x, y = diabetes(N)
    edges = [0, 12, 20, 21, 33, 42]
    items = [(x[a:b], y[a:b]) for a, b in itertools.pairwise(edges)]
    for make in (Plain, Listed):
        model = line(optimizer=keras.optimizers.SGD(0.0))
        history = model.fit(make(items), epochs=2, validation_data=make(items), verbose=0)
        expected = pytest.approx([errors(model, x, y).mean()] * 2, rel=1e-6)
        assert history.history == {"loss": expected, "val_loss": expected}
        assert history.programs == {"train": 1, "test": 1, "predict": 0}
        np.testing.assert_allclose(model.predict(make(items), verbose=0), model.predict(x, verbose=0), rtol=1e-5)


@pytest.mark.filterwarnings("ignore:Explicitly requested dtype:UserWarning")  # Keras, with newer JAX
def test_sequences_of_another_length_in_every_batch() -> None:
    random = np.random.default_rng(6)
    items = [(random.normal(size=(4, t, 3)).astype(np.float32), random.normal(size=4)) for t in (5, 2, 7, 2)]
    results = []
    for k in (theirs, keras):
        inputs = k.Input((None, 3))
        model = k.Model(inputs, k.layers.Dense(1)(k.layers.GlobalAveragePooling1D()(inputs)))
        model.set_weights([np.ones((3, 1), np.float32), np.zeros(1, np.float32)])
        model.compile(k.optimizers.SGD(0.1), "mse")
        data = [(x, y[:, None]) for x, y in items]
        make = InTurn if k is theirs else Plain
        history = model.fit(make(data), epochs=2, shuffle=False, verbose=0).history
        predicted = model.predict(make([(x,) for x, _ in items]), verbose=0)
        results.append((history["loss"], predicted))
    np.testing.assert_allclose(results[1][0], results[0][0], rtol=1e-4)
    np.testing.assert_allclose(results[1][1], results[0][1], rtol=1e-4, atol=1e-5)

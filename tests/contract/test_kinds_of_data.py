"""Section E.1 (data) of the training contract: every kind of data."""

from __future__ import annotations

import collections
import itertools
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
from support.data import diabetes
from support.feeds import Listed, M, N, Plain, batches, errors, forever, line, still
from support.kinds import Loader, Slices, Tensor, TheirSequence, kept, named, oracle, weights

import epochal as keras
from epochal import layers

pytestmark = pytest.mark.optimized  # bits are compared


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
        expected, found = oracle(), _ours()
        assert found.fit(TheirSequence(items), **fit).history["loss"] == pytest.approx(
            expected.fit(TheirSequence(items), **fit).history["loss"], rel=1e-4
        )
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Your input ran out of data", UserWarning, "keras")  # there was all it had
        expected = oracle().fit(*data(), **fit).history
    found = _ours().fit(*data(), **fit).history
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=1e-4)


def _ours() -> Any:
    model = kept(keras)
    model.set_weights(line().get_weights())
    return model


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

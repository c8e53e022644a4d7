"""Sections E.2 to E.5, E.9 and E.10 (data) of the training contract: elements, types, sizes, and errors."""

from __future__ import annotations

import collections
import itertools
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import keras as theirs
import numpy as np
import pandas
import pytest
from support.data import diabetes
from support.feeds import FORMS, Listed, N, Plain, batches, errors, line, still
from support.kinds import Loader, Slices, TheirSequence, named, oracle, weights

import epochal as keras
from epochal import layers


class InTurn(TheirSequence):
    """With two workers Keras hands the batches over in another order."""

    def __init__(self, items: list[Any]):
        super().__init__(items)
        self.workers = 1


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
    history = oracle().fit(items, steps_per_epoch=2, shuffle=False, verbose=0)
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
            oracle().predict(NOTHING[0], verbose=0)


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

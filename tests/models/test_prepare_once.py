"""What is done to a user's data before training is done once, and nothing of it is remembered after the method."""

from __future__ import annotations

import gc
import inspect
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

import epochal as keras
from epochal.data.streams import opening
from epochal.models import input_data
from epochal.models.arguments import FitArguments
from epochal.models.trainer import Training
from epochal.plans import step_times, trial_noise

N = 96


class Counted:
    """Something like an array that counts how often it is read."""

    def __init__(self, array: np.ndarray):
        self.array, self.shape, self.dtype, self.reads = array, array.shape, array.dtype, 0

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        self.reads += 1
        return self.array if dtype is None else self.array.astype(dtype)


def data(seed: int = 0, n: int = N) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4)).astype(np.float32)
    return x, (x[:, 0] > 0).astype(np.int32)


def network() -> Any:
    model = keras.Sequential([keras.layers.Dense(4, activation="relu"), keras.layers.Dense(2, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


@pytest.fixture(autouse=True)
def _short_plans(monkeypatch):
    for name, value in {"SIZES": (16, 32), "ROUNDS": 1, "SLICE": 1e-4}.items():
        monkeypatch.setattr(step_times, name, value)
    for name, value in {"LOOKS": (1, 2), "GRADIENTS": 32}.items():
        monkeypatch.setattr(trial_noise, name, value)


@pytest.fixture
def counts(monkeypatch) -> Counter[str]:
    """How often each step of preparing was taken."""
    found: Counter[str] = Counter()

    def count(place: Any, name: str, called: str) -> None:
        real = getattr(place, name)

        def counted(*arguments: Any, **named: Any) -> Any:
            found[called] += 1
            return real(*arguments, **named)

        monkeypatch.setattr(place, name, counted)

    count(input_data, "as_examples", "read")
    count(opening.examples, "as_examples", "read")  # batches of a stream, and validation data
    count(input_data, "split", "split")
    count(input_data, "align", "aligned")
    count(input_data, "with_class_weight", "weighted")
    count(keras.Model, "build_from", "built")
    return found


WEIGHTS = {0: 1.0, 1: 2.0}


@pytest.mark.parametrize("batch_size", ["auto", 16])
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"read": 1, "aligned": 1, "built": 1}),
        ({"class_weight": WEIGHTS}, {"read": 1, "aligned": 1, "weighted": 1, "built": 1}),
        ({"validation_split": 0.25}, {"read": 1, "split": 1, "aligned": 2, "built": 1}),  # one part each
        (
            {"validation_split": 0.25, "class_weight": WEIGHTS},
            {"read": 1, "split": 1, "aligned": 2, "weighted": 1, "built": 1},
        ),
    ],
)
def test_arrays_are_prepared_once(counts, batch_size, given, expected):
    arrays = [Counted(a) for a in (*data(), np.ones(N, np.float32))]
    x, y, weight = arrays
    history = network().fit(x, y, batch_size, sample_weight=weight, epochs=2, verbose=0, **given)
    assert counts == expected
    assert [a.reads for a in arrays] == [1, 1, 1]
    assert (history.plan is not None) == (batch_size == "auto")


@pytest.mark.parametrize("batch_size", ["auto", 16])
def test_validation_data_is_prepared_once(counts, batch_size):
    arrays = [Counted(a) for a in (*data(), *data(1, n=32))]
    x, y, *held_out = arrays
    history = network().fit(x, y, batch_size, epochs=2, verbose=0, validation_data=tuple(held_out))
    assert counts == {"read": 2, "aligned": 2, "built": 1}
    assert [a.reads for a in arrays] == [1, 1, 1, 1]
    if batch_size == "auto":
        assert history.plan is not None
        assert history.plan.measurements.validated == 32


def test_a_stream_s_batches_are_prepared_once_each(counts):
    x, y = data()
    arrays = [(Counted(x[i : i + 16]), Counted(y[i : i + 16])) for i in range(0, N, 16)]
    network().fit(iter(arrays), epochs=1, verbose=0, class_weight=WEIGHTS)
    assert counts == {"read": 6, "aligned": 6, "weighted": 6, "built": 1}
    assert [array.reads for batch in arrays for array in batch] == [1] * 12


def test_a_creator_is_asked_once(counts):
    asked: list[Any] = []
    x, y = data()

    def create(context: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        asked.append(context)
        return iter([(x[:16], y[:16]), (x[16:32], y[16:32])])

    network().fit(keras.utils.DatasetCreator(create), verbose=0, validation_data=data(1))
    assert len(asked) == 1
    assert counts == {"read": 3, "aligned": 3, "built": 1}


@pytest.mark.parametrize("method", ["evaluate", "predict"])
def test_what_evaluate_and_predict_take_is_prepared_once(counts, method):
    model = network()
    model.fit(*data(), verbose=0)
    counts.clear()
    x, y = map(Counted, data(1))
    if method == "evaluate":
        model.evaluate(x, y, 16, verbose=0)
    else:
        model.predict(x, 16, verbose=0)
    assert x.reads == 1
    assert counts["read"] == 1
    assert counts["built"] == 0


def test_examples_on_disk_are_weighted_as_they_are_read_and_for_the_plan_once(counts, tmp_path):
    x, y = data()
    for name, array in (("x", x), ("y", y)):
        np.save(tmp_path / name, array)
    x_disk, y_disk = (np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("x", "y"))
    history = network().fit(x_disk, y_disk, "auto", verbose=0, class_weight=WEIGHTS)
    assert history.plan is not None
    assert counts["read"] == counts["aligned"] == counts["built"] == 1
    assert counts["weighted"] == 2  # for the plan, and where the epoch's rows are read: together, as they are few


@pytest.mark.parametrize("batch_size", ["auto", 16])
def test_nothing_is_remembered_of_the_data(batch_size):
    model = network()
    arrays = [*data(), np.ones(N, np.float32), *data(1)]
    dying = [weakref.ref(a) for a in arrays]
    x, y, weight, *held_out = arrays
    given = {"sample_weight": weight, "class_weight": WEIGHTS, "validation_data": tuple(held_out)}
    history = model.fit(x, y, batch_size, verbose=0, **given)
    del x, y, weight, held_out, arrays, given
    gc.collect()
    assert [ref() is None for ref in dying] == [True] * 5
    assert len(history.epoch) == 1


def test_a_second_fit_sees_its_own_data_and_plans_anew():
    model, other = network(), network()
    other.build((None, 4))
    first, second = data(), data(1, n=64)
    one = model.fit(*first, "auto", verbose=0)
    other.set_weights(model.get_weights())
    model.optimizer.learning_rate = other.optimizer.learning_rate = 0.0  # so that both are the same still
    two = model.fit(*second, "auto", verbose=0, validation_split=0.25)
    assert one.plan is not None
    assert two.plan is not None
    assert one.plan.measurements.n == 96
    assert two.plan.measurements.n == 48
    expected = other.fit(second[0][:48], second[1][:48], 16, verbose=0).history["loss"]
    assert two.history["loss"] == pytest.approx(expected, rel=1e-6)


def test_a_plan_leaves_an_array_like_s_data_alone():
    x, y = map(Counted, data())
    plan = keras.plan_batch_size(network(), x, y, class_weight=WEIGHTS, max_seconds=1000)
    assert plan.measurements.n == N
    assert [x.reads, y.reads] == [1, 1]


# -- how that is arranged


def test_arguments_are_those_of_fit_with_the_same_defaults():
    taken = list(inspect.signature(keras.Model.fit).parameters.values())[1:]
    assert [(p.name, p.default) for p in taken] == [(f.name, f.default) for f in fields(FitArguments)]


def test_nothing_that_compile_did_not_get_is_left_by_it():
    model = network()
    training: Training = model._training
    before = training.ready_to("fit")
    model.run_eagerly = True
    assert model.run_eagerly
    assert not before.eager  # a value: whoever holds it is not surprised
    model.compile("sgd", "mse")
    assert not model.run_eagerly
    assert training.ready_to("fit").optimizer is model.optimizer


def test_at_most_three_frames_of_ours_lead_to_the_loop(monkeypatch):
    from epochal.engine import loop

    frames: list[str] = []
    real: Callable[..., Any] = loop.train

    def noted(*arguments: Any) -> Any:
        stack = [frame for frame in inspect.stack(context=0)[1:] if "epochal" in frame.frame.f_globals["__name__"]]
        frames.extend(frame.function for frame in stack)
        return real(*arguments)

    monkeypatch.setattr(loop, "train", noted)
    network().fit(*data(), verbose=0)
    assert frames == ["fit", "fit"]  # `Model.fit` and `fitting.fit`

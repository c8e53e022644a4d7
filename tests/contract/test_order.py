"""Sections E.6 and E.7 (data) of the training contract: every batch is fetched once, and the order."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import keras as theirs
import numpy as np
import pytest
from support.data import diabetes
from support.feeds import Listed, M, N, Plain, batches, errors, still
from support.kinds import Loader, Slices, TheirSequence, oracle

import epochal as keras
from epochal import layers

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
        oracle().fit((batch for batch in batches(x, y[:, None])), steps_per_epoch=1, verbose=0)


@pytest.mark.parametrize("value", ["rows", None, 2, 0.5])
def test_E7_values_of_shuffle_that_are_none(value: Any) -> None:
    with pytest.raises(ValueError, match='True, False or "batch"'):
        still().fit(*diabetes(N), shuffle=value, verbose=0)

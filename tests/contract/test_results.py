"""Sections H.1 to H.6 (results) of the training contract.

More of it in engine/test_programs.py, models/test_model.py and layers/test_recurrent_models.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import keras as theirs
import matplotlib as mpl
import numpy as np
import pytest
from support.data import diabetes
from support.feeds import M, N, Plain, batches, line, still

import epochal as keras
from epochal import layers

mpl.use("Agg")
X, Y = diabetes(N)
ITEMS = batches(X, Y)  # 6 batches, the last one short


# -- H1, H2 what comes back


def test_H1_fit_returns_a_new_history_of_floats() -> None:
    model = still()
    history = model.fit(X, Y, batch_size=M, epochs=2, validation_split=0.3, verbose=0)
    assert model.history is history
    assert isinstance(history, keras.callbacks.History)
    assert list(history.history) == ["loss", "val_loss"]
    assert all(type(value) is float for values in history.history.values() for value in values)
    assert (history.epoch, history.params["epochs"], history.params["batch_size"]) == ([0, 1], 2, M)
    assert history.plot() is not None
    other = model.fit(X, Y, verbose=0)
    assert model.history is other
    assert other is not history
    assert len(history.history["loss"]) == 2


def test_H2_evaluate_is_a_number_a_list_or_a_dict() -> None:
    loss = still().evaluate(X, Y, verbose=0)
    assert type(loss) is float
    assert still().evaluate(X, Y, verbose=0, return_dict=True) == {"loss": loss}
    model = line(metrics=["mae", "mse"], weighted_metrics=["mae"])
    values = model.evaluate(X, Y, verbose=0)
    assert isinstance(values, list)
    assert model.metrics_names == ["loss", "mae", "mse", "weighted_mae"]
    assert model.evaluate(X, Y, verbose=0, return_dict=True) == dict(zip(model.metrics_names, values, strict=True))


class Several(keras.Model):
    """Returns what it is told to, of twice the input."""

    def __init__(self, form: Callable[[Any, Any], Any]):
        super().__init__()
        self.form = form

    def call(self, x: Any) -> Any:
        return self.form(2 * x, 3 * x[:, :1])


@pytest.mark.parametrize(
    "form",
    [
        lambda a, b: (a, b),
        lambda a, b: [a, b],
        lambda a, b: {"a": a, "b": b},
        lambda a, b: {"a": [a], "b": (b, b)},
    ],
)
def test_H2_predict_has_the_structure_of_the_outputs(form: Callable[[Any, Any], Any]) -> None:
    model = Several(form)
    expected = form(2 * X, 3 * X[:, :1])
    for data in (X, Plain([(x,) for x, _ in ITEMS])):
        found = model.predict(data, **({"batch_size": M} if data is X else {}), verbose=0)
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert type(a) is np.ndarray
            assert a.flags.writeable
            np.testing.assert_allclose(a, b, rtol=1e-6)


class Watching:
    """Batches that note how many bytes of arrays JAX holds when each is asked for."""

    def __init__(self, base: type):
        class Watched(base):  # pyright: ignore
            def __len__(self) -> int:
                return 12

            def __getitem__(watched, i: int) -> Any:
                self.bytes.append(sum(a.nbytes for a in jax.live_arrays()))
                return (X[:8],)

            def on_epoch_end(self) -> None:
                pass

        self.bytes: list[int] = []
        self.data = Watched()


def wide(k: Any) -> Any:
    """320 kB of outputs per batch of 8."""
    return k.Sequential([k.layers.Input((10,)), k.layers.Dense(10_000)])


def test_H2_results_leave_the_device_batch_by_batch() -> None:
    watching = Watching(keras.utils.PyDataset)
    assert wide(keras).predict(watching.data, verbose=0).shape == (96, 10_000)
    assert max(watching.bytes) - watching.bytes[0] <= 3 * 320_000 + 10_000


def test_H2_keras_keeps_them_there() -> None:
    watching = Watching(theirs.utils.PyDataset)
    wide(theirs).predict(watching.data, verbose=0)
    assert max(watching.bytes) - watching.bytes[0] > 9 * 320_000


# -- H4, H5


def test_H4_batch_size_changes_nothing_in_predict() -> None:
    model = still()
    whole = model.predict(X, batch_size="full", verbose=0)
    for size in (1, 7, 32, 100, None):
        np.testing.assert_allclose(model.predict(X, batch_size=size, verbose=0), whole, rtol=1e-6, atol=1e-6)
    for size in (1, 7):
        found = model.predict(iter(batches(X, size=size)), verbose=0)
        np.testing.assert_allclose(found, whole, rtol=1e-6, atol=1e-6)


METHODS = ("fit", "evaluate", "train_on_batch", "test_on_batch")


@pytest.mark.parametrize("method", METHODS)
def test_H5_never_compiled_is_a_runtime_error(method: str) -> None:
    model = keras.Sequential([layers.Dense(1, input_shape=(10,))])
    with pytest.raises(RuntimeError, match=rf"compile\(.*before {method}\(\)"):
        getattr(model, method)(X, Y)
    assert model.predict(X, verbose=0).shape == (N, 1)
    assert model.predict_on_batch(X).shape == (N, 1)


@pytest.mark.parametrize("method", [*METHODS, "predict", "predict_on_batch"])
@pytest.mark.parametrize("transform", [jax.jit, lambda f: jax.jit(jax.grad(f))])
def test_H5_called_while_jax_is_tracing_is_a_runtime_error(method: str, transform: Any) -> None:
    model = still()

    def inside(a: Any) -> Any:
        getattr(model, method)(X, *([] if method.startswith("predict") else [Y]))
        return a

    with pytest.raises(RuntimeError, match="while JAX is tracing"):
        transform(inside)(1.0)


# -- H6 stateful models


@functools.cache
def stateful(known: bool) -> Any:
    """Two recurrent layers in a row; of how many examples a batch is, they know beforehand or learn from the data."""
    first = layers.Input(batch_shape=(4 if known else None, 3, 2))
    middle = [layers.GRU(2, stateful=True, return_sequences=True), layers.LSTM(2, stateful=True)]
    model = keras.Sequential([first, *middle, layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    return model


SEQUENCES = np.random.default_rng(0).normal(size=(12, 3, 2)).astype(np.float32)


@pytest.mark.parametrize("known", [True, False])
def test_H6_a_stateful_model_takes_whole_batches_only(known: bool) -> None:
    model, y = stateful(known), np.ones(12, np.float32)
    if known:
        with pytest.raises(ValueError, match="expects batches of 4 examples; got 6"):
            model.fit(SEQUENCES, y, batch_size=6, verbose=0)
    model.fit(SEQUENCES, y, batch_size=4, verbose=0)
    before = model.predict(SEQUENCES[:4], batch_size=4, verbose=0)
    for call in (
        lambda: model.fit(SEQUENCES[:10], y[:10], batch_size=4, verbose=0),
        lambda: model.fit(SEQUENCES[:8], y[:8], batch_size=4, validation_data=(SEQUENCES[:6], y[:6]), verbose=0),
        lambda: model.fit(SEQUENCES, y, batch_size=4, validation_split=0.4, verbose=0),
        lambda: model.evaluate(SEQUENCES[:10], y[:10], batch_size=4, verbose=0),
        lambda: model.predict(SEQUENCES[:10], batch_size=4, verbose=0),
    ):
        with pytest.raises(ValueError, match=r"batch_size=4 divides, got \d+"):
            call()
    for call in (
        lambda: model.predict(SEQUENCES[:3], batch_size=3, verbose=0),
        lambda: model.predict(iter([(SEQUENCES[:4],), (SEQUENCES[:3],)]), verbose=0),
        lambda: model.fit(iter([(SEQUENCES[:3], y[:3])]), verbose=0),
        lambda: model.train_on_batch(SEQUENCES[:3], y[:3]),
    ):
        with pytest.raises(ValueError, match=r"stateful and expects batches of 4 examples; got 3"):
            call()
    model.reset_states()
    first = model.predict(SEQUENCES[:4], batch_size=4, verbose=0)
    assert not np.allclose(first, model.predict(SEQUENCES[:4], batch_size=4, verbose=0))
    model.reset_states()
    np.testing.assert_array_equal(model.predict(SEQUENCES[:4], batch_size=4, verbose=0), first)
    assert not np.array_equal(first, before)

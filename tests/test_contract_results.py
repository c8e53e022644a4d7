"""Section H (results) of the training contract; more of it in test_machine.py, test_model.py and test_recurrent.py."""

from __future__ import annotations

import functools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import keras as theirs
import matplotlib as mpl
import numpy as np
import pytest
from data import diabetes
from feeds import Listed, M, N, Plain, batches, errors, forever, line, still

import epochal as keras
from epochal import layers
from epochal.engine.runners import TrainRunner

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


# -- H7 after any exception the model holds its last complete step's weights


BATCHES = 6
START = line().get_weights()


@functools.cache
def moving() -> Any:
    """A model that training does change, compiled once for all."""
    return line(optimizer=keras.optimizers.SGD(0.05))


BEGUN: list[int] = []


def restarted() -> Any:
    reference()
    model = moving()
    model.set_weights(START)
    BEGUN[:] = [model.optimizer.iterations]
    return model


def steps_of(model: Any) -> int:
    """Updates since the restart."""
    return model.optimizer.iterations - BEGUN[0]


@functools.cache
def reference() -> list[list[np.ndarray]]:
    """The weights after 0, 1, 2, … steps of an uninterrupted run."""
    model = moving()
    model.set_weights(START)
    found = [model.get_weights()]
    watch = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: found.append(model.get_weights()))
    model.fit(X, Y, batch_size=M, epochs=4, shuffle=False, verbose=0, callbacks=watch)
    return found


def stands_at(model: Any, steps: int) -> bool:
    """Whether the model and its optimizer are as after so many steps, and can go on."""
    whole = all(np.array_equal(a, b) for a, b in zip(model.get_weights(), reference()[steps], strict=True))
    counted = steps_of(model) == steps
    goes_on = bool(np.isfinite(model.evaluate(X, Y, verbose=0)))
    model.fit(X, Y, batch_size=M, verbose=0)
    return whole and counted and goes_on and steps_of(model) == steps + BATCHES


class Broken(Exception):
    pass


def breaking(hook: str, act: Callable[[], None], at: int | None) -> keras.callbacks.Callback:
    def broken(*arguments: Any) -> None:
        if at in (None, arguments[0]):
            act()

    callback = keras.callbacks.Callback()
    setattr(callback, hook, broken)
    return callback


HOOKS = {
    # hook, its epoch or batch -> steps that were complete
    ("on_train_begin", None): 0,
    ("on_epoch_begin", 0): 0,
    ("on_epoch_begin", 2): 12,
    ("on_train_batch_begin", 0): 0,
    ("on_train_batch_begin", 4): 4,
    ("on_train_batch_end", 0): 1,
    ("on_train_batch_end", 5): 6,
    ("on_test_begin", None): 6,
    ("on_test_batch_begin", 1): 6,
    ("on_test_batch_end", 0): 6,
    ("on_test_end", None): 6,
    ("on_epoch_end", 0): 6,
    ("on_epoch_end", 2): 18,
    ("on_train_end", None): 18,
}
FIT: dict[str, Any] = {"x": X, "y": Y, "batch_size": M, "epochs": 3, "shuffle": False, "verbose": 0}
FIT["validation_data"] = (X, Y)


@pytest.mark.parametrize(("hook", "at"), HOOKS)
def test_H7_an_exception_in_any_hook(hook: str, at: int | None) -> None:
    def fail() -> None:
        raise Broken("disk")

    model = restarted()
    with pytest.raises(Broken, match="disk"):
        model.fit(**FIT, callbacks=[breaking(hook, fail, at)])
    assert stands_at(model, HOOKS[hook, at])


@pytest.mark.parametrize("form", ["generator", "dataset", "sequence", "threads"])
@pytest.mark.parametrize("observed", [True, False])
def test_H7_an_exception_in_the_data(form: str, observed: bool) -> None:
    def items() -> Iterator[Any]:
        yield from ITEMS[:4]
        raise Broken("disk")

    class Set:
        def __iter__(self) -> Iterator[Any]:
            return items()

    class Sequence(Listed):
        def __getitem__(self, i: int) -> Any:
            if i == 4:
                raise Broken("disk")
            return super().__getitem__(i)

    make = {"generator": items, "dataset": Set, "sequence": lambda: Sequence(ITEMS)}
    data = Sequence(ITEMS, workers=2) if form == "threads" else make[form]()
    model, ends = restarted(), []
    watch = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: ends.append(batch))
    with pytest.raises(Broken, match="disk"):
        model.fit(data, shuffle=False, verbose=0, callbacks=[watch] if observed else [])
    assert len(ends) == (4 if observed else 0)
    assert 4 >= steps_of(model) >= len(ends)
    assert stands_at(model, steps_of(model))


def test_H7_an_exception_in_validation_data_and_in_the_middle_of_evaluate_and_predict() -> None:
    def items() -> Iterator[Any]:
        yield from ITEMS[:2]
        raise Broken("disk")

    model = restarted()
    with pytest.raises(Broken):
        model.fit(**{**FIT, "validation_data": items()})
    with pytest.raises(Broken):
        model.evaluate(items(), verbose=0)
    with pytest.raises(Broken):
        model.predict(items(), verbose=0)
    assert stands_at(model, BATCHES)


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(("hook", "at"), HOOKS)
def test_H7_ctrl_c_in_any_hook(hook: str, at: int | None) -> None:
    """The hook comes to its end, and what Python did on Ctrl-C before is what it does again."""
    ended: list[bool] = []

    def pressed() -> None:
        press()
        ended.append(True)

    model, handler = restarted(), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        model.fit(**FIT, callbacks=[breaking(hook, pressed, at)])
    assert ended == [True]
    assert signal.getsignal(signal.SIGINT) is handler
    assert stands_at(model, HOOKS[hook, at])


def test_H7_ctrl_c_in_mid_epoch_while_nobody_looks() -> None:
    """From another thread, at any moment: the weights are those of an uninterrupted run of as many steps."""
    x, y = np.tile(X, (200, 1)), np.tile(Y, 200)
    restarted().fit(x, y, batch_size=M, verbose=0)  # compiled
    model, timer = restarted(), threading.Timer(0.2, press)
    start = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: timer.start())
    keras.utils.set_random_seed(1)
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, batch_size=M, steps_per_epoch=-1, verbose=0, callbacks=start)
    timer.join()
    steps, weights = steps_of(model), model.get_weights()
    assert steps > 0
    again = restarted()
    keras.utils.set_random_seed(1)
    again.fit(x, y, batch_size=M, steps_per_epoch=steps, verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(weights, again.get_weights(), strict=True))


@pytest.mark.parametrize("method", ["fit", "evaluate", "predict", "validation", "second epoch"])
def test_H7_ctrl_c_is_heard_at_once_while_data_is_waited_for(method: str) -> None:
    gave_up = threading.Event()

    def slow() -> Iterator[Any]:
        yield ITEMS[0]
        timer = threading.Timer(0.05, press)
        timer.start()
        threading.Event().wait(60)
        gave_up.set()
        yield ITEMS[1]

    model = restarted()
    calls = {
        "fit": lambda: model.fit(slow(), verbose=0),
        "evaluate": lambda: model.evaluate(slow(), verbose=0),
        "predict": lambda: model.predict(slow(), verbose=0),
        "validation": lambda: model.fit(**{**FIT, "validation_data": slow()}),
        "second epoch": lambda: model.fit(slow(), steps_per_epoch=1, epochs=2, verbose=0),
    }
    with pytest.raises(KeyboardInterrupt):
        calls[method]()
    assert not gave_up.is_set()
    done = {"fit": 0, "validation": BATCHES, "second epoch": 1}.get(method, 0)
    assert stands_at(model, done)


def test_H7_ctrl_c_pressed_twice_ends_a_hook_at_once() -> None:
    reached = []

    def pressed() -> None:
        press()
        reached.append(1)
        press()
        reached.append(2)

    model = restarted()
    with pytest.raises(KeyboardInterrupt):
        model.fit(**FIT, callbacks=[breaking("on_train_batch_end", pressed, 2)])
    assert reached == [1]
    assert stands_at(model, 3)


def test_H7_ctrl_c_pressed_twice_between_a_step_and_its_weights_waits_for_them(monkeypatch: Any) -> None:
    keep, calls = TrainRunner._keep, []

    def pressed(self: Any, state: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            press()
            press()
        keep(self, state)

    model = restarted()
    model.fit(X[:M], Y[:M], batch_size=M, verbose=0)  # compiled and proven
    model = restarted()
    monkeypatch.setattr(TrainRunner, "_keep", pressed)
    with pytest.raises(KeyboardInterrupt):
        model.fit(**FIT, callbacks=[breaking("on_train_batch_end", lambda: None, None)])
    monkeypatch.undo()
    assert stands_at(model, 3)


def test_H7_ctrl_c_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        history = restarted().fit(**FIT, callbacks=[breaking("on_train_batch_end", press, 2)])
    finally:
        signal.signal(signal.SIGINT, before)
    assert history.epoch == [0, 1, 2]


def huge(y_pred: Any) -> Any:
    """A number that takes 2**62 bytes to compute."""
    numbers = jax.lax.broadcasted_iota(jnp.float32, (2**30, 2**30), 1) * jax.lax.stop_gradient(y_pred[0, 0])
    return jnp.sort(jnp.sin(numbers), axis=1).sum()


def test_H7_a_batch_too_large_for_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EPOCHAL_MEMORY_LIMIT", "9000000 TB")  # so that it is tried
    results = []
    for k in (keras, theirs):

        def loss(y_true: Any, y_pred: Any) -> Any:
            found = jnp.mean((y_true - y_pred) ** 2)
            return found + huge(y_pred) if y_pred.shape[0] == 40 else found

        y = Y[:, None]
        model = line(k, loss=loss, optimizer=k.optimizers.Adam(0.01))
        model.fit(X[:20], y[:20], batch_size=10, verbose=0)
        before = model.get_weights()
        with pytest.raises((MemoryError, jax.errors.JaxRuntimeError), match="Out of memory"):
            model.fit(X[:40], y[:40], batch_size=40, verbose=0)
        try:
            whole = all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before, strict=True))
            model.fit(X[:20], y[:20], batch_size=10, verbose=0)
        except TypeError:
            whole = False
        results.append(whole)
    assert model is not None
    assert results == [True, False]  # Keras's model is lost


@pytest.mark.parametrize("eager", [False, True])
def test_H7_an_exception_in_python_that_a_step_calls(eager: bool) -> None:
    calls: list[int] = []
    last: list[int] = []

    def look(value: Any) -> Any:
        calls.append(1)
        if len(calls) in last:
            raise Broken("in the loss")
        return np.float32(0)

    def loss(y_true: Any, y_pred: Any) -> Any:
        found = jnp.mean((y_true - y_pred) ** 2)
        if eager:
            return found + look(found)
        return found + jax.pure_callback(look, jax.ShapeDtypeStruct((), np.float32), jax.lax.stop_gradient(found))

    model = line(loss=loss, optimizer=keras.optimizers.SGD(0.05), run_eagerly=eager)
    fit = {"x": X[: 5 * M], "y": Y[: 5 * M, None], "batch_size": M, "shuffle": False, "verbose": 0}
    model.fit(**fit)
    calls.clear()
    model.fit(**fit)
    per_fit = len(calls)
    before = model.optimizer.iterations
    model.set_weights(START)
    calls.clear()
    last.append(per_fit)  # the last call of the last step
    with pytest.raises((Broken, jax.errors.JaxRuntimeError), match="in the loss"):
        model.fit(**fit)
    last.clear()
    assert model.optimizer.iterations - before == 4
    for a, b in zip(model.get_weights(), reference()[4], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    model.fit(**fit)


def test_H7_an_exception_leaves_nothing_running() -> None:
    threads = threading.active_count()
    for workers in (0, 3):
        model = restarted()
        with pytest.raises(Broken):
            model.fit(
                Listed(ITEMS, workers=workers),
                verbose=0,
                callbacks=[breaking("on_train_batch_end", lambda: _raise(Broken()), 2)],
            )
    assert threading.active_count() == threads
    assert next(forever(ITEMS)) is ITEMS[0]
    assert errors(restarted(), X, Y).shape == (N,)


def _raise(error: Exception) -> None:
    raise error

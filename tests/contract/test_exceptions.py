"""Section H.7 of the training contract: after any exception the model holds its last complete step's weights."""

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
import numpy as np
import pytest
from support.data import diabetes
from support.feeds import Listed, M, N, batches, errors, forever, line
from support.same import same

import epochal as keras
from epochal.engine.state import TrainedArrays

X, Y = diabetes(N)
ITEMS = batches(X, Y)  # 6 batches, the last one short

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
    whole = same(model.get_weights(), reference()[steps])
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
    assert same(weights, again.get_weights())


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
    write, calls = TrainedArrays.write, []

    def pressed(self: Any, state: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            press()
            press()
        write(self, state)

    model = restarted()
    model.fit(X[:M], Y[:M], batch_size=M, verbose=0)  # compiled and proven
    model = restarted()
    monkeypatch.setattr(TrainedArrays, "write", pressed)
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
            whole = same(model.get_weights(), before)
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

"""Section I (callbacks) of the training contract: hooks, logs, flags. Single callbacks: callbacks/test_callbacks.py."""

from __future__ import annotations

import functools
import inspect
import itertools
import math
from collections.abc import Callable
from typing import Any

import keras as theirs
import numpy as np
import pytest
from support.data import digits

import epochal as keras
from epochal.display.progress import Display

layers, callbacks = keras.layers, keras.callbacks
X, Y = digits(64)
HOOKS = [
    name
    for name in vars(callbacks.Callback)
    if name.startswith("on_") and name not in ("on_batch_begin", "on_batch_end")
]


def classifier(k: Any = keras, **arguments: Any) -> Any:
    model = k.Sequential([k.layers.Input((64,)), k.layers.Dense(10, activation="softmax")])
    loss = "sparse_categorical_crossentropy"
    model.compile(**{"optimizer": "sgd", "loss": loss, "metrics": ["accuracy"], **arguments})
    return model


@functools.cache
def shared(k: Any, steps_per_execution: int = 1) -> Any:
    """One model for the tests that do not look at its weights: compiled once."""
    return classifier(k, steps_per_execution=steps_per_execution)


@functools.cache
def still() -> Any:
    """A model that training does not change."""
    return classifier(optimizer=keras.optimizers.SGD(0.0))


class Hooks:
    """Makes a callback of either library from one function of (hook, arguments)."""

    def __init__(self, tell: Callable[..., Any]):
        self.tell = tell

    def of(self, k: Any) -> Any:
        callback = k.callbacks.Callback()
        for name in HOOKS:
            setattr(callback, name, functools.partial(self.tell, callback, name.removeprefix("on_")))
        return callback


def recorded(k: Any, run: Callable[[Any], Any], act: Callable[..., None] = lambda *_: None) -> list[Any]:
    """Every hook that `run` calls, with its index and the names in its logs; `act` does something there."""
    seen: list[Any] = []

    def note(callback: Any, hook: str, *index: int, logs: Any = None) -> None:
        *index, logs = (*index, logs) if logs is not None else index
        shapes = {name: np.shape(value) for name, value in logs.items()}
        seen.append((hook, *index, shapes))
        act(callback, hook)

    run(Hooks(note).of(k))
    return seen


# -- I.1 hooks and their order


@pytest.mark.parametrize("steps_per_execution", [1, 2])
def test_I1_hooks_of_fit_come_in_keras_order_with_the_same_logs(steps_per_execution: int) -> None:
    def run(k: Any) -> list[Any]:
        model = shared(k, steps_per_execution)
        options = {"batch_size": 16, "epochs": 2, "validation_data": (X[:32], Y[:32]), "verbose": 0}
        return recorded(k, lambda callback: model.fit(X, Y, callbacks=[callback], **options))

    ours = run(keras)
    assert ours == run(theirs)
    assert [entry[0] for entry in ours[:4]] == ["train_begin", "epoch_begin", "train_batch_begin", "train_batch_end"]
    assert [entry[0] for entry in ours[-4:]] == ["test_batch_end", "test_end", "epoch_end", "train_end"]
    assert all(entry[-1] == {} for entry in ours if entry[0].endswith("begin"))


@pytest.mark.parametrize("steps_per_execution", [1, 2])
def test_I1_hooks_of_evaluate_and_predict_come_in_keras_order_with_the_same_logs(steps_per_execution: int) -> None:
    def run(k: Any) -> list[Any]:
        model = shared(k, steps_per_execution)
        tested = recorded(k, lambda c: model.evaluate(X, Y, batch_size=16, verbose=0, callbacks=[c]))
        return tested + recorded(k, lambda c: model.predict(X, batch_size=16, verbose=0, callbacks=[c]))

    ours = run(keras)
    assert ours == run(theirs)
    batches = ["batch_begin", "batch_end"] * (4 // steps_per_execution)
    assert [entry[0] for entry in ours] == [
        f"{kind}_{name}" for kind in ("test", "predict") for name in ("begin", *batches, "end")
    ]
    assert ours[-2] == ("predict_batch_end", 3, {"outputs": (16 * steps_per_execution, 10)})


@pytest.mark.parametrize("steps_per_execution", [1, 2])
def test_I1_batch_hooks_of_predict_get_what_predict_returns(steps_per_execution: int) -> None:
    parts: list[np.ndarray] = []
    ends: list[int] = []
    watch = callbacks.LambdaCallback(
        on_predict_batch_end=lambda batch, logs: (parts.append(logs["outputs"]), ends.append(batch))
    )
    predictions = shared(keras, steps_per_execution).predict(X[:42], batch_size=16, verbose=0, callbacks=watch)
    np.testing.assert_array_equal(np.concatenate(parts), predictions)
    assert ends == ([0, 1, 2] if steps_per_execution == 1 else [1, 2])


def test_I1_train_end_gets_the_last_epochs_logs_and_test_end_what_evaluate_returns() -> None:
    seen: dict[str, Any] = {}
    watch = callbacks.LambdaCallback(
        on_train_end=lambda logs: seen.update(train=logs), on_test_end=lambda logs: seen.update(test=logs)
    )
    model = shared(keras)
    history = model.fit(X, Y, epochs=2, validation_data=(X, Y), verbose=0, callbacks=watch)
    assert seen["train"] == {name: values[-1] for name, values in history.history.items()}
    assert seen["test"] == {"loss": seen["train"]["val_loss"], "accuracy": seen["train"]["val_accuracy"]}
    assert seen["test"] == model.evaluate(X, Y, verbose=0, return_dict=True)


def test_I1_batch_logs_are_running_values_and_the_last_are_the_epochs() -> None:
    seen: list[dict[str, float]] = []
    watch = callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(dict(logs)))
    history = still().fit(X[:40], Y[:40], batch_size=16, shuffle=False, verbose=0, callbacks=watch)
    expected = [still().evaluate(X[:n], Y[:n], verbose=0, return_dict=True) for n in (16, 32, 40)]
    for running, value in zip(seen, expected, strict=True):
        assert running == pytest.approx(value, rel=1e-6)
    assert seen[-1] == {name: values[0] for name, values in history.history.items()}


def test_I1_no_epoch_no_hooks_but_those_of_train() -> None:
    seen = recorded(keras, lambda c: shared(keras).fit(X, Y, epochs=2, initial_epoch=2, verbose=0, callbacks=c))
    assert seen == [("train_begin", {}), ("train_end", {})]


def test_A3_batch_hooks_fire_once_per_execution_with_the_last_batch_of_it() -> None:
    """5 batches, 2 per execution: ends 1, 3, 4. Keras says 1, 3, 5, a batch that there is not."""

    def run(k: Any) -> list[Any]:
        x, y = np.concatenate([X, X[:16]]), np.concatenate([Y, Y[:16]])
        seen = recorded(k, lambda c: shared(k, 2).fit(x, y, batch_size=16, verbose=0, callbacks=[c]))
        return [entry[1] for entry in seen if entry[0].startswith("train_batch")]

    assert run(keras) == [0, 1, 2, 3, 4, 4]
    assert run(theirs) == [0, 1, 2, 3, 4, 5]


# -- I.2 logs and the order of callbacks


def test_I2_the_epochs_logs_are_one_dict_for_all_callbacks_and_reach_the_history() -> None:
    seen: list[Any] = []

    class Adds(callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            logs["extra"] = epoch * 2.0
            del logs["accuracy"]
            seen.append(logs)

    later = callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(logs))
    history = shared(keras).fit(X, Y, epochs=2, verbose=0, callbacks=[Adds(), later])
    assert [a is b for a, b in zip(seen[::2], seen[1::2], strict=True)] == [True, True]
    assert seen[0] is not seen[2]
    assert history.history["extra"] == [0.0, 2.0]
    assert list(history.history) == ["loss", "extra"]


def test_I2_user_callbacks_come_in_their_order_then_history_then_the_display(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    class Notes(callbacks.Callback):
        def __init__(self, name: str):
            self.name = name

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            seen.append(self.name)
            assert self.model.history.epoch == []

    class Screen(Display):
        def epoch_end(self, epoch: int, logs: Any) -> None:
            seen.append("display")
            assert model.history.epoch == [0]

    model = shared(keras)
    monkeypatch.setattr("epochal.models.fitting.display_for", lambda verbose: Screen())
    nested = [Notes("a"), (Notes("b"), [Notes("c")]), callbacks.CallbackList([Notes("d")]), []]
    model.fit(X, Y, callbacks=nested)
    assert seen == ["a", "b", "c", "d", "display"]
    model.fit(X, Y, callbacks=Notes("one"))
    assert seen[5:] == ["one", "display"]


def test_I2_keras_takes_no_nested_lists() -> None:
    """It flattens them, but looks for hooks before."""
    with pytest.raises(AttributeError, match="on_batch_end"):
        shared(theirs).fit(X, Y, verbose=0, callbacks=[[theirs.callbacks.Callback()]])


def test_I2_what_is_no_callback_is_an_error_before_training() -> None:
    model = classifier()
    for wrong, hint in ((callbacks.History, r"add \(\)"), (print, "print"), ([[None, 3]], "3")):
        with pytest.raises(TypeError, match=f"Expected callbacks.*{hint}"):
            model.fit(X, Y, verbose=0, callbacks=wrong)
    assert model.optimizer.iterations == 0


# -- I.3 params, the model and its weights


def test_I3_params_and_model_are_set() -> None:
    seen: dict[str, Any] = {}

    class Look(callbacks.Callback):
        def on_train_begin(self, logs: Any = None) -> None:
            seen.update(self.params, model=self.model)

        on_test_begin = on_predict_begin = on_train_begin

    model = shared(keras)
    model.fit(X, Y, batch_size=16, epochs=2, verbose=0, callbacks=Look())
    assert seen == {"verbose": 0, "epochs": 2, "steps": 4, "batch_size": 16, "model": model}
    model.evaluate(X, Y, batch_size=8, verbose=0, callbacks=Look())
    assert seen == {"verbose": 0, "epochs": 1, "steps": 8, "batch_size": 8, "model": model}
    model.predict(X, batch_size=4, verbose=0, callbacks=Look())
    assert seen == {"verbose": 0, "epochs": 1, "steps": 16, "batch_size": 4, "model": model}
    model.fit(iter([(X, Y)]), verbose=0, callbacks=Look())
    assert seen == {"verbose": 0, "epochs": 1, "steps": None, "batch_size": None, "model": model}


TRAIN_HOOKS = [
    *("train_begin", "epoch_begin", "train_batch_begin", "train_batch_end"),
    *("test_begin", "test_batch_begin", "test_batch_end", "test_end", "epoch_end"),
]


@pytest.mark.parametrize("hook", TRAIN_HOOKS)
def test_I3_weights_set_in_a_hook_take_effect(hook: str) -> None:
    """A model whose weights are all zero has the loss log(10), whatever the data."""
    model = still()
    model.set_weights([np.full(w.shape, 0.1 + i) * np.arange(w.shape[-1]) for i, w in enumerate(model.get_weights())])

    def act(callback: Any, at: str) -> None:
        if at == hook:
            callback.model.set_weights([0 * w for w in callback.model.get_weights()])

    history = []
    recorded(
        keras,
        lambda c: history.append(model.fit(X, Y, epochs=2, validation_data=(X, Y), verbose=0, callbacks=c).history),
        act,
    )
    assert [history[0][name][1] for name in ("loss", "val_loss")] == pytest.approx([math.log(10)] * 2, rel=1e-6)
    first = history[0]["loss"][0]
    assert first == pytest.approx(math.log(10), rel=1e-6) if hook in TRAIN_HOOKS[:3] else first > 2.4
    assert not any(w.any() for w in model.get_weights())


def test_I3_weights_are_current_at_every_hook_and_a_learning_rate_takes_effect_at_the_next_batch() -> None:
    seen: list[np.ndarray] = []

    def look(callback: Any, hook: str) -> None:
        if hook == "train_batch_end":
            seen.append(callback.model.get_weights()[0])
            callback.model.optimizer.learning_rate = 0.0 if len(seen) == 2 else 0.1

    model = classifier()
    recorded(keras, lambda c: model.fit(X, Y, batch_size=16, verbose=0, callbacks=c), look)
    assert [np.array_equal(a, b) for a, b in itertools.pairwise(seen)] == [False, True, False]
    np.testing.assert_array_equal(seen[-1], model.get_weights()[0])


# -- I.4 flags


@pytest.mark.parametrize("hook", TRAIN_HOOKS)
def test_I4_stop_training_set_in_any_hook_ends_as_in_keras(hook: str) -> None:
    def act(callback: Any, at: str) -> None:
        if at == hook:
            callback.model.stop_training = True

    def run(k: Any) -> list[Any]:
        options = {"batch_size": 16, "epochs": 3, "validation_data": (X[:32], Y[:32]), "verbose": 0}
        return recorded(k, lambda callback: shared(k).fit(X, Y, callbacks=[callback], **options), act)

    ours = run(keras)
    assert ours == run(theirs)
    hooks = [entry[0] for entry in ours]
    assert hooks[-3:] == ["test_end", "epoch_end", "train_end"]  # validation still runs
    assert hooks.count("epoch_end") == 1
    assert hooks.count("train_batch_end") == (1 if hook in TRAIN_HOOKS[:4] else 4)


@pytest.mark.parametrize("hook", ["begin", "batch_begin", "batch_end"])
@pytest.mark.parametrize("kind", ["test", "predict"])
def test_I4_stop_evaluating_and_stop_predicting_end_after_the_batch_as_in_keras(kind: str, hook: str) -> None:
    def act(callback: Any, at: str) -> None:
        if at == f"{kind}_{hook}":
            setattr(callback.model, {"test": "stop_evaluating", "predict": "stop_predicting"}[kind], True)

    def run(k: Any) -> list[Any]:
        model = shared(k)
        if kind == "test":
            return recorded(k, lambda c: model.evaluate(X, Y, batch_size=16, verbose=0, callbacks=[c]), act)
        rows: list[int] = []
        seen = recorded(k, lambda c: rows.append(len(model.predict(X, batch_size=16, verbose=0, callbacks=[c]))), act)
        return [*seen, rows]

    ours = run(keras)
    assert ours == run(theirs)
    assert ours[-1] == [16] if kind == "predict" else ours[-1][0] == "test_end"


def test_I4_a_flag_set_without_any_batch_hook_leaves_one_batch_too() -> None:
    """Training need not run step by step for it."""
    model = classifier()
    stop = callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: setattr(model, "stop_training", True))
    history = model.fit(X, Y, batch_size=4, epochs=3, verbose=0, callbacks=stop)
    assert model.optimizer.iterations == 1
    assert history.epoch == [0]
    assert list(history.history) == ["loss", "accuracy"]
    assert len(model.fit(X, Y, batch_size=4, epochs=2, verbose=0).epoch) == 2  # the flag is gone


# -- I.5 names and signatures


def test_I5_all_callbacks_of_keras_are_here() -> None:
    known = {name for name, item in vars(theirs.callbacks).items() if inspect.isclass(item)}
    assert known - set(callbacks.__all__) <= {"OrbaxCheckpoint"}


# Name of a callback -> arguments that only one of the two has, on purpose.
DIFFERENT = {
    "BackupAndRestore": {"keep"},  # how many checkpoints stay
    "ModelCheckpoint": {"save_state"},  # keep the whole run beside the model
    "ReduceLROnPlateau": {"kwargs"},  # Keras ignores what it does not know
}


@pytest.mark.parametrize("name", [n for n in callbacks.__all__ if n not in ("BatchSizeSchedule", "NoiseScale")])
def test_I5_signatures_are_those_of_keras(name: str) -> None:
    def arguments(k: Any) -> list[tuple[str, Any, Any]]:
        found = inspect.signature(getattr(k.callbacks, name)).parameters.values()
        return [(p.name, p.kind, p.default) for p in found if p.name not in DIFFERENT.get(name, ())]

    assert arguments(keras) == arguments(theirs)


def test_I5_a_list_of_callbacks_calls_all_hooks_of_all_its_callbacks() -> None:
    """What a training loop of one's own uses; the same calls to Keras's list."""

    def run(k: Any) -> tuple[list[Any], list[Any], list[str]]:
        seen: list[Any] = []
        note = Hooks(lambda callback, hook, *arguments, **logs: seen.append((hook, arguments, logs.get("logs"))))
        calls = k.callbacks.CallbackList(
            [note.of(k), note.of(k)],
            add_history=True,
            add_progbar=True,
            model=shared(k),
            epochs=1,
            steps=2,
            verbose=0,
        )
        calls.on_train_begin()
        calls.on_epoch_begin(0)
        for batch in range(2):
            calls.on_train_batch_begin(batch)
            calls.on_train_batch_end(batch, {"loss": 1.0})
        calls.on_test_begin()
        calls.on_test_batch_begin(0)
        calls.on_test_batch_end(0, logs={"loss": 1.0})
        calls.on_test_end({"loss": 1.0})
        calls.on_epoch_end(0, {"loss": 0.5})
        calls.on_train_end({"loss": 0.5})
        calls.on_predict_begin()
        calls.on_predict_batch_begin(0)
        calls.on_predict_batch_end(0, {"outputs": 3.0})
        calls.on_predict_end()
        kinds = [type(callback).__name__ for callback in calls.callbacks]
        history = calls.callbacks[kinds.index("History")]
        flat = [(hook, *arguments, *([logs] if logs is not None else [])) for hook, arguments, logs in seen]
        return flat, [history.epoch, history.history], kinds

    ours = run(keras)
    assert ours == run(theirs)
    assert len(ours[0]) == 2 * 16
    assert ours[1] == [[0], {"loss": [0.5]}]
    assert ours[2][-2:] == ["History", "ProgbarLogger"]


def test_I5_a_progbar_logger_shows_progress_in_a_loop_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    model = shared(keras)
    calls = callbacks.CallbackList(add_progbar=True, model=model, verbose=1, epochs=2, steps=2, batch_size=32)
    calls.on_train_begin()
    for epoch in range(2):
        calls.on_epoch_begin(epoch)
        for batch in range(2):
            calls.on_train_batch_end(batch, {"loss": 1.0})
        calls.on_epoch_end(epoch, {"loss": 0.25 + epoch})
    calls.on_train_end()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" - ")[0] for line in lines] == ["Epoch 1/2", "2/2", "Epoch 2/2", "2/2"]
    assert lines[3].endswith(" examples/s - loss: 1.2500")


def test_I5_a_progbar_logger_in_fit_is_the_display_that_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    class Loud(callbacks.ProgbarLogger):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            print("loud")

    model = shared(keras)
    model.fit(X, Y, verbose=2, callbacks=callbacks.ProgbarLogger())
    model.evaluate(X, Y, verbose=0, callbacks=[callbacks.ProgbarLogger()])
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("2/2 - ")
    model.fit(X, Y, verbose=2, callbacks=Loud())
    assert capsys.readouterr().out == "loud\n"


# -- I.6 an absent value


@pytest.mark.parametrize(
    "callback",
    [
        lambda path: callbacks.EarlyStopping("val_los"),
        lambda path: callbacks.ReduceLROnPlateau("val_los"),
        lambda path: callbacks.ModelCheckpoint(path / "m.keras", "val_los", save_best_only=True),
    ],
)
def test_I6_an_absent_value_is_said_once_with_what_there_is(callback: Any, tmp_path: Any) -> None:
    with pytest.warns(UserWarning, match=r"'val_los'.*loss, accuracy") as warned:
        shared(keras).fit(X, Y, epochs=2, verbose=0, callbacks=callback(tmp_path))
    assert len(warned) == 1


# -- exceptions


def test_I_on_exception_is_told_to_all_callbacks_and_nothing_else_is() -> None:
    def fail(callback: Any, hook: str) -> None:
        if hook == "train_batch_end":
            raise OSError("disk")

    told: list[BaseException] = []
    after = callbacks.LambdaCallback(on_exception=told.append, on_train_end=lambda logs: told.append(ValueError()))
    with pytest.raises(OSError, match="disk") as caught:
        recorded(keras, lambda c: shared(keras).fit(X, Y, verbose=0, callbacks=[after, _without_exception(c)]), fail)
    assert told == [caught.value]


def _without_exception(callback: Any) -> Any:
    del callback.on_exception
    return callback

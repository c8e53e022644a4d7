"""Hooks in their order, and the callbacks that come along."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data import digits

import epochal as keras

layers, callbacks = keras.layers, keras.callbacks
X, Y = digits(64)


def classifier(**arguments: Any) -> keras.Sequential:
    model = keras.Sequential([layers.Dense(10, activation="softmax", input_shape=(64,))])
    model.compile(**{"optimizer": "adam", "loss": "ce", "metrics": ["accuracy"], **arguments})
    return model


class Recorder(callbacks.Callback):
    """Notes every hook, and asks for every batch."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        for name in vars(callbacks.Callback):
            if name.startswith("on_") and name not in ("on_batch_begin", "on_batch_end"):
                setattr(self, name, self._note(name))

    def _note(self, name: str) -> Any:
        def note(*arguments: Any) -> None:
            self.seen.append((name.removeprefix("on_"), *[a for a in arguments if isinstance(a, int)]))

        return note


def test_hooks_of_fit_come_in_keras_order() -> None:
    recorder = Recorder()
    classifier().fit(X[:40], Y[:40], batch_size=16, validation_split=0.2, epochs=1, verbose=0, callbacks=recorder)
    batches = [(f"train_batch_{when}", i) for i in range(2) for when in ("begin", "end")]
    validation = [("test_begin",), ("test_batch_begin", 0), ("test_batch_end", 0), ("test_end",)]
    expected = [("train_begin",), ("epoch_begin", 0), *batches, *validation, ("epoch_end", 0), ("train_end",)]
    assert recorder.seen == expected


def test_hooks_of_evaluate_and_predict() -> None:
    model, recorder = classifier(), Recorder()
    model.evaluate(X[:40], Y[:40], verbose=0, callbacks=[recorder])
    assert [s[0] for s in recorder.seen] == ["test_begin", *["test_batch_begin", "test_batch_end"] * 2, "test_end"]
    recorder.seen.clear()
    model.predict(X[:40], verbose=0, callbacks=[[recorder]])
    names = ["predict_begin", *["predict_batch_begin", "predict_batch_end"] * 2, "predict_end"]
    assert [s[0] for s in recorder.seen] == names


def test_A3_batch_hooks_fire_once_per_execution_with_the_last_batch_of_it() -> None:
    """5 batches, 2 per execution: ends 1, 3, 4. Keras says 1, 3, 5, a batch that there is not."""
    ends, begins = [], []
    watch = callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: begins.append(batch),
        on_train_batch_end=lambda batch, logs: ends.append(batch),
    )
    classifier(steps_per_execution=2).fit(X, Y, batch_size=13, epochs=1, verbose=0, callbacks=watch)
    assert begins == [0, 2, 4]
    assert ends == [1, 3, 4]


def test_batch_logs_are_running_values_and_the_last_are_the_epochs() -> None:
    seen: list[dict[str, float]] = []
    watch = callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(dict(logs)))
    history = classifier().fit(X, Y, batch_size=13, verbose=0, callbacks=watch)
    assert len(seen) == 5
    assert seen[-1] == {name: values[0] for name, values in history.history.items()}
    assert list(seen[0]) == ["loss", "accuracy"]


def test_what_a_callback_adds_to_the_logs_reaches_later_callbacks_and_the_history() -> None:
    class Adds(callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            logs["extra"] = epoch * 2.0

    seen = []
    later = callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(logs["extra"]))
    history = classifier().fit(X, Y, epochs=3, verbose=0, callbacks=[Adds(), later])
    assert history.history["extra"] == [0.0, 2.0, 4.0]
    assert seen == [0.0, 2.0, 4.0]


def test_stop_training_in_a_batch_hook_ends_after_that_batch() -> None:
    recorder = Recorder()

    class Stop(callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch == 1:
                self.model.stop_training = True

    model = classifier()
    history = model.fit(X, Y, batch_size=8, epochs=4, validation_split=0.25, verbose=0, callbacks=[Stop(), recorder])
    assert model.optimizer.iterations == 2
    assert history.epoch == [0]
    assert "val_loss" in history.history
    assert [s[0] for s in recorder.seen][-3:] == ["test_end", "epoch_end", "train_end"]


def test_params_and_model_are_set() -> None:
    seen: dict[str, Any] = {}

    class Look(callbacks.Callback):
        def on_train_begin(self, logs: Any = None) -> None:
            seen.update(self.params, model=self.model)

    model = classifier()
    model.fit(X, Y, batch_size=16, epochs=2, verbose=0, callbacks=Look())
    assert seen == {"verbose": 0, "epochs": 2, "steps": 4, "batch_size": 16, "model": model}


class Fake:
    """A model as far as callbacks that stop need one."""

    def __init__(self) -> None:
        self.stop_training = False
        self.weights: list[Any] = []


def feed(callback: callbacks.Callback, values: list[float], name: str = "val_loss") -> int:
    """Tells a callback one value per epoch until it stops; returns how many it took."""
    callback.set_model(Fake())
    callback.on_train_begin({})
    for epoch, value in enumerate(values):
        callback.on_epoch_end(epoch, {name: value})
        if callback.model.stop_training:
            return epoch + 1
    return len(values)


def test_early_stopping_waits_for_patience() -> None:
    assert feed(callbacks.EarlyStopping(patience=2), [3, 2, 1, 1, 1, 1, 1]) == 5
    assert feed(callbacks.EarlyStopping(patience=3), [1, 2, 2, 0.5, 2, 2, 2]) == 7
    assert feed(callbacks.EarlyStopping(patience=1, min_delta=0.5), [3, 2.8, 2]) == 2
    assert feed(callbacks.EarlyStopping("val_accuracy", patience=1), [0.1, 0.2, 0.2], "val_accuracy") == 3
    assert feed(callbacks.EarlyStopping(patience=2, baseline=0.5), [1, 0.9, 0.8]) == 2
    assert feed(callbacks.EarlyStopping(patience=1, start_from_epoch=3), [1, 2, 3, 4, 5]) == 5


def test_early_stopping_does_not_take_a_first_nan_for_the_best() -> None:
    """With Keras a NaN in the first epoch stays the best for ever."""
    stop = callbacks.EarlyStopping(patience=2)
    assert feed(stop, [math.nan, 3, 2, 1]) == 4
    assert stop.best == 1


@pytest.mark.parametrize("stops", [True, False])
def test_early_stopping_restores_the_best_weights_whether_or_not_it_stopped(stops: bool) -> None:
    stop = callbacks.EarlyStopping("score", patience=1 if stops else 100, mode="max", restore_best_weights=True)
    kept: dict[int, list[np.ndarray]] = {}

    class Score(callbacks.Callback):
        """Epoch 1 is the best."""

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            logs["score"] = [1.0, 2.0, 0.5, 1.5][epoch]
            kept[epoch] = self.model.get_weights()

    model = classifier()
    history = model.fit(X, Y, epochs=4, verbose=0, callbacks=[Score(), stop])
    assert stop.best_epoch == 1
    assert len(history.epoch) == (3 if stops else 4)
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), kept[1], strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(kept[2], kept[1], strict=True))


def test_an_absent_value_is_said_with_what_there_is() -> None:
    with pytest.warns(UserWarning, match=r"'val_los'.*loss, accuracy"):
        classifier().fit(X, Y, epochs=2, verbose=0, callbacks=callbacks.EarlyStopping("val_los"))


def test_terminate_on_nan() -> None:
    model = classifier(optimizer=keras.optimizers.SGD(0.1))
    x = X.copy()
    x[40] = np.nan
    model.fit(x, Y, batch_size=16, epochs=3, shuffle=False, verbose=0, callbacks=callbacks.TerminateOnNaN())
    assert model.optimizer.iterations == 3


def test_reduce_lr_on_plateau() -> None:
    class Model(Fake):
        optimizer = keras.optimizers.SGD(1.0)

    reduce = callbacks.ReduceLROnPlateau(factor=0.5, patience=2, cooldown=1, min_lr=0.3)
    reduce.set_model(Model())
    reduce.on_train_begin({})
    rates = []
    for epoch, value in enumerate([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]):
        logs = {"val_loss": value}
        reduce.on_epoch_end(epoch, logs)
        rates.append(Model.optimizer.learning_rate)
        assert "learning_rate" in logs
    # Two epochs without improvement, a reduction, one epoch of cooldown, and so on down to min_lr.
    assert rates[:3] == [1.0, 1.0, 0.5]
    assert rates[-1] == 0.3
    with pytest.raises(ValueError, match="factor"):
        callbacks.ReduceLROnPlateau(factor=1.0)


def test_the_scheduler_gets_epoch_and_rate_and_must_return_a_number() -> None:
    model = classifier(optimizer=keras.optimizers.SGD(1.0))
    halve = callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
    history = model.fit(X, Y, epochs=3, verbose=0, callbacks=halve)
    assert history.history["learning_rate"] == [0.5, 0.25, 0.125]
    with pytest.raises(ValueError, match="number"):
        model.fit(X, Y, verbose=0, callbacks=callbacks.LearningRateScheduler(lambda epoch: None))


def test_csv_logger_writes_a_row_per_epoch_as_it_happens(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    lines: list[int] = []
    count = callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: lines.append(len(path.read_text().splitlines())))
    model = classifier()
    history = model.fit(X, Y, epochs=3, validation_split=0.25, verbose=0, callbacks=[callbacks.CSVLogger(path), count])
    assert lines == [2, 3, 4]
    model.fit(
        X,
        Y,
        epochs=5,
        initial_epoch=3,
        validation_split=0.25,
        verbose=0,
        callbacks=callbacks.CSVLogger(path, append=True),
    )
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert [float(row["val_loss"]) for row in rows[:3]] == history.history["val_loss"]


def test_model_checkpoint_keeps_the_best_and_names_files_by_the_logs(tmp_path: Path) -> None:
    model = classifier()
    best = callbacks.ModelCheckpoint(tmp_path / "best.keras", "loss", save_best_only=True)
    every = callbacks.ModelCheckpoint(
        tmp_path / "w{epoch:02d}-{accuracy:.2f}.weights.safetensors", save_weights_only=True
    )
    model.fit(X, Y, epochs=3, verbose=0, callbacks=[best, every])
    loaded = keras.models.load_model(tmp_path / "best.keras")
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), model.predict(X, verbose=0))
    names = sorted(p.name for p in tmp_path.glob("w*"))
    assert [name[:3] for name in names] == ["w01", "w02", "w03"]
    with pytest.raises(ValueError, match="'lost'"):
        model.fit(X, Y, verbose=0, callbacks=callbacks.ModelCheckpoint(tmp_path / "{lost}.keras"))


def test_model_checkpoint_by_batches(tmp_path: Path) -> None:
    saver = callbacks.ModelCheckpoint(tmp_path / "{epoch}-{batch}.keras", save_freq=3)
    classifier().fit(X, Y, batch_size=16, epochs=2, verbose=0, callbacks=saver)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1-3.keras", "2-2.keras"]


def test_lambda_callback_knows_its_hooks() -> None:
    with pytest.raises(ValueError, match="on_epoch_end"):
        callbacks.LambdaCallback(on_epoch_ends=print)


def test_history_draws_its_curves(tmp_path: Path) -> None:
    history = classifier().fit(X, Y, epochs=3, validation_split=0.25, verbose=0)
    figure = history.plot(tmp_path / "curves.png")
    assert [axes.get_title() for axes in figure.axes] == ["loss", "accuracy"]
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert history.examples_per_second > 0
    assert history.seconds > history.compile_seconds > 0


def test_a_schedule_of_the_optimizer_is_not_overruled_in_silence() -> None:
    model = classifier(optimizer=keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)))
    with pytest.raises(TypeError, match="follows a schedule"):
        model.fit(X, Y, verbose=0, callbacks=callbacks.LearningRateScheduler(lambda epoch: 0.1))

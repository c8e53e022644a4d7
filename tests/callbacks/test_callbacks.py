"""Section I.5 of the training contract: the callbacks that come along. Hooks: contract/test_callbacks.py."""

from __future__ import annotations

import csv
import json
import math
import urllib.parse
from pathlib import Path
from typing import Any

import keras as theirs
import numpy as np
import pytest
from support.data import digits
from support.same import same
from support.server import Server

import epochal as keras

layers, callbacks = keras.layers, keras.callbacks
X, Y = digits(64)


def classifier(**arguments: Any) -> keras.Sequential:
    model = keras.Sequential([layers.Dense(10, activation="softmax", input_shape=(64,))])
    model.compile(**{"optimizer": "adam", "loss": "ce", "metrics": ["accuracy"], **arguments})
    return model


class Fake:
    """A model as far as callbacks that stop need one."""

    def __init__(self) -> None:
        self.stop_training = False
        self.optimizer: Any = None
        self.weights: list[Any] = []
        self.metrics: list[Any] = []


def feed(callback: callbacks.Callback, values: list[float], name: str = "val_loss") -> int:
    """Tells a callback one value per epoch until it stops; returns how many it took."""
    callback.set_model(Fake())
    callback.on_train_begin({})
    for epoch, value in enumerate(values):
        callback.on_epoch_end(epoch, {name: value})
        if callback.model.stop_training:
            return epoch + 1
    return len(values)


def test_I5_early_stopping_waits_for_patience() -> None:
    assert feed(callbacks.EarlyStopping(patience=2), [3, 2, 1, 1, 1, 1, 1]) == 5
    assert feed(callbacks.EarlyStopping(patience=3), [1, 2, 2, 0.5, 2, 2, 2]) == 7
    assert feed(callbacks.EarlyStopping(patience=1, min_delta=0.5), [3, 2.8, 2]) == 2
    assert feed(callbacks.EarlyStopping("val_accuracy", patience=1), [0.1, 0.2, 0.2], "val_accuracy") == 3
    assert feed(callbacks.EarlyStopping(patience=2, baseline=0.5), [1, 0.9, 0.8]) == 2
    assert feed(callbacks.EarlyStopping(patience=1, start_from_epoch=3), [1, 2, 3, 4, 5]) == 5


def test_I5_early_stopping_does_not_take_a_first_nan_for_the_best() -> None:
    """With Keras a NaN in the first epoch stays the best for ever, and ends a training that gets better and better."""
    stop = callbacks.EarlyStopping(patience=2)
    assert feed(stop, [math.nan, 3, 2, 1]) == 4
    assert stop.best == 1
    keras_stop = theirs.callbacks.EarlyStopping(patience=2)
    assert feed(keras_stop, [math.nan, 3, 2, 1]) == 3
    assert math.isnan(keras_stop.best)


@pytest.mark.parametrize(
    ("name", "rises"),
    [
        ("loss", False),
        ("val_loss", False),
        ("accuracy_loss", False),  # the loss of an output called accuracy
        ("val_accuracy", True),
        ("acc_1", True),
        ("layer2_mse", False),  # not r2
        ("digit_sparse_categorical_accuracy", True),
        ("auc", True),
        ("true_positives_2", True),
        ("false_negatives", False),
        ("r2_score", True),
        ("mean_io_u", True),
        ("val_kl_divergence", False),
        ("mean_absolute_percentage_error", False),
    ],
)
def test_I5_auto_knows_which_direction_is_better(name: str, rises: bool) -> None:
    assert feed(callbacks.EarlyStopping(name, patience=2), [1, 2, 3, 4, 5], name) == (5 if rises else 3)
    assert feed(callbacks.EarlyStopping(name, patience=2), [5, 4, 3, 2, 1], name) == (3 if rises else 5)


def test_I5_a_name_that_does_not_tell_the_direction_is_an_error_as_in_keras() -> None:
    for k in (keras, theirs):
        with pytest.raises(ValueError, match="mode="):
            feed(k.callbacks.EarlyStopping("my_value"), [1.0], "my_value")
        assert feed(k.callbacks.EarlyStopping("my_value", mode="max", patience=1), [1.0, 2.0], "my_value") == 2


def stopped(k: Any, values: list[float], **options: Any) -> tuple[int, Any, int]:
    stop = k.callbacks.EarlyStopping(**options)
    return feed(stop, values), stop.best, stop.best_epoch


def rates(k: Any, values: list[float], **options: Any) -> list[float]:
    """The learning rates that ReduceLROnPlateau sets."""
    reduce, model, found = k.callbacks.ReduceLROnPlateau(**options), Fake(), []
    model.optimizer = k.optimizers.SGD(1.0)
    reduce.set_model(model)
    reduce.on_train_begin({})
    for epoch, value in enumerate(values):
        logs = {"val_loss": value}
        reduce.on_epoch_end(epoch, logs)
        found.append(float(model.optimizer.learning_rate))
        assert "learning_rate" in logs
    return found


def test_I5_early_stopping_and_plateaus_are_keras_for_any_values() -> None:
    """But for NaN, and a baseline: Keras does not stop as long as there is progress below it, against its docstring."""
    draw = np.random.default_rng(0)
    for _ in range(100):
        values = (draw.integers(0, 6, 12) / 4).tolist()
        shared = {"mode": str(draw.choice(["min", "max"])), "min_delta": float(draw.choice([0, 0.25]))}
        shared["patience"] = int(draw.integers(0, 4))
        start, cooldown = int(draw.integers(0, 3)), int(draw.integers(0, 3))
        ours, other = (stopped(k, values, start_from_epoch=start, **shared) for k in (keras, theirs))
        assert ours == other
        ours, other = (rates(k, values, factor=0.5, cooldown=cooldown, min_lr=0.1, **shared) for k in (keras, theirs))
        assert ours == pytest.approx(other, rel=1e-6)


@pytest.mark.parametrize("stops", [True, False])
def test_I5_early_stopping_restores_the_best_weights_whether_or_not_it_stopped(stops: bool) -> None:
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
    assert same(model.get_weights(), kept[1])
    assert not same(kept[2], kept[1])


def test_I5_terminate_on_nan() -> None:
    model = classifier(optimizer=keras.optimizers.SGD(0.1))
    x = X.copy()
    x[40] = np.nan
    model.fit(x, Y, batch_size=16, epochs=3, shuffle=False, verbose=0, callbacks=callbacks.TerminateOnNaN())
    assert model.optimizer.iterations == 3
    with pytest.raises(RuntimeError, match="Batch 0: the loss is nan"):
        model.fit(x, Y, batch_size=16, verbose=0, callbacks=callbacks.TerminateOnNaN(raise_error=True))


def test_I5_reduce_lr_on_plateau() -> None:
    found = rates(keras, [1.0] * 9, factor=0.5, patience=2, cooldown=1, min_lr=0.3)
    # Two epochs without improvement, a reduction, one epoch of cooldown, and so on down to min_lr.
    assert found[:3] == [1.0, 1.0, 0.5]
    assert found[-1] == 0.3
    with pytest.raises(ValueError, match="factor"):
        callbacks.ReduceLROnPlateau(factor=1.0)


def test_I5_the_scheduler_gets_epoch_and_rate_and_must_return_a_number() -> None:
    model = classifier(optimizer=keras.optimizers.SGD(1.0))
    halve = callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
    history = model.fit(X, Y, epochs=3, verbose=0, callbacks=halve)
    assert history.history["learning_rate"] == [0.5, 0.25, 0.125]
    with pytest.raises(ValueError, match="number"):
        model.fit(X, Y, verbose=0, callbacks=callbacks.LearningRateScheduler(lambda epoch: None))


def test_I5_csv_logger_writes_a_row_per_epoch_as_it_happens(tmp_path: Path) -> None:
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


def test_I5_model_checkpoint_keeps_the_best_and_names_files_by_the_logs(tmp_path: Path) -> None:
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


def test_I5_model_checkpoint_by_batches(tmp_path: Path) -> None:
    saver = callbacks.ModelCheckpoint(tmp_path / "{epoch}-{batch}.keras", save_freq=3)
    classifier().fit(X, Y, batch_size=16, epochs=2, verbose=0, callbacks=saver)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1-3.keras", "2-2.keras"]


@pytest.mark.parametrize("steps_per_execution", [1, 2])
def test_I5_model_checkpoint_counts_batches_as_keras_does(steps_per_execution: int, tmp_path: Path) -> None:
    """Also when a hook stands for several; and the second fit goes on counting."""

    def run(k: Any, folder: Path) -> list[str]:
        folder.mkdir()
        model = k.Sequential([k.layers.Input((64,)), k.layers.Dense(10)])
        model.compile("sgd", "mse", steps_per_execution=steps_per_execution)
        saver = k.callbacks.ModelCheckpoint(folder / "{epoch}-{batch}.keras", save_freq=3)
        for _ in range(2):
            model.fit(X, np.zeros((64, 10)), batch_size=16, epochs=2, verbose=0, callbacks=[saver])
        return sorted(p.name for p in folder.iterdir())

    assert run(keras, tmp_path / "ours") == run(theirs, tmp_path / "theirs")


def test_I5_files_are_closed_after_an_exception(tmp_path: Path) -> None:
    def fail(epoch: int, logs: Any) -> None:
        raise OSError("disk")

    logger = callbacks.CSVLogger(tmp_path / "log.csv")
    with pytest.raises(OSError, match="disk"):
        classifier().fit(X, Y, verbose=0, callbacks=[logger, callbacks.LambdaCallback(on_epoch_end=fail)])
    assert logger._file is None
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 2


def test_I5_lambda_callback_knows_its_hooks() -> None:
    with pytest.raises(ValueError, match="on_epoch_end"):
        callbacks.LambdaCallback(on_epoch_ends=print)


def test_I5_history_draws_its_curves(tmp_path: Path) -> None:
    history = classifier().fit(X, Y, epochs=3, validation_split=0.25, verbose=0)
    figure = history.plot(tmp_path / "curves.png")
    assert [axes.get_title() for axes in figure.axes] == ["loss", "accuracy"]
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert history.examples_per_second > 0
    assert history.seconds > history.compile_seconds > 0


def test_I5_a_schedule_of_the_optimizer_is_not_overruled_in_silence() -> None:
    model = classifier(optimizer=keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)))
    with pytest.raises(TypeError, match="follows a schedule"):
        model.fit(X, Y, verbose=0, callbacks=callbacks.LearningRateScheduler(lambda epoch: 0.1))


LOGS = {"loss": 0.5, "count": np.int64(3), "score": np.float32(0.25), "vector": np.array([1.0, np.inf])}


@pytest.mark.parametrize("as_json", [True, False])
def test_I5_remote_monitor_sends_each_epochs_logs(as_json: bool, server: Server) -> None:
    root = f"http://127.0.0.1:{server.server_port}"
    monitor = callbacks.RemoteMonitor(root, "/here/", "field", {"X-Token": "abc"}, send_as_json=as_json)
    monitor.on_epoch_end(4, dict(LOGS))
    monitor.on_epoch_end(5, {"loss": math.nan})
    (path, headers, body), (_, _, second) = server.seen
    assert path == "/here/"
    assert headers["X-Token"] == "abc"
    if as_json:
        assert headers["Content-Type"] == "application/json"
    else:
        body, second = (dict(urllib.parse.parse_qsl(text, strict_parsing=True))["field"] for text in (body, second))

    def no_constant(name: str) -> Any:
        raise AssertionError(f"{name} is no JSON")

    sent = json.loads(body, parse_constant=no_constant)
    assert sent == {"epoch": 4, "loss": 0.5, "count": 3, "score": 0.25, "vector": [1.0, None]}
    assert json.loads(second, parse_constant=no_constant) == {"epoch": 5, "loss": None}


def test_I5_remote_monitor_in_fit_and_its_warnings(server: Server) -> None:
    """A server that refuses, or is not there, does not end training."""
    root = f"http://127.0.0.1:{server.server_port}"
    model = classifier()
    history = model.fit(X, Y, epochs=2, verbose=0, callbacks=callbacks.RemoteMonitor(root, send_as_json=True))
    sent = [json.loads(body) for _, _, body in server.seen]
    assert [item["epoch"] for item in sent] == [0, 1]
    assert [item["loss"] for item in sent] == history.history["loss"]
    server.status = 500
    with pytest.warns(UserWarning, match="could not send .*HTTP Error 500"):
        model.fit(X, Y, verbose=0, callbacks=callbacks.RemoteMonitor(root))
    server.shutdown()
    server.server_close()
    with pytest.warns(UserWarning, match=f"could not send the logs to {root}/publish/epoch/end/: .*refused"):
        model.fit(X, Y, verbose=0, callbacks=callbacks.RemoteMonitor(root))

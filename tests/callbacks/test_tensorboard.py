"""TensorBoard: the real package reads what is written, with Keras's runs and tags."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import optax
import pytest
from support.boards import read, scalars
from support.data import digits

import epochal as keras

X, Y = digits(64)


@functools.cache
def classifier() -> keras.Sequential:
    hidden = keras.layers.Dense(12, activation="relu", input_shape=(64,), name="hidden")
    model = keras.Sequential([hidden, keras.layers.Dense(10, name="out")], name="net")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss, metrics=["accuracy"])
    return model


def fit(callback: Any, epochs: int = 3, **options: Any) -> keras.callbacks.History:
    classifier().optimizer.state = None  # iterations count from 0
    options = {"validation_data": (X, Y), "batch_size": 16, "verbose": 0, **options}
    return classifier().fit(X, Y, epochs=epochs, callbacks=callback, **options)


def test_I5_tensorboard_reads_the_epochs_by_keras_runs_and_tags(tmp_path: Path) -> None:
    halve = keras.callbacks.LearningRateScheduler(lambda epoch: 0.1 / 2**epoch)
    board = keras.callbacks.TensorBoard(tmp_path)
    history = fit([halve, board]).history
    assert sorted(p.name for p in tmp_path.iterdir()) == ["train", "validation"]

    def of(name: str, steps: Any = range(3)) -> list[tuple[int, float]]:
        return [(step, np.float32(value)) for step, value in zip(steps, history[name], strict=True)]

    assert scalars(tmp_path / "train") == {
        "epoch_loss": of("loss"),
        "epoch_accuracy": of("accuracy"),
        "epoch_learning_rate": of("learning_rate"),
    }
    assert scalars(tmp_path / "validation") == {
        "epoch_loss": of("val_loss"),
        "epoch_accuracy": of("val_accuracy"),
        "evaluation_loss_vs_iterations": of("val_loss", [4, 8, 12]),
        "evaluation_accuracy_vs_iterations": of("val_accuracy", [4, 8, 12]),
    }
    assert not keras.callbacks.CallbackList(board).observes("train")  # so it does not make training run step by step


@pytest.mark.parametrize(("update_freq", "steps"), [("batch", list(range(1, 9))), (1, list(range(1, 9))), (3, [3, 6])])
def test_I5_tensorboard_reads_running_values_of_the_batches_that_are_due(
    update_freq: Any, steps: list[int], tmp_path: Path
) -> None:
    seen: list[dict[str, float]] = []
    watch = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(dict(logs)))
    board = keras.callbacks.TensorBoard(tmp_path, update_freq=update_freq, write_steps_per_second=True)
    fit([watch, board], epochs=2, validation_data=None)
    found = scalars(tmp_path / "train")
    for name in ("loss", "accuracy"):
        assert found[f"batch_{name}"] == [(step, np.float32(seen[step - 1][name])) for step in steps]
    assert [step for step, _ in found["batch_steps_per_second"]] == steps
    assert [step for step, _ in found["epoch_loss"]] == [0, 1]
    assert not (tmp_path / "validation").exists()


def test_I5_tensorboard_reads_histograms_and_images_of_the_weights(tmp_path: Path) -> None:
    fit(keras.callbacks.TensorBoard(tmp_path, histogram_freq=2, write_images=True, write_steps_per_second=True))
    events = read(tmp_path / "train")
    names = ["net/hidden/kernel", "net/hidden/bias", "net/out/kernel", "net/out/bias"]
    assert sorted(events.Tags()["histograms"]) == sorted(f"{name}/histogram" for name in names)
    for name, weight in zip(names, classifier().get_weights(), strict=True):  # names as in Keras
        first, last = events.Histograms(f"{name}/histogram")
        assert (first.step, last.step) == (0, 2)
        assert last.histogram_value.num == weight.size
        assert last.histogram_value.sum == pytest.approx(weight.sum(dtype=np.float64), rel=1e-4, abs=1e-5)
        assert last.histogram_value.min == pytest.approx(weight.min())
    (image, _) = events.Images("net/hidden/kernel/image")
    assert (image.height, image.width) == (12, 64)
    assert [step for step, _ in scalars(tmp_path / "train")["epoch_steps_per_second"]] == [0, 1, 2]


def test_I5_tensorboard_of_an_evaluation_and_after_an_exception(tmp_path: Path) -> None:
    model = classifier()
    fit([], epochs=2)
    values = model.evaluate(X, Y, verbose=0, callbacks=keras.callbacks.TensorBoard(tmp_path / "a"), return_dict=True)
    assert scalars(tmp_path / "a" / "validation") == {
        f"evaluation_{name}_vs_iterations": [(8, np.float32(value))] for name, value in values.items()
    }

    def fail(epoch: int, logs: Any) -> None:
        raise OSError("disk")

    board = keras.callbacks.TensorBoard(tmp_path / "b")
    with pytest.raises(OSError, match="disk"):
        fit([board, keras.callbacks.LambdaCallback(on_epoch_end=fail)])
    assert board._writers == {}
    assert [step for step, _ in scalars(tmp_path / "b" / "train")["epoch_loss"]] == [0]
    fit(board, epochs=1)  # the callback can be used again


def test_I5_tensorboard_profiles_the_batches_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    note = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(batch))
    monkeypatch.setattr("jax.profiler.start_trace", seen.append)
    monkeypatch.setattr("jax.profiler.stop_trace", lambda: seen.append("stop"))
    fit([note, keras.callbacks.TensorBoard(tmp_path, profile_batch=(2, 6))], epochs=2, validation_data=None)
    assert seen == [0, str(tmp_path / "train"), 1, 2, 3, 0, 1, "stop", 2, 3]
    seen.clear()
    fit([note, keras.callbacks.TensorBoard(tmp_path, profile_batch=3)], epochs=1, validation_data=None)
    assert seen == [0, 1, str(tmp_path / "train"), 2, "stop", 3]
    seen.clear()
    fit(keras.callbacks.TensorBoard(tmp_path, profile_batch=(2, 100)), epochs=1, validation_data=None)
    assert seen == [str(tmp_path / "train"), "stop"]  # at the end of training at the latest


def test_I5_tensorboard_without_a_learning_rate_that_can_be_read(tmp_path: Path) -> None:
    model = keras.Sequential([keras.layers.Dense(10, input_shape=(64,))])
    model.compile(optax.sgd(0.1), "mse")
    model.fit(X, X[:, :10], verbose=0, callbacks=keras.callbacks.TensorBoard(tmp_path))
    assert list(scalars(tmp_path / "train")) == ["epoch_loss"]


@pytest.mark.slow
def test_I5_tensorboard_writes_a_real_profile(tmp_path: Path) -> None:
    fit(keras.callbacks.TensorBoard(tmp_path, profile_batch=2), epochs=1)
    assert list((tmp_path / "train" / "plugins" / "profile").rglob("*.xplane.pb"))


def test_I5_tensorboard_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in (
        {"histogram_freq": -1},
        {"update_freq": "step"},
        {"update_freq": 0},
        {"profile_batch": (3, 2)},
        {"profile_batch": "2,3,4"},
        {"embeddings_freq": 1},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            keras.callbacks.TensorBoard(**wrong)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"pip install 'epochal\[tensorboard\]'"):
        keras.callbacks.TensorBoard()

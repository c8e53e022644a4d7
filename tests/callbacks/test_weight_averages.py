"""SwapEMAWeights: what is evaluated, what is saved, and what is left in the model."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import keras as theirs
import numpy as np
import pytest
from support.data import digits
from support.same import same

import epochal as keras

X, Y = digits(96)
HELD = X[64:], Y[64:]
KERNEL = np.linspace(-0.2, 0.2, 640, dtype=np.float32).reshape(64, 10)


@functools.cache
def compiled(k: Any, use_ema: bool) -> Any:
    model = k.Sequential([k.layers.Input((64,)), k.layers.Dense(10, activation="softmax")])
    averaging = {"use_ema": True, "ema_momentum": 0.9} if use_ema else {}
    optimizer = k.optimizers.SGD(0.5, momentum=0.5, **averaging)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def classifier(k: Any = keras, use_ema: bool = True) -> Any:
    """A model before its training; of each kind there is one, which is compiled once."""
    model = compiled(k, use_ema)
    model.set_weights([KERNEL, np.zeros(10, np.float32)])
    if k is keras:
        model.optimizer.state = None
    elif model.optimizer.built:
        for variable in model.optimizer.variables:
            if variable.name != "learning_rate":
                variable.assign(np.zeros(variable.shape, variable.dtype))
    return model


def watcher(k: Any, seen: list[np.ndarray], hook: str = "on_epoch_end") -> Any:
    """Notes the kernel as it is in the model at a hook."""
    callback = k.callbacks.Callback()
    setattr(callback, hook, lambda *_, **__: seen.append(callback.model.get_weights()[0]))
    return callback


def trained(k: Any, swap: bool | None, *more: Any, epochs: int = 3) -> tuple[Any, dict[str, Any], list[np.ndarray]]:
    """The model, its history, and the kernel as the last callback sees it at the end of each epoch."""
    model, seen = classifier(k), []
    swaps = [] if swap is None else [k.callbacks.SwapEMAWeights(swap_on_epoch=swap)]
    options = {"batch_size": 16, "epochs": epochs, "shuffle": False, "verbose": 0, "validation_data": HELD}
    history = model.fit(X[:64], Y[:64], callbacks=[*swaps, *more, watcher(k, seen)], **options)
    return model, history.history, seen


@pytest.mark.parametrize("swap", [None, False, True])
def test_I5_swap_ema_weights_is_keras(swap: bool | None) -> None:
    (ours, history, seen), (other, expected, kernels) = trained(keras, swap), trained(theirs, swap)
    for name, values in expected.items():
        np.testing.assert_allclose(history[name], values, rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(seen, kernels, rtol=1e-4, atol=1e-6)
    for value, wanted in zip(ours.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-6)


def test_I5_swapping_changes_nothing_of_the_training_and_validates_the_averages() -> None:
    _, plain, raw = trained(keras, None)
    model, history, seen = trained(keras, False)
    left = model.get_weights()[0]
    swapped, all_epochs, averages = trained(keras, True)
    assert plain["loss"] == history["loss"] == all_epochs["loss"]  # bit for bit
    assert history["val_loss"] == all_epochs["val_loss"] != plain["val_loss"]
    np.testing.assert_array_equal(raw, seen)
    assert not np.array_equal(raw[-1], averages[-1])
    # What fit leaves are the averages, which the last validation looked at.
    np.testing.assert_array_equal(left, averages[-1])
    np.testing.assert_array_equal(swapped.get_weights()[0], averages[-1])
    assert swapped.evaluate(*HELD, batch_size=16, verbose=0)[0] == history["val_loss"][-1]


def test_I5_a_checkpoint_after_the_swap_holds_the_averages(tmp_path: Path) -> None:
    saver = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    _, history, averages = trained(keras, True, saver)
    for epoch in range(3):
        loaded = keras.models.load_model(tmp_path / f"{epoch + 1}.keras")
        np.testing.assert_array_equal(loaded.get_weights()[0], averages[epoch])
        assert loaded.evaluate(*HELD, batch_size=16, verbose=0)[0] == history["val_loss"][epoch]


def test_I5_training_that_ends_early_leaves_the_averages_too() -> None:
    """Keras leaves the last weights instead: it mends only the epoch that was to be the last."""

    def run(k: Any) -> tuple[np.ndarray, np.ndarray]:
        def stop(epoch: int, logs: Any = None) -> None:
            stopper.model.stop_training = epoch == 1

        stopper = k.callbacks.Callback()
        stopper.on_epoch_end = stop
        model, _, averages = trained(k, True, stopper)
        assert len(averages) == 2
        return model.get_weights()[0], averages[-1]

    np.testing.assert_array_equal(*run(keras))
    weights, averages = run(theirs)
    assert np.abs(weights - averages).max() > 0.01


def ready() -> tuple[Any, list[np.ndarray]]:
    """A model in the middle of its training: its weights are not its averages."""
    model = trained(keras, None)[0]
    model.set_weights([w + 0.5 for w in model.get_weights()])
    return model, model.get_weights()


def test_I5_evaluate_and_predict_use_the_averages_and_give_the_weights_back() -> None:
    model, before = ready()
    averages = [w - 0.5 for w in before]
    during: list[np.ndarray] = []
    for method in (lambda **k: model.evaluate(*HELD, **k), lambda **k: model.predict(HELD[0], **k)):
        for hook in ("on_test_end", "on_predict_end"):
            watch = watcher(keras, during, hook)
            method(verbose=0, callbacks=[watch, keras.callbacks.SwapEMAWeights()])
        assert same(model.get_weights(), before)
    for kernel in during:
        np.testing.assert_allclose(kernel, averages[0], atol=1e-6)
    assert len(during) == 2


def test_I5_keras_does_not_give_the_weights_back_after_predict() -> None:
    model = trained(theirs, None)[0]
    before = [w + 0.5 for w in model.get_weights()]
    model.set_weights(before)
    model.predict(HELD[0], verbose=0, callbacks=[theirs.callbacks.SwapEMAWeights()])
    assert np.abs(model.get_weights()[0] - before[0]).min() > 0.4


@pytest.mark.parametrize("swap_on_epoch", [False, True])
@pytest.mark.parametrize(
    ("hook", "error"),
    [
        *[(f"on_{hook}", OSError) for hook in ("test_begin", "test_batch_end", "test_end", "epoch_end", "epoch_begin")],
        ("on_epoch_end", KeyboardInterrupt),
    ],
)
def test_I5_after_an_exception_the_weights_are_those_of_the_last_step(
    hook: str, error: type[BaseException], swap_on_epoch: bool
) -> None:
    """In the second epoch, wherever it comes; and the model can be trained on."""
    model, calls = classifier(), []

    def fail(*_: Any) -> None:
        calls.append(hook)
        if len(calls) == 2:
            raise error("stop")

    last: list[np.ndarray] = []
    breaks = keras.callbacks.LambdaCallback(**{hook: fail})
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch)
    watch = watcher(keras, last, "on_train_batch_end")
    with pytest.raises(error, match="stop"):
        model.fit(X, Y, epochs=3, validation_data=HELD, verbose=0, callbacks=[swap, breaks, watch])
    np.testing.assert_array_equal(model.get_weights()[0], last[-1])
    averages = model.optimizer.averages(model.optimizer.state)
    assert not np.array_equal(np.asarray(averages[0]), last[-1])
    model.fit(X, Y, epochs=1, verbose=0)  # no array was given away


@pytest.mark.parametrize("k", [keras, theirs])
def test_I5_early_stopping_has_the_last_word_on_the_weights(k: Any) -> None:
    """An optimizer with averages leaves them in the model before `on_train_end`, where the best weights come back."""
    best = k.callbacks.EarlyStopping("val_loss", mode="max", patience=10, restore_best_weights=True)
    model, history, seen = trained(k, None, best)
    epoch = int(np.argmax(history["val_loss"]))
    assert epoch == best.best_epoch < 2
    np.testing.assert_array_equal(model.get_weights()[0], seen[epoch])


def test_I5_without_averages_it_is_an_error_before_training() -> None:
    model = classifier(use_ema=False)
    with pytest.raises(ValueError, match="use_ema=True"):
        model.fit(X, Y, verbose=0, callbacks=keras.callbacks.SwapEMAWeights())
    assert model.optimizer.iterations == 0
    untrained = classifier()
    with pytest.raises(ValueError, match="no averages of the weights yet"):
        untrained.evaluate(*HELD, verbose=0, callbacks=keras.callbacks.SwapEMAWeights())
    np.testing.assert_array_equal(untrained.get_weights()[0], KERNEL)


def test_a_fit_of_no_epochs_leaves_the_weights_alone() -> None:
    model = classifier()
    model.fit(X, Y, epochs=0, verbose=0)
    np.testing.assert_array_equal(model.get_weights()[0], KERNEL)
    assert math.isfinite(model.evaluate(*HELD, verbose=0)[0])

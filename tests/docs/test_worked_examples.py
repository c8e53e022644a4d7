"""Scripts as people write them for Keras, run after `import epochal as keras`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.preprocessing import MinMaxScaler

import epochal as keras
from epochal import regularizers
from epochal.layers import Dense
from epochal.optimizers import Adam


def trial(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """n people of ages 13 … 100 who had side effects of a drug: 5 % of the younger half, 95 % of the older."""
    rng = np.random.default_rng(seed)
    age = rng.integers(13, 101, n)
    effect = (rng.random(n) < np.where(age < 65, 0.05, 0.95)).astype(int)
    return MinMaxScaler().fit_transform(age.reshape(-1, 1)), effect


def build() -> Any:
    return keras.Sequential(
        [
            Dense(16, input_shape=(1,), activation="relu"),
            Dense(32, activation="relu", kernel_regularizer=regularizers.l2(0.01)),
            Dense(2, activation="sigmoid"),
        ]
    )


def test_the_small_network_on_2100_examples(capsys: pytest.CaptureFixture[str]) -> None:
    x, y = trial(2100)
    held_x, held_y = trial(200, seed=1)
    model = build()
    assert model.count_params() == 32 + 544 + 66
    model.compile(optimizer=Adam(learning_rate=0.0001), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(x=x, y=y, validation_data=(held_x, held_y), batch_size=10, epochs=20, shuffle=True, verbose=2)
    assert list(history.history) == ["loss", "accuracy", "val_loss", "val_accuracy"]
    assert history.epoch == list(range(20))
    assert history.history["loss"][-1] < history.history["loss"][0]
    assert history.history["val_accuracy"][-1] > 0.75
    assert model.optimizer.iterations == 20 * 210
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "Epoch 1/20"
    assert printed[1].startswith("210/210 - ")
    assert " - loss: " in printed[1]
    assert " - val_accuracy: " in printed[1]
    assert len(printed) == 40


@pytest.mark.parametrize(("batch_size", "updates"), [("full", 1), (300, 1), (32, 10), (1, 300)])
def test_full_batch_mini_batch_and_stochastic_descent_of_the_same_model(batch_size: Any, updates: int) -> None:
    x, y = trial(300)
    model = build()
    model.compile(optimizer=keras.optimizers.SGD(0.05), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(x, y, batch_size=batch_size, epochs=3, verbose=0)
    assert model.optimizer.iterations == 3 * updates
    assert history.params["steps"] == updates
    assert history.history["loss"][-1] < history.history["loss"][0]


@pytest.mark.parametrize(("n", "batch_size", "steps"), [(24_000, 32, 750), (2_000, 10, 200), (1_050, 100, 11)])
def test_steps_of_an_epoch(n: int, batch_size: int, steps: int) -> None:
    x, y = trial(n)
    model = build()
    model.compile("adam", "sparse_categorical_crossentropy")
    history = model.fit(x, y, batch_size=batch_size, epochs=2, verbose=0)
    assert history.params["steps"] == steps
    assert model.optimizer.iterations == 2 * steps
    assert history.programs["train"] == 1  # the short last batch of 1,050 included


def test_a_learning_rate_schedule_early_stopping_and_predict() -> None:
    x, y = trial(600)
    model = keras.models.Sequential()
    model.add(keras.layers.Input(shape=(1,)))
    model.add(keras.layers.Dense(8, "relu"))
    model.add(keras.layers.Dense(1, "sigmoid"))
    model.compile(loss="binary_crossentropy", optimizer="adam", metrics=["accuracy", "AUC"])
    stop = keras.callbacks.EarlyStopping(monitor="val_loss", patience=2, restore_best_weights=True)
    rates = keras.callbacks.LearningRateScheduler(lambda epoch: 0.05 * 0.5**epoch)
    history = model.fit(x, y, epochs=30, validation_split=0.25, callbacks=[stop, rates], verbose=0)
    np.testing.assert_allclose(history.history["learning_rate"][:3], [0.05, 0.025, 0.0125], rtol=1e-6)
    best = min(history.history["val_loss"])
    held = model.evaluate(x[450:], y[450:], verbose=0, return_dict=True)
    assert held["loss"] == pytest.approx(best, rel=1e-6)
    assert model.predict(x[:7], verbose=0).shape == (7, 1)

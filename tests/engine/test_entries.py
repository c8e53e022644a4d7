"""A statistic of training is one entry of the tally: split, resumed, replayed and reported like our own."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

import epochal as keras
from epochal.engine.objective.tally import Entry, Update


class LargestGradient(Entry):
    """The largest |g| of any element of any update of a pass."""

    name = "largest_gradient"

    def start(self, done: int = 0) -> np.ndarray:
        return np.zeros((), np.float32)

    def add(self, value: Any, update: Update) -> Any:
        return jnp.maximum(value, jnp.stack([jnp.abs(g).max() for g in update.gradients]).max())

    def trace_key(self, width: int | None) -> str:
        return self.name

    def end(self, value: Any, place: Any) -> dict[str, float]:
        return {self.name: float(value)}


class Watches(keras.callbacks.Callback):
    """Asks for the entry, and keeps what comes of it."""

    def __init__(self) -> None:
        self.received: list[float] = []

    def entry(self) -> Entry:
        return LargestGradient()

    def receive_entries(self, values: Any, width: int | None) -> None:
        self.received.append(float(values["largest_gradient"]))


class BreaksOff(keras.callbacks.Callback):
    """Ends a run in the middle of its second epoch, after a checkpoint."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.model.optimizer.iterations >= 13:
            raise InterruptedError


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    x, y = load_digits(return_X_y=True)
    return (x[:160] / 16).astype(np.float32), y[:160]


def model(**compiled: Any) -> Any:
    keras.utils.set_random_seed(3)
    made = keras.Sequential([keras.layers.Dense(12, activation="relu"), keras.layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    made.compile(keras.optimizers.SGD(0.1), loss, **compiled)
    return made


def trained(digits: tuple, *callbacks: Any, epochs: int = 3, **compiled: Any) -> list[float]:
    history = model(**compiled).fit(*digits, batch_size=16, epochs=epochs, verbose=0, callbacks=[Watches(), *callbacks])
    return history.history["largest_gradient"]


def by_hand(digits: tuple) -> list[float]:
    """The same from single calls: |change| / learning rate of plain SGD, batch by batch as `fit` cuts them."""
    seen: list[list[float]] = [[]]

    class Weights(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            self.before = self.model.get_weights()

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            pairs = zip(self.before, self.model.get_weights(), strict=True)
            seen[-1].append(max(float(np.abs(new - old).max()) / 0.1 for old, new in pairs))

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            seen.append([])

    model().fit(*digits, batch_size=16, epochs=3, verbose=0, callbacks=[Weights()])
    return [max(epoch) for epoch in seen[:-1]]


def test_an_entry_of_a_callback_is_reported(digits: tuple) -> None:
    np.testing.assert_allclose(trained(digits), by_hand(digits), rtol=1e-3)


def test_an_entry_is_the_same_where_batches_are_split(digits: tuple) -> None:
    np.testing.assert_allclose(trained(digits, micro_batch_size=5), trained(digits), rtol=1e-4)


def test_an_entry_is_the_same_however_steps_are_executed(digits: tuple) -> None:
    whole = trained(digits)
    assert trained(digits, keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: None)) == whole


def test_an_entry_is_resumed_with_its_run(digits: tuple, tmp_path: Any) -> None:
    whole = trained(digits)
    with pytest.raises(InterruptedError):
        trained(digits, keras.callbacks.BackupAndRestore(tmp_path, save_freq=3), BreaksOff())
    resumed = trained(digits, keras.callbacks.BackupAndRestore(tmp_path, save_freq=3))
    assert resumed == whole


def test_an_entry_that_was_not_there_starts_where_a_run_is_resumed(digits: tuple, tmp_path: Any) -> None:
    with pytest.raises(InterruptedError):
        model().fit(
            *digits,
            batch_size=16,
            epochs=3,
            verbose=0,
            callbacks=[keras.callbacks.BackupAndRestore(tmp_path, save_freq=3), BreaksOff()],
        )
    resumed = trained(digits, keras.callbacks.BackupAndRestore(tmp_path, save_freq=3))
    assert len(resumed) == 2  # the epochs since
    assert resumed[1] == trained(digits)[2]


def test_a_step_is_replayed_with_an_entry(digits: tuple, tmp_path: Any) -> None:
    watching = Watches()
    step = keras.replay(model(), None, *digits, epoch=1, batch=4, batch_size=16, epochs=3, callbacks=[watching])
    assert len(watching.received) == 1  # of the first epoch; the second has not ended
    assert step.loss > 0


def test_an_entry_leaves_the_training_alone(digits: tuple) -> None:
    weights = []
    for callbacks in ([Watches()], []):
        made = model()
        made.fit(*digits, batch_size=16, epochs=2, verbose=0, callbacks=callbacks)
        weights.append(made.get_weights())
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_skipped_updates_are_in_no_entry(digits: tuple) -> None:
    x, y = digits
    spoiled = x.copy()
    spoiled[20] = np.nan
    made = model(on_nonfinite="skip")
    with pytest.warns(UserWarning, match="skipped"):
        history = made.fit(spoiled, y, batch_size=16, epochs=2, verbose=0, callbacks=[Watches()])
    assert np.isfinite(history.history["largest_gradient"]).all()
    assert history.skipped == 2


def test_two_entries_of_one_name_are_refused(digits: tuple) -> None:
    with pytest.raises(ValueError, match="largest_gradient"):
        trained(digits, Watches())

"""Updates whose loss or gradients are not finite: made, skipped or the end of training, as `compile` was told."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import keras as theirs
import numpy as np
import pytest
from support.broken_off import Broken
from support.data import digits
from support.same import same
from support.spoiled import BAD, FIRST, LAST, M, N, Own, arrays_of, classifier, spoiled, trained

import epochal as keras
from epochal import layers
from epochal.callbacks import BackupAndRestore, Callback, LambdaCallback
from epochal.models.trainer import training_of


def without(rows: slice) -> tuple[np.ndarray, np.ndarray]:
    x, y = spoiled()
    return np.delete(x, rows, axis=0), np.delete(y, rows, axis=0)


class Squares(keras.Metric):
    """A metric of a user's, with a state."""

    def __init__(self, name: str = "squares"):
        super().__init__(name=name)
        self.total = self.add_weight(shape=(), name="total")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.total.assign_add(jnp.sum(y_pred**2))

    def result(self) -> Any:
        return self.total


class BreakOff(Callback):
    """Ends a run as a crash would, before this batch of the first epoch."""

    def __init__(self, batch: int):
        self.batch = batch

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if batch == self.batch:
            raise Broken


SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("arrays", {}),
    ("arrays", {"steps_per_execution": 4}),
    ("generator", {}),
    ("generator", {"steps_per_execution": 4}),
    ("arrays", {"run_eagerly": True}),
    ("generator", {"run_eagerly": True}),
]


@pytest.mark.parametrize(("form", "settings"), SETTINGS)
def test_skip_trains_as_if_the_batch_were_not_there(form: str, settings: dict[str, Any]) -> None:
    epochs = 1 if "run_eagerly" in settings else 2
    reference = classifier(on_nonfinite="skip", **settings)
    expected = trained(reference, *without(slice(FIRST, LAST)), form, epochs)  # five batches, nothing to skip
    model = classifier(on_nonfinite="skip", **settings)
    with pytest.warns(UserWarning, match=r"Epoch [12]: 1 update was skipped.*batch 3 of 6; not finite there:") as seen:
        history = trained(model, *spoiled(), form, epochs)
    assert len(seen) == epochs
    assert same(arrays_of(model), arrays_of(reference))
    assert int(model.optimizer.iterations) == 5 * epochs
    assert history.history == expected.history
    assert np.isfinite(history.history["loss"]).all()
    assert (history.skipped, expected.skipped) == (epochs, 0)


def test_skip_is_what_a_loop_does_that_leaves_the_batch_out() -> None:
    x, y = spoiled()
    reference, losses, correct = classifier(optimizer="sgd"), [], []  # which knows nothing of skipping
    for i in [0, 16, 48, 64, 80]:
        loss, accuracy = reference.train_on_batch(x[i : i + M], y[i : i + M])
        losses.append(loss * len(y[i : i + M]))
        correct.append(accuracy * len(y[i : i + M]))
    model = classifier(optimizer="sgd", on_nonfinite="skip")
    with pytest.warns(UserWarning, match="skipped"):
        history = trained(model, x, y, epochs=1).history
    for one, other in zip(arrays_of(model), arrays_of(reference), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
    assert history["loss"] == [pytest.approx(sum(losses) / (N - M), rel=1e-6)]
    assert history["accuracy"] == [pytest.approx(sum(correct) / (N - M), rel=1e-6)]


@pytest.mark.parametrize("way", ["skip", "raise"])
def test_the_message_names_batch_examples_and_values(way: str) -> None:
    model = classifier(on_nonfinite=way)
    if way == "skip":
        with pytest.warns(UserWarning, match="skipped") as seen:
            trained(model, *spoiled(), epochs=1)
        text = str(seen[0].message)
        assert text.startswith("Epoch 1: 1 update was skipped and left out of the means. The first was batch 3 of 6;")
    else:
        with pytest.raises(keras.NonFiniteError) as error:
            trained(model, *spoiled(), epochs=1)
        text = str(error.value)
        assert text.startswith("Epoch 1, batch 3 of 6;")
    assert "not finite there: output 'scores', the loss, the gradient of hidden/kernel, the gradient of" in text
    assert text.endswith(f"Row 37 of the data is not finite; the batch is rows {', '.join(map(str, range(32, 48)))}.")


@pytest.mark.parametrize(("form", "settings"), SETTINGS)
@pytest.mark.parametrize("observed", [False, True])
def test_raise_ends_with_the_weights_from_before(form: str, settings: dict[str, Any], observed: bool) -> None:
    reference = classifier(on_nonfinite="raise", **{**settings, "steps_per_execution": 1})
    with pytest.raises(Broken):  # on data without a flaw, and ended from outside
        trained(reference, *digits(N), form, callbacks=[BreakOff(2)])
    x, y = spoiled()
    told: list[int] = []
    watch = [LambdaCallback(on_train_batch_end=lambda batch, logs: told.append(batch))] if observed else []
    model = classifier(on_nonfinite="raise", **settings)
    with pytest.raises(keras.NonFiniteError, match=r"Epoch 1, batch 3") as error:
        trained(model, x, y, form, callbacks=watch)
    assert same(arrays_of(model), arrays_of(reference))
    assert (error.value.epoch, error.value.batch) == (0, 2)
    assert error.value.values[:2] == ["output 'scores'", "the loss"]
    if form == "arrays":
        assert error.value.examples is not None
        assert error.value.examples.tolist() == list(range(FIRST, LAST))
    else:
        assert error.value.examples is None
    assert isinstance(error.value, FloatingPointError)
    assert all(batch < 2 for batch in told)  # no hook hears of the batch


def test_ignore_makes_the_update_as_keras_does() -> None:
    for k in (keras, theirs):
        model = classifier(k)
        history = model.fit(*spoiled(), batch_size=M, epochs=1, shuffle=False, verbose=0)
        assert np.isnan(history.history["loss"]).all()
        assert np.isnan(model.get_weights()[0]).all()


def test_no_way_costs_a_program_and_ignore_carries_nothing() -> None:
    for way in ("ignore", "skip", "raise"):
        model = classifier(on_nonfinite=way)
        model.fit(*digits(N), batch_size=M, epochs=2, verbose=0)
        assert model.programs() == {"train": 1, "test": 0, "predict": 0}
        (programs,) = training_of(model).programs.values()
        assert (programs.train.step.skipped is None) == (way == "ignore")
        assert model.history.skipped == 0


def test_a_shuffled_batch_is_named_by_the_rows_it_had() -> None:
    seen: list[np.ndarray] = []

    def loss(y_true: Any, y_pred: Any) -> Any:
        seen.append(np.asarray(y_true)[:, 0].astype(int))  # not traced: steps run as plain Python
        return (y_pred - y_true) ** 2

    x, _ = spoiled()
    model = keras.Sequential([layers.Input((64,)), layers.Dense(1)])
    model.compile("sgd", loss, on_nonfinite="raise", run_eagerly=True)
    with pytest.raises(keras.NonFiniteError) as error:
        model.fit(x, np.arange(N, dtype=np.float32), batch_size=M, steps_per_epoch=4, epochs=3, verbose=0)
    named = error.value.examples
    assert named is not None
    assert BAD in named
    assert any(np.array_equal(rows[: len(named)], named) for rows in seen)


def test_arrays_on_disk_are_named_by_their_rows(tmp_path: Path) -> None:
    x, y = spoiled()
    np.save(tmp_path / "x.npy", x)
    on_disk: Any = np.load(tmp_path / "x.npy", mmap_mode="r")
    with pytest.raises(keras.NonFiniteError, match=r"Row 37 of the data") as error:
        trained(classifier(on_nonfinite="raise"), on_disk, y)
    assert error.value.examples is not None
    assert error.value.examples.tolist() == list(range(FIRST, LAST))


def test_a_gradient_alone_is_enough() -> None:
    def distance(y_true: Any, y_pred: Any) -> Any:  # its slope at 0 is no number
        return jnp.sqrt(jnp.sum((y_pred - y_true) ** 2, axis=-1))

    model = keras.Sequential([layers.Input((3,)), layers.Dense(2, name="out")])
    model.compile("sgd", distance, on_nonfinite="raise")
    before = model.get_weights()
    x = np.eye(3, dtype=np.float32)
    with pytest.raises(keras.NonFiniteError, match=r"which are finite: try a lower learning rate") as error:
        model.fit(x, model.predict(x, verbose=0), batch_size=3, shuffle=False, verbose=0)
    assert error.value.values == ["the gradient of out/kernel", "the gradient of out/bias"]
    assert same(model.get_weights(), before)


def test_metrics_with_a_state_leave_the_batch_out() -> None:
    values = []
    for x, y in (spoiled(), without(slice(FIRST, LAST))):
        keras.utils.set_random_seed(3)
        model = keras.Sequential([layers.Input((64,)), layers.Dense(1)])
        model.compile("sgd", "mse", metrics=[Squares()], on_nonfinite="skip")
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            values.append(trained(model, x, y.astype(np.float32), epochs=1).history)
        assert len(seen) == (1 if len(x) == N else 0)
    assert values[0] == values[1]
    assert values[0]["squares"][0] > 0


@pytest.mark.parametrize("eager", [False, True])
def test_a_train_step_of_ones_own_is_looked_after_too(eager: bool) -> None:
    results = []
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for x, y in (spoiled(), without(slice(FIRST, LAST))):
        keras.utils.set_random_seed(3)
        model = Own()
        model.compile("adam", loss, on_nonfinite="skip", run_eagerly=eager)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            history = trained(model, x, y, epochs=1).history
        if len(x) == N:
            assert "not finite there: the logged 'own', the new out/kernel, the new out/bias." in str(seen[0].message)
        results.append((history, arrays_of(model)))
    assert results[0][0] == results[1][0]
    assert same(results[0][1], results[1][1])


def test_an_epoch_with_nothing_else_has_no_loss() -> None:
    x, y = spoiled()
    model = classifier(on_nonfinite="skip")
    with pytest.warns(UserWarning, match="3 updates were skipped"):
        history = model.fit(x[BAD : BAD + 1].repeat(3, axis=0), y[:3], batch_size=1, verbose=0)
    assert np.isnan(history.history["loss"]).all()


def test_train_on_batch_does_the_same() -> None:
    x, y = spoiled()
    model = classifier(on_nonfinite="skip")
    model.train_on_batch(x[:M], y[:M])
    before = arrays_of(model)
    with pytest.warns(UserWarning, match=r"train_on_batch\(\): the update was not made; .* Row 5 of the data"):
        loss, _ = model.train_on_batch(x[FIRST:LAST], y[FIRST:LAST])
    assert np.isnan(loss)
    assert same(arrays_of(model), before)
    model.train_on_batch(x[:M], y[:M])  # and nothing is told again
    assert int(model.optimizer.iterations) == 2

    model = classifier(on_nonfinite="raise")
    model.train_on_batch(x[:M], y[:M], reset_metrics=False)
    before = arrays_of(model)
    with pytest.raises(keras.NonFiniteError, match=r"train_on_batch") as error:
        model.train_on_batch(x[FIRST:LAST], y[FIRST:LAST], reset_metrics=False)
    assert error.value.epoch is None
    assert same(arrays_of(model), before)
    model.train_on_batch(x[:M], y[:M], reset_metrics=False)  # the next batch is trained on
    assert int(model.optimizer.iterations) == 2


@pytest.mark.parametrize("value", ["stop", None, True])
def test_another_way_is_refused(value: Any) -> None:
    model = classifier()
    with pytest.raises(ValueError, match=r'Expected on_nonfinite to be "ignore", "skip" or "raise", got'):
        model.compile("sgd", "mse", on_nonfinite=value)
    assert model.optimizer.name == "adam"


def test_a_run_that_goes_on_knows_what_was_skipped_before(tmp_path: Path) -> None:
    x, y = spoiled()
    whole = classifier(on_nonfinite="skip")
    with pytest.warns(UserWarning, match="skipped"):
        expected = trained(whole, x, y)
    keep = BackupAndRestore(tmp_path, save_freq=1)
    with pytest.raises(Broken):
        trained(classifier(on_nonfinite="skip"), x, y, callbacks=[keep, BreakOff(4)])
    model = classifier(on_nonfinite="skip")
    with pytest.warns(UserWarning, match=r"batch 3 of 6; .*Row 37 of the data is not finite; the batch is rows 32, 33"):
        history = trained(model, x, y, callbacks=[keep])
    assert same(arrays_of(model), arrays_of(whole))
    assert history.history == expected.history
    assert history.skipped == expected.skipped == 2


def test_a_run_that_ended_comes_to_the_batch_again_and_may_then_skip_it(tmp_path: Path) -> None:
    x, y = spoiled()
    keep = BackupAndRestore(tmp_path, save_freq=1)
    for _ in range(2):  # the checkpoint from before the batch is the last one
        model = classifier(on_nonfinite="raise")
        with pytest.raises(keras.NonFiniteError) as error:
            trained(model, x, y, callbacks=[keep])
        assert (error.value.epoch, error.value.batch) == (0, 2)
    assert max(path.name for path in tmp_path.glob("epoch-*")) == "epoch-000000-batch-000000002"
    whole, model = classifier(on_nonfinite="skip"), classifier(on_nonfinite="skip")
    with pytest.warns(UserWarning, match="skipped"):
        expected = trained(whole, x, y)
    with pytest.warns(UserWarning, match="batch 3 of 6"):
        history = trained(model, x, y, callbacks=[keep])
    assert same(arrays_of(model), arrays_of(whole))
    assert history.history == expected.history


def test_a_run_without_skipping_may_go_on_with_it(tmp_path: Path) -> None:
    x, y = spoiled()
    keep = BackupAndRestore(tmp_path, save_freq=1)
    with pytest.raises(Broken):
        trained(classifier(), x, y, callbacks=[keep, BreakOff(2)])
    whole, model = classifier(), classifier(on_nonfinite="skip")
    expected = trained(whole, *without(slice(FIRST, LAST)))
    with pytest.warns(UserWarning, match=r"batch 3 of 6; .*the batch is rows 32, 33"):
        history = trained(model, x, y, callbacks=[keep])
    assert int(model.optimizer.iterations) == 10
    assert history.history["loss"] == pytest.approx(expected.history["loss"], rel=1e-6)  # by two programs

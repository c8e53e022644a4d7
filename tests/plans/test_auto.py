"""`fit(batch_size="auto")`: measures first, and trains as with the size chosen."""

from __future__ import annotations

import math
from typing import Any

import pytest
from support.data import breast_cancer, digits
from support.planning import everything, network, unchanged

import epochal as keras
from epochal.models import fitting


def test_fit_measures_first_and_trains_as_with_the_size_that_was_chosen(quick, capsys):
    x, y = breast_cancer(300)
    models = []
    size: Any = "auto"
    for _ in range(2):
        keras.utils.set_random_seed(1)
        model = keras.Sequential(
            [keras.layers.Dense(8, activation="relu"), keras.layers.Dense(2, activation="softmax")]
        )
        model.compile("adam", "sparse_categorical_crossentropy")
        history = model.fit(x, y, batch_size=size, epochs=2, verbose=2, validation_split=0.2)
        if size == "auto":
            assert history.plan is not None
            assert history.plan.measurements.n == 240  # those that are trained on
            size = history.plan.batch_size
            assert f"Batch size {size}, measured." in capsys.readouterr().out
        else:
            assert history.plan is None
        assert history.params["batch_size"] == size
        models.append((model, history.history))
    assert models[0][1] == models[1][1]


def test_auto_scales_the_learning_rate_to_the_size_that_was_chosen(quick, capsys):
    x, y = digits(300)
    rates: list[float] = []
    note = keras.callbacks.LambdaCallback(on_epoch_begin=lambda e, logs: rates.append(float(optimizer.learning_rate)))
    found = []
    for rule in ("sqrt", None):
        keras.utils.set_random_seed(1)
        model = network()
        optimizer = model.optimizer
        size = "auto" if rule else found[0].params["batch_size"]
        if rule is None:
            optimizer.learning_rate = rates[0]  # by hand
        found.append(model.fit(x, y, batch_size=size, epochs=1, verbose=2, callbacks=[note], lr_scaling=rule))
    size = found[0].plan.batch_size
    assert rates == pytest.approx([0.01 * math.sqrt(size / 32)] * 2)
    assert found[0].history == found[1].history
    said = f"Learning rate 0.01 → {rates[0]:.4g}, times {rates[0] / 0.01:.4g} by 'sqrt' for batches of 32 → {size}."
    assert (said in capsys.readouterr().out) == (size != 32)


def test_a_run_that_goes_on_keeps_the_size_that_was_chosen(quick, tmp_path, monkeypatch):
    x, y = digits(300)

    def run(epochs: int) -> Any:
        keras.utils.set_random_seed(1)
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)
        return network().fit(x, y, batch_size="auto", epochs=epochs, verbose=0, callbacks=[backup])

    first = run(1)
    assert first.plan is not None

    def again(*arguments: Any, **named: Any) -> Any:
        raise AssertionError("measured again")

    monkeypatch.setattr(fitting, "plan_of_fit", again)
    second = run(2)
    assert second.params["batch_size"] == first.plan.batch_size
    assert second.plan is not None
    assert second.plan.to_dict() == first.plan.to_dict()
    assert len(second.epoch) == 2


def test_a_run_with_auto_that_is_broken_off_in_mid_epoch_ends_like_one_that_was_not(quick, tmp_path, monkeypatch):
    x, y = digits(300)

    class Broken(Exception):
        pass

    def run(batch_size: Any, stop_at: int | None = None, backup: str = "backup") -> Any:
        batches: list[int] = []

        def count(batch: int, logs: Any) -> None:
            batches.append(batch)
            if len(batches) == stop_at:
                raise Broken

        keras.utils.set_random_seed(1)
        model = network()
        callbacks = [
            keras.callbacks.BackupAndRestore(tmp_path / backup, save_freq=1),
            keras.callbacks.LambdaCallback(on_train_batch_end=count),
        ]
        fit = {"batch_size": batch_size, "epochs": 3, "verbose": 0, "callbacks": callbacks}
        return model.fit(x, y, **fit), everything(model)

    with pytest.raises(Broken):  # batches of 16 or 64: within an epoch in any case
        run("auto", stop_at=7)
    monkeypatch.setattr(fitting, "plan_of_fit", lambda *_: pytest.fail("measured again"))
    history, found = run("auto")
    assert history.plan is not None
    whole, expected = run(history.plan.batch_size, backup="whole")
    assert history.history == whole.history
    assert unchanged(found, expected)


def test_auto_beside_batches_is_refused():
    x, y = digits(64)
    with pytest.raises(ValueError, match="batch_size"):
        network().fit(iter([(x, y)]), batch_size="auto", verbose=0)

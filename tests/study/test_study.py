"""Batch-size studies: the fits are those of `fit`, and a killed study goes on."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support.data import breast_cancer, digits
from support.studies import SETTINGS, digits_model, digits_study

import epochal as keras
from epochal.display.curves import plateau
from epochal.runtime import memory
from epochal.study import statistics
from epochal.study.bench import Bench, seeds_put_back
from epochal.study.fits import Progress
from epochal.study.results import FITS, Store

# -- the fits


def test_a_fit_of_a_study_is_a_fit(study):
    """Every row's value is what `fit` reports for the same seed, learning rate and batch size."""
    x, y = digits(300)
    for row in study.table:
        found = []
        for seed in (0, 1):
            keras.utils.set_random_seed(seed)
            model = digits_model()
            model.optimizer.learning_rate = row["equal_epochs_learning_rate"]
            history = model.fit(x, y, batch_size=row["batch_size"], epochs=3, validation_split=0.2, verbose=0)
            found.append(history.history["val_accuracy"][-1])
        assert row["equal_epochs_val_accuracy"] == pytest.approx(np.mean(found), abs=1e-12)
        assert row["equal_epochs_val_accuracy_std"] == pytest.approx(np.std(found, ddof=1), abs=1e-12)


def test_the_sizes_are_those_asked_for_and_what_a_row_says_follows_from_them(study):
    assert [row["batch_size"] for row in study.table] == [1, 16, 240]
    assert [row["updates_per_epoch"] for row in study.table] == [240, 15, 1]
    assert [row["label"] for row in study.table] == ["1", "16", "full (240)"]
    for row in study.table:
        assert row["status"] == "ok"
        assert row["seconds_per_epoch"] == pytest.approx(row["seconds_per_step"] * row["updates_per_epoch"])
        assert row["examples_per_second"] == pytest.approx(240 / row["seconds_per_epoch"])
        assert row["memory_bytes"] > 240 * 65 * 4  # the data, at the least
    full = study.table[-1]
    assert full["gradient_std_predicted"] == 0
    assert full["gradient_std"] < 1e-5
    assert full["gradient_cosine"] == pytest.approx(1, abs=1e-5)
    assert study.table[0]["gradient_std"] == pytest.approx(study.table[0]["gradient_std_predicted"], rel=0.2)


def test_learning_rates_and_target_of_the_table_follow_from_the_fits(study):
    fits = study.fits.every
    for row in study.table:
        first = [fit for fit in fits[row["batch_size"]] if fit["seed"] == 0]
        at = 3 * row["updates_per_epoch"]
        finals = {fit["rate"]: fit["val_accuracy"][fit["updates"].index(at)] for fit in first}
        assert finals[row["equal_epochs_learning_rate"]] == max(finals.values())
        after = {fit["rate"]: fit["val_accuracy"][fit["updates"].index(40)] for fit in first}
        assert after[row["equal_updates_learning_rate"]] == max(after.values())
        chosen = [f for f in fits[row["batch_size"]] if f["rate"] == row["target_learning_rate"]]
        reached = [
            next(u for u, v in zip(f["updates"], f["val_accuracy"], strict=True) if v >= study.target) for f in chosen
        ]
        assert row["updates_to_target"] <= np.mean(reached)
        assert row["epochs_to_target"] == row["updates_to_target"] / row["updates_per_epoch"]
        curve = study.curve(row["batch_size"])
        epochs = [
            1 - v
            for u, v in zip(curve["updates"], curve["val_accuracy"], strict=True)
            if u % row["updates_per_epoch"] == 0
        ]
        assert row["plateau_epoch"] == plateau(epochs[:3])


def test_one_program_serves_all_learning_rates_and_seeds_of_a_size():
    x, y = digits(200)
    bench = Bench(digits_model, (x, y, None), 0.2, None, (0, 1), None)
    for seed, rate in ((0, 0.1), (0, 0.2), (1, 0.1)):
        for size in (7, 160):
            for _ in bench.travel(size, rate, seed, [1, 5]):
                bench.evaluate()
    assert bench.model.programs()["train"] == 2
    weights = bench.model.get_weights()
    for _ in bench.travel(160, 0.1, 1, [3, 5]):
        pass
    for again, before in zip(bench.model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(again, before)  # wherever it stops on the way


def test_random_numbers_outside_are_left_alone():
    def numbers():
        return np.random.rand(), keras.random.normal((2,)).tolist()  # noqa: NPY002

    keras.utils.set_random_seed(3)
    expected = numbers()
    keras.utils.set_random_seed(3)
    with seeds_put_back():
        keras.utils.set_random_seed(4)
        assert numbers() != expected
    assert numbers() == expected


def test_a_size_that_diverges_is_a_row_that_says_so(tmp_path):
    def build():
        model = keras.Sequential([keras.layers.Dense(1, input_shape=(30,))])
        model.compile(keras.optimizers.SGD(3.0), "mse")
        return model

    x, y = breast_cancer(120)
    found = keras.batch_size_study(
        build, x, y, batch_sizes=(4,), epochs=4, updates=60, seeds=2, learning_rates="fixed", out=tmp_path, verbose=0
    )
    assert all(re.match(r"diverged after \d+ updates \(learning rate 3\)", row["status"]) for row in found.table)
    assert found.table[0]["equal_epochs_val_loss"] is None
    assert found.fit() is None
    assert "diverged" in found.report().read_text()
    assert "diverged" in str(found)


# -- going on


KILLED = """
import sys
sys.path.insert(0, {tests!r})
from support.studies import digits_study
digits_study({out!r})
"""


def without_times(table):
    return [{k: v for k, v in row.items() if "second" not in k} for row in table]


def test_a_killed_study_goes_on_with_the_fits_that_are_missing(study, tmp_path, monkeypatch):
    code = KILLED.format(tests=str(Path(__file__).parents[1]), out=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        while not (tmp_path / FITS).exists() or len((tmp_path / FITS).read_bytes().splitlines()) < 3:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = [
        json.loads(line)["key"]
        for line in (tmp_path / FITS).read_bytes().splitlines(keepends=True)
        if line[-1:] == b"\n"
    ]
    assert 3 <= len(before) < len((study.out / FITS).read_text().splitlines())
    run = []
    monkeypatch.setattr(Store, "put", lambda self, key, *rest, put=Store.put: (run.append(key), put(self, key, *rest)))
    again = digits_study(tmp_path)
    everything = {json.loads(line)["key"] for line in (study.out / FITS).read_text().splitlines()}
    assert sorted([*before, *run]) == sorted(everything)
    assert without_times(again.table) == without_times(study.table)


def test_more_sizes_and_seeds_run_only_what_is_new(study, monkeypatch):
    run = []
    monkeypatch.setattr(
        Store, "put", lambda self, key, result: (run.append(result), self.results.update({key: result}))
    )
    assert without_times(digits_study(study.out).table) == without_times(study.table)
    assert run == []
    digits_study(study.out, batch_sizes=(1, 16, 60, "full"), target=study.target)
    assert {result["size"] for result in run if "size" in result} == {60}


def test_a_line_that_a_crash_cut_off_is_dropped(tmp_path):
    store = Store(tmp_path, {"model": "a"})
    store.put("one", {"value": 1})
    store.put("two", {"value": 2})
    store.close()
    content = (tmp_path / FITS).read_bytes()
    (tmp_path / FITS).write_bytes(content[:-5])
    store = Store(tmp_path, {"model": "a"})
    assert store.results == {"one": {"value": 1}}
    store.put("two", {"value": 3})
    store.close()
    assert len((tmp_path / FITS).read_text().splitlines()) == 2


def test_another_study_in_the_folder_is_refused(study):
    kept = (study.out / FITS).read_bytes()
    x, y = digits(300)
    with pytest.raises(ValueError, match=r"another kind \(training data differ\).*Choose another out"):
        keras.batch_size_study(digits_model, 0.5 * x[:240], y[:240], validation_data=(x[240:], y[240:]), out=study.out)

    def other():
        model = digits_model()
        model.compile(keras.optimizers.SGD(0.1, momentum=0.6), "sparse_categorical_crossentropy", ["accuracy"])
        return model

    with pytest.raises(ValueError, match=r"\(model differ\)"):
        keras.batch_size_study(other, x, y, out=study.out, **SETTINGS)
    store = Store(study.out, {})
    try:
        with pytest.raises(RuntimeError, match="Another process runs a study"):
            digits_study(study.out)
    finally:
        store.close()
    assert (study.out / FITS).read_bytes() == kept


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_sizes": (0,)}, 'ints >= 1 and "full"'),
        ({"batch_sizes": "full"}, "as a list"),
        ({"epochs": 0}, "epochs to be an int >= 1"),
        ({"updates": 1.5}, "updates to be an int >= 1"),
        ({"seeds": 0}, "seeds as how many"),
        ({"learning_rates": "cubic"}, "one of tune, linear, sqrt, fixed"),
        ({"learning_rates": (0.1, -1.0)}, "or numbers > 0"),
        ({"monitor": "auc"}, "one of loss, accuracy"),
        ({"validation_split": 0.0}, "validation_split or validation_data"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_run(wrong, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        digits_study(tmp_path / "none", **wrong)
    assert not (tmp_path / "none").exists()


def test_models_that_cannot_be_studied(tmp_path):
    with pytest.raises(TypeError, match=r"return an epochal\.Model, got NoneType"):
        keras.batch_size_study(lambda: None, *digits(60), out=tmp_path)
    model = digits_model()
    with pytest.raises(ValueError, match="a new optimizer every time"):
        keras.batch_size_study(lambda: model, *digits(60), out=tmp_path)

    def scheduled():
        model = digits_model()
        rate = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
        model.compile(keras.optimizers.SGD(rate), "sparse_categorical_crossentropy", ["accuracy"])
        return model

    with pytest.raises(ValueError, match='pass learning_rates="fixed"'):
        keras.batch_size_study(scheduled, *digits(60), out=tmp_path)


# -- memory and time


@pytest.mark.slow  # many programs
def test_a_size_that_does_not_fit_into_the_memory_is_cut_or_is_a_row_that_says_so(tmp_path, monkeypatch):
    def build(pieces="auto"):
        model = keras.Sequential(
            [keras.layers.Dense(400, activation="relu", input_shape=(64,)), keras.layers.Dense(10)]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1), loss, ["accuracy"], micro_batch_size=pieces)
        return model

    settings = {"epochs": 1, "updates": 4, "seeds": 1, "learning_rates": (0.1,), "verbose": 0}
    x, y = digits(1200)
    whole = keras.batch_size_study(build, x, y, batch_sizes=("full",), out=tmp_path / "whole", **settings).table[0]
    limit = memory.Limit(int(0.7 * whole["memory_bytes"]), "of the test")
    monkeypatch.setattr(memory, "limit", lambda *arguments, **named: limit)
    cut = keras.batch_size_study(build, x, y, batch_sizes=("full",), out=tmp_path / "cut", **settings).table[0]
    assert cut["memory_bytes"] <= limit.bytes
    assert cut["equal_updates_val_accuracy"] == pytest.approx(whole["equal_updates_val_accuracy"], abs=1 / 240 + 1e-9)
    refused = keras.batch_size_study(
        lambda: build(None), x, y, batch_sizes=(8, "full"), out=tmp_path / "refused", **settings
    )
    assert refused.table[0]["status"] == "ok"
    assert "forbids to cut it" in refused.table[1]["status"]
    assert "forbids to cut it" in refused.report().read_text()


def test_a_step_takes_what_it_took_where_nothing_else_ran():
    fits = [{"updates": [1, 4, 8], "seconds": [0.1, 1.0, 1.0 + 4 * each]} for each in (5.0, 0.25, 9.0)]
    assert statistics.seconds_per_step(fits) == pytest.approx(0.25)


def test_the_time_left_is_that_of_fits_with_the_same_size(capsys):
    progress = Progress(True, lambda size: 1.0, [8, 8, 100, 100])
    progress.done(8, "first", 1.0)
    progress.done(100, "second", 60.0)
    assert [line.split("about ")[-1] for line in capsys.readouterr().out.splitlines()] == ["3 s left", "61 s left"]

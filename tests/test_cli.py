"""The command line, run in process; once each as a program, and with Ctrl-C."""

import contextlib
import csv
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time

import numpy as np
import polars as pl
import pyte
import pytest

from epochal.cli import networks
from epochal.cli.options import Fit
from epochal.cli.program import main
from epochal.models import load_model
from epochal.plans import trial
from epochal.runs import run_folder
from epochal.runs.run_folder import read_history
from epochal.runs.store import Store
from epochal.tables import Preprocessing, Target, prepare, read_source

PROGRAM = [sys.executable, "-m", "epochal"]


def houses(n=120, seed=0):
    """Sizes, towns, gardens and a price that follows from them; some sizes are missing."""
    random = np.random.default_rng(seed)
    size, town, garden = random.normal(100, 30, n), random.integers(0, 3, n), random.random(n) < 0.5
    price = 200_000 + 2_000 * size + 30_000 * town + 10_000 * garden + random.normal(0, 5_000, n)
    return pl.DataFrame(
        {
            "size": [None if i % 11 == 5 else float(s) for i, s in enumerate(size)],
            "town": [["Ulm", "Bonn", "Köln, Süd"][t] for t in town],
            "garden": garden,
            "user_id": np.arange(n),
            "price": price,
        }
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    houses().write_csv(folder / "houses.csv")
    return folder


FIXED = ["--batch-size", "32"]  # what is not of measuring does not measure
FLOWERS = ["fit", "iris", "--epochs", "12", "--seed", "1", "--verbose", "0", *FIXED]


@pytest.fixture(scope="module")
def flowers(place):
    """A run folder of a classification."""
    folder = place / "flowers"
    assert main([*FLOWERS, "--run-dir", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def prices(place):
    """A run folder of a regression."""
    folder = place / "prices"
    command = ["fit", str(place / "houses.csv"), "--target", "price", "--epochs", "60", "--run-dir", str(folder)]
    assert main([*command, "--learning-rate", "0.01", "--batch-size", "full", "--verbose", "0"]) == 0
    return folder


def read_json(path):
    return json.loads(path.read_text())


def read_rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# -- fit


def test_run_folder_holds_everything(flowers):
    assert {p.name for p in flowers.iterdir()} == {
        "summary.json",
        "history.csv",
        "log.jsonl",
        "curves.png",
        "model",
    }
    assert {"config.json", "preprocessing.json"} <= {p.name for p in (flowers / "model").iterdir()}
    summary = read_json(flowers / "summary.json")
    assert summary["source"] == "iris"
    assert summary["task"] == "classification"
    assert (summary["n"], summary["n_train"], summary["n_validation"]) == (150, 120, 30)
    assert (summary["batch_size"], summary["steps_per_epoch"]) == (32, 4)
    assert summary["epochs"] == 12
    assert summary["seed"] == 1
    assert summary["learning_rate"] == pytest.approx(1e-3)
    assert summary["optimizer"] == "Adam"
    assert summary["status"] == "done"
    assert 0 < summary["compile_seconds"] < summary["seconds"]
    assert summary["examples_per_second"] > 0
    assert {"python", "epochal", "jax", "flax", "optax", "numpy"} <= summary["versions"].keys()
    assert summary["command"].startswith("epochal fit iris --epochs 12")


def test_auto_measures_first_and_keeps_the_plan_with_the_run(place, monkeypatch, capsys):
    for name, value in {"SIZES": (64, 16), "ROUNDS": 1, "SLICE": 1e-4, "GRADIENTS": 64, "LOOKS": (1, 2)}.items():
        monkeypatch.setattr(trial, name, value)
    folder = place / "measured"
    command = ["fit", "iris", "--epochs", "2", "--run-dir", str(folder), "--verbose", "0", "--no-plot"]
    assert main(command) == 0
    plan = read_json(folder / "plan.json")
    assert plan["examples"] == 120
    size = plan["batch_size"]
    summary = read_json(folder / "summary.json")
    assert summary["batch_size"] == size
    assert summary["plan"] == {"batch_size": size, "why": plan["why"][0]}
    said = capsys.readouterr().out
    assert re.search(rf"batch size +{size}, measured in", said)
    assert main(["plan", "iris", "--out", str(place / "p.json"), "--plot", str(place / "p.png")]) == 0
    said = capsys.readouterr().out
    size = read_json(place / "p.json")["batch_size"]
    assert f"epochal fit iris --batch-size {size}" in said
    assert "recommended" in said
    assert (place / "p.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--max-seconds", "0"], "--max-seconds 0"),
        (["--memory-limit", "much"], "Expected memory_limit"),
        (["--out", "absent/p.json"], "there is no folder 'absent'"),
        (["--batch-sizes", "0"], "Expected batch_sizes"),
    ],
)
def test_plan_options_that_make_no_sense(arguments, words, capsys):
    assert main(["plan", "iris", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_summary_is_the_kept_epoch_of_the_history(flowers):
    summary = read_json(flowers / "summary.json")
    epochs, history = read_history(flowers)
    assert epochs == list(range(1, 13))
    assert list(summary["metrics"]) == ["loss", "accuracy", "val_loss", "val_accuracy"] == list(history)
    best = int(np.argmin(history["val_loss"]))
    assert summary["best_epoch"] == epochs[best]
    assert summary["metrics"] == {name: pytest.approx(values[best]) for name, values in history.items()}


def test_log_has_a_line_per_epoch(flowers):
    lines = [json.loads(line) for line in (flowers / "log.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["start", *["epoch"] * 12, "end"]
    assert lines[0]["batch_size"] == 32
    assert [line["epoch"] for line in lines[1:-1]] == list(range(1, 13))
    assert lines[-1]["reason"] == "all epochs done"
    assert lines[5]["val_loss"] == pytest.approx(read_history(flowers)[1]["val_loss"][4])


def test_saved_model_is_the_kept_epoch(flowers):
    summary = read_json(flowers / "summary.json")
    prepared = prepare(read_source("iris"), seed=1)
    model = load_model(flowers / "model")
    values = model.evaluate(prepared.x_validation, prepared.y_validation, verbose=0, return_dict=True)
    assert values["loss"] == pytest.approx(summary["metrics"]["val_loss"], rel=1e-5)
    assert values["accuracy"] == pytest.approx(summary["metrics"]["val_accuracy"])


def test_same_seed_same_numbers(flowers, place):
    again = place / "again"
    command = [*FLOWERS, "--no-plot", "--run-dir", str(again)]
    assert main(command) == 0
    assert read_history(again) == read_history(flowers)
    assert not (again / "curves.png").exists()


def test_what_is_printed(place, capsys):
    command = ["fit", str(place / "houses.csv"), "--epochs", "1", "--run-dir", str(place / "printed"), "--verbose", "2"]
    assert main([*command, *FIXED]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for part in (
        "120 rows, 4 columns → 7 features",
        "user_id: numbers or names the rows",
        "price (the last column",
        "regression",
        "96 training rows, 24 validation rows",
        "batch size 32, 3 steps per epoch",
        "val_r2_score",
        "kept epoch 1",
        str(place / "printed"),
    ):
        assert part in said.replace(" - ", " ") or "".join(part.split()) in "".join(said.split())


def test_regression_is_in_the_target_s_own_units(prices, place):
    metrics = read_json(prices / "summary.json")["metrics"]
    assert metrics["val_r2_score"] > 0.8
    assert 1_000 < metrics["val_mae"] < 30_000
    assert metrics["val_loss"] > 1_000_000
    prepared = prepare(read_source(str(place / "houses.csv")), target="price")
    predicted = load_model(prices / "model").predict(prepared.x_validation, verbose=0)[:, 0]
    assert np.abs(predicted - prepared.y_validation).mean() == pytest.approx(metrics["val_mae"], rel=1e-4)


# -- evaluate, predict


def test_evaluate_agrees_with_training(flowers, prices, place, capsys):
    for run, source in ((flowers, "iris"), (prices, str(place / "houses.csv"))):
        metrics = read_json(run / "summary.json")["metrics"]
        for model in (run, run / "model"):
            assert main(["evaluate", str(model), source, "--rows", "validation"]) == 0
            shown = dict(line.split() for line in capsys.readouterr().out.splitlines()[1:] if line.strip())
            for name, value in shown.items():
                assert float(value) == pytest.approx(metrics[f"val_{name}"], rel=1e-3, abs=1e-4)


def test_predict_classes(flowers, place):
    data = read_source("iris")
    frame = pl.DataFrame({column.name: column.values for column in data.columns[:-1]})
    frame.with_columns(extra=pl.lit("x")).reverse().write_parquet(place / "iris.parquet")
    out = place / "classes.csv"
    assert main(["predict", str(flowers), str(place / "iris.parquet"), "-o", str(out)]) == 0
    rows = read_rows(out)
    assert len(rows) == 150
    assert list(rows[0]) == ["prediction", *(f"probability_{c}" for c in ("setosa", "versicolor", "virginica"))]
    preprocessing = Preprocessing.load(flowers / "model")
    expected = load_model(flowers / "model").predict(preprocessing.apply(data), verbose=0)[::-1]
    found = np.array([[float(v) for v in list(row.values())[1:]] for row in rows])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert [row["prediction"] for row in rows] == [preprocessing.target.classes[i] for i in expected.argmax(axis=1)]


def test_predict_values_for_new_rows(prices, place):
    new = houses(30, seed=5)
    new.drop("price").with_columns(town=pl.lit("nowhere")).write_csv(place / "new.csv")
    out = place / "values.csv"
    assert main(["predict", str(prices), str(place / "new.csv"), "-o", str(out)]) == 0
    values = [float(row["prediction"]) for row in read_rows(out)]
    assert np.corrcoef(values, new["price"])[0, 1] > 0.8
    before = out.read_bytes()
    assert main(["predict", str(prices), str(place / "new.csv"), "-o", str(out)]) == 2
    assert out.read_bytes() == before
    assert main(["predict", str(prices), str(place / "new.csv"), "-o", str(out), "--force"]) == 0


# -- the network


@pytest.mark.parametrize(
    ("shape", "image", "task"),
    [
        ((5,), False, "classification"),
        ((8, 8), True, "classification"),
        ((12, 16, 3), True, "regression"),
        ((40, 8), False, "classification"),  # a sequence
        ((4, 4), False, "regression"),
        ((8, 8, 16), False, "classification"),
    ],
)
def test_default_network_for_shapes(shape, image, task):
    target = Target("y", task, "number", (0, 1, 2) if task == "classification" else (), 50.0, 1e-6)
    network = networks.default_network(shape, target, 300)
    assert networks.is_image(shape) == image
    assert any("convolution" in layer.name for layer in network.layers) == image
    out = network.predict(np.zeros((2, *shape), np.float32), verbose=0)
    assert out.shape == (2, target.outputs)
    if task == "classification":
        np.testing.assert_allclose(out.sum(axis=1), 1, rtol=1e-5)
    else:
        np.testing.assert_allclose(out, 50, rtol=1e-4)  # in the target's units


# -- a network of one's own


OWN = """
import epochal
from epochal import layers

def plain(input_shape, units):
    return epochal.Sequential([layers.Dense(8, activation="relu", input_shape=input_shape), layers.Dense(units)])

def sigmoid(input_shape):
    return epochal.Sequential([layers.Dense(1, activation="sigmoid", input_shape=input_shape)])

def compiled(input_shape, n_classes, task="?", **more):
    assert task == "classification" and more["n_train"] == 120
    model = epochal.Sequential([layers.Dense(n_classes, activation="softmax", input_shape=input_shape)])
    model.compile(epochal.optimizers.SGD(0.05), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model

def unwritten(input_shape, units):
    activation = lambda x: x
    stack = [layers.Dense(8, activation=activation, input_shape=input_shape), layers.Dense(units, activation="softmax")]
    return epochal.Sequential(stack)

def asks(colour): ...
def none(): return 3
def fails(): return 1 / 0
def wrong(input_shape): return epochal.Sequential([layers.Dense(7, input_shape=input_shape)])
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(OWN)
    return tmp_path


def test_own_network_uncompiled_regression_gets_the_target_s_units(own, place):
    command = ["fit", str(place / "houses.csv"), "--model", "nets.py:plain", "--epochs", "30", "--run-dir", "r", *FIXED]
    assert main([*command, "--learning-rate", "0.03", "--verbose", "0"]) == 0
    assert read_json(own / "r" / "summary.json")["metrics"]["val_r2_score"] > 0.5


def test_own_network_compiled_is_left_as_it_is(own):
    assert main(["fit", "iris", "--model", "nets.py:compiled", "--epochs", "5", "--run-dir", "r", *FIXED]) == 0
    summary = read_json(own / "r" / "summary.json")
    assert (summary["optimizer"], summary["learning_rate"]) == ("SGD", pytest.approx(0.05))


def test_own_network_with_one_output_for_two_classes(own):
    command = ["fit", "breast_cancer", "--model", "nets.py:sigmoid", "--epochs", "8", "--learning-rate", "0.02", *FIXED]
    assert main([*command, "--run-dir", "r", "--verbose", "0"]) == 0
    assert read_json(own / "r" / "summary.json")["metrics"]["val_accuracy"] > 0.9
    assert main(["predict", "r", "breast_cancer", "-o", "p.csv"]) == 0
    row = read_rows(own / "p.csv")[0]
    assert float(row["probability_benign"]) + float(row["probability_malignant"]) == pytest.approx(1)


def test_a_model_that_cannot_be_written_loses_nothing_else(own, capsys):
    command = [
        "fit",
        "iris",
        "--model",
        "nets.py:unwritten",
        "--epochs",
        "2",
        "--run-dir",
        "r",
        "--verbose",
        "0",
        *FIXED,
    ]
    assert main(command) == 0
    assert "weights.safetensors" in capsys.readouterr().out
    assert {p.name for p in (own / "r").iterdir()} >= {"weights.safetensors", "summary.json", "history.csv"}


def test_a_run_that_diverges_says_so(own, capsys):
    command = [
        "fit",
        "diabetes",
        "--learning-rate",
        "1e30",
        "--epochs",
        "3",
        "--run-dir",
        "r",
        "--verbose",
        "0",
        *FIXED,
    ]
    assert main(command) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "smaller --learning-rate" in said
    assert f"epochal replay {own / 'r'} --epoch 1 --batch 1" in said or "epochal replay r --epoch 1 --batch 1" in said
    assert read_json(own / "r" / "summary.json")["status"] == "diverged"
    assert main(["replay", "r", "--epoch", "1", "--batch", "3"]) == 0  # its backup is still there
    shown = " ".join(capsys.readouterr().out.split())
    assert "not finite nothing" not in shown
    assert "norm nan" in shown


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("nets.py", "FILE.py:function"),
        ("nots.py:plain", "no file 'nots.py'"),
        ("nets.py:plan", "did you mean 'plain'"),
        ("nets.py:asks", "takes 'colour'; it can ask for input_shape"),
        ("nets.py:none", "returned int"),
        ("nets.py:fails", "line 24: ZeroDivisionError"),
        ("nets.py:wrong", "expected (3,) for 3 classes"),
    ],
)
def test_own_network_errors(own, capsys, spec, said):
    assert main(["fit", "iris", "--model", spec, "--run-dir", "r"]) == 2
    assert said in capsys.readouterr().err
    assert not (own / "r").exists()


# -- what the user can put right


FILES = {
    "empty.csv": "",
    "header.csv": "a,b,target\n",
    "one_class.csv": "a,target\n" + "".join(f"{i},yes\n" for i in range(20)),
    "short.csv": "a,target\n1,0\n2,1\n3,0\n",
    "nan.csv": "a,target\n" + "".join(f"{i},{'NaN' if i == 4 else i / 7}\n" for i in range(20)),
    "text.csv": "a,target\n" + "".join(f"{'abc' if i == 4 else i},{i % 2}\n" for i in range(20)),
    "words.csv": "a,target\n" + "".join(f"{i},{'yes' if i % 2 else 'no'}\n" for i in range(20)),
    "ragged.csv": "a,target\n1,2\n3,4,5\n",
    "notes.txt": "a,target\n1,2\n",
}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fit", "absent.csv"], "no file 'absent.csv'"),
        (["fit", "word.csv"], "did you mean 'words.csv'"),
        (["fit", "notes.txt"], ".csv, .parquet or .npz"),
        (["fit", "dgits"], "'digits'"),
        (["fit", "words.csv", "--target", "targt"], "'target'"),
        (["fit", "text.csv"], "text where numbers are needed: 'abc' in row 5"),
        (["fit", "words.csv", "--task", "regression"], "text where numbers are needed"),
        (["fit", "empty.csv"], "empty"),
        (["fit", "header.csv"], "no rows"),
        (["fit", "nan.csv"], "first in row 5"),
        (["fit", "one_class.csv"], "one class only ('yes')"),
        (["fit", "short.csv"], "3 rows, too few"),
        (["fit", "ragged.csv"], "Cannot read 'ragged.csv'"),
        (["fit", "iris", "--epochs", "0"], "--epochs 0"),
        (["fit", "iris", "--batch-size", "0"], "--batch-size 0"),
        (["fit", "iris", "--validation-split", "1"], "--validation-split 1"),
        (["fit", "iris", "--validation-split", "0.999"], "Too few rows"),
        (["fit", "iris", "--learning-rate", "nan"], "--learning-rate nan"),
        (["fit", "iris", "--seed", "-1"], "--seed -1"),
        (["fit", "iris", "--patience", "0"], "--patience 0"),
        (["fit", "iris", "--drop", "colour"], "no column in 'iris' called 'colour'"),
        (["fit", "iris", "--run-dir", "words.csv"], "is a file"),
        (["fit", "iris", "--run-dir", "words.csv/run"], "ot a directory"),
        (["evaluate", "nowhere", "iris"], "no trained model in 'nowhere'"),
        (["predict", "nowhere", "iris", "-o", "x.txt"], "expected a file ending in .csv"),
        (["predict", "nowhere", "iris", "-o", "no/x.csv"], "no folder 'no'"),
        (["predict", "nowhere", "iris", "-o", "words.csv"], "exists already"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("epochal: ")
    assert error.count("\n") == 1
    assert {p.name: p.read_text() for p in tmp_path.iterdir() if p.is_file()} == FILES
    assert {p.name for p in tmp_path.iterdir() if p.is_dir()} == set()


def test_a_run_is_not_written_over(flowers, capsys):
    before = {p: p.read_bytes() for p in flowers.rglob("*") if p.is_file()}
    assert main(["fit", "iris", "--run-dir", str(flowers)]) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in flowers.rglob("*") if p.is_file()} == before


def test_models_and_tables_that_do_not_fit(flowers, prices, place, tmp_path, capsys):
    cases = [
        (["evaluate", str(prices), "iris"], "lacks 3 of the 3 columns"),
        (["evaluate", str(flowers), str(place / "houses.csv")], "lacks 4 of the 4 columns"),
        (["evaluate", str(place), "iris"], "no trained model"),
    ]
    houses(30).drop("price").write_csv(tmp_path / "new.csv")
    cases.append((["evaluate", str(prices), str(tmp_path / "new.csv")], "lacks the target 'price'"))
    houses(30).write_csv(tmp_path / "few.csv")
    cases.append((["evaluate", str(prices), str(tmp_path / "few.csv"), "--rows", "training"], "with 120 rows, not 30"))
    houses(30).with_columns(size=pl.lit("big")).write_csv(tmp_path / "text.csv")
    cases.append((["evaluate", str(prices), str(tmp_path / "text.csv")], "'big' in row 1"))
    broken = tmp_path / "broken"
    (broken / "model").mkdir(parents=True)
    (broken / "model" / "config.json").write_text("{")
    (broken / "model" / "preprocessing.json").write_bytes((flowers / "model" / "preprocessing.json").read_bytes())
    cases.append((["evaluate", str(broken), "iris"], "cannot be loaded"))
    for arguments, said in cases:
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1


def test_usage(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("epochal 0.")
    for arguments, words in (([], "epochal fit digits"), (["fit"], "--batch-size"), (["predict"], "--force")):
        assert main([*arguments, "--help"]) == 0
        assert words in capsys.readouterr().out
    for wrong in (["fit"], ["fit", "iris", "--batch-size", "many"], ["fit", "iris", "--epoch", "3"], ["train"], []):
        assert main(wrong) == 2
        assert capsys.readouterr().err


# -- going on

SHORT = ["fit", "digits", "--epochs", "25", "--no-plot", "--verbose", "0", *FIXED, "--run-dir"]


@pytest.fixture(scope="module")
def whole(place):
    """A run folder that nothing broke off."""
    assert main([*SHORT, str(place / "whole")]) == 0
    return place / "whole"


def values_of(folder):
    """What a run has come to, without its times."""
    summary = read_json(folder / "summary.json")
    for name in ("seconds", "compile_seconds", "examples_per_second", "data_wait", "ended", "command"):
        summary.pop(name)
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    kept = [{k: v for k, v in line.items() if k not in ("seconds", "time", "command")} for line in lines]
    weights = [w.tolist() for w in load_model(folder / "model").get_weights()]
    return summary, (folder / "history.csv").read_text(), kept, weights


def test_a_fit_that_is_killed_goes_on_and_ends_like_one_that_was_not(whole, tmp_path, monkeypatch):
    started = subprocess.Popen([*PROGRAM, *SHORT, "r"], cwd=tmp_path, stdout=subprocess.DEVNULL)
    run = tmp_path / "r"
    backup = run / "backup"
    try:
        deadline = time.monotonic() + 60
        while not list(backup.glob("epoch-*[0-9]")):
            assert time.monotonic() < deadline
            assert started.poll() is None
            time.sleep(0.002)
    finally:
        started.send_signal(signal.SIGKILL)
        started.wait()
    assert not (run / "summary.json").exists()
    assert json.loads((run / "log.jsonl").read_text().splitlines()[-1])["event"] == "epoch"
    with (run / "log.jsonl").open("a") as log:
        log.write('{"event": "epoch", "epo')  # a line that was cut off
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert main(["fit", "--resume", "../r", "--verbose", "0"]) == 0
    assert values_of(run) == values_of(whole)
    assert {p.name for p in run.iterdir()} == {p.name for p in whole.iterdir()}
    assert list(elsewhere.iterdir()) == []


def test_a_fit_that_is_interrupted_goes_on(whole, tmp_path, monkeypatch, capsys):
    def press(epoch, logs=None, at=3):
        if epoch == at:
            raise KeyboardInterrupt

    run = tmp_path / "r"
    monkeypatch.setattr("epochal.cli.fit._stop_if_pressed", press)
    assert main([*SHORT, str(run)]) == 130
    assert f"epochal fit --resume {run}" in capsys.readouterr().out
    assert read_json(run / "summary.json")["status"] == "interrupted"
    assert main([*SHORT, str(run)]) == 2
    assert f"or go on with it: epochal fit --resume {run}" in capsys.readouterr().err
    monkeypatch.undo()
    assert main(["fit", "--resume", str(run)]) == 0
    assert values_of(run) == values_of(whole)


def test_a_fit_killed_before_anything_was_kept_begins_again(whole, tmp_path):
    run = tmp_path / "r"
    options = {**vars(Fit("digits", epochs=25, plot=False, run_dir=str(run)))}
    run.mkdir()
    record = {"options": options, "command": "epochal", "directory": str(tmp_path), "batch_size": 32}
    run_folder.write_begun(run, record)
    (run / "log.jsonl").write_text('{"event": "start"}\n{"event": "epoch", "epoch": 1}\n')
    assert main(["fit", "--resume", str(run)]) == 0
    assert values_of(run) == values_of(whole)


def test_a_fit_that_has_ended_does_not_go_on(whole, capsys):
    before = {p: p.read_bytes() for p in whole.rglob("*") if p.is_file()}
    assert main(["fit", "--resume", str(whole)]) == 0
    assert "has come to its end" in " ".join(capsys.readouterr().out.split())
    assert {p: p.read_bytes() for p in whole.rglob("*") if p.is_file()} == before


def test_what_does_not_go_on(whole, tmp_path, capsys):
    run, other, older = tmp_path / "r", tmp_path / "other", tmp_path / "older"
    for folder in (run, other, older):
        folder.mkdir()
    options = {**vars(Fit("digits", epochs=1, plot=False, run_dir=str(run)))}
    record = {"options": options, "command": "epochal", "directory": str(tmp_path)}
    run_folder.write_begun(run, {**record, "batch_size": 32})
    run_folder.write_begun(other, {**record, "options": {"colour": 1}})
    run_folder.write_begun(older, record)
    store = Store(run / "backup")
    store.lock()
    cases = [
        ([str(tmp_path / "absent")], "There is no folder"),
        ([str(tmp_path)], "holds no run that can go on"),
        ([str(other)], "was written by another epochal"),
        ([str(older)], "was written by another epochal: it lacks batch_size."),
        ([str(run)], "Another run writes to"),
        ([str(run), "--epochs", "3"], "leave out SOURCE and all options but --verbose"),
        ([str(run), "iris"], "leave out SOURCE and all options but --verbose"),
    ]
    for arguments, said in cases:
        assert main(["fit", "--resume", *arguments]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
    store.close()
    assert not (run / "log.jsonl").exists()


def test_a_resumed_fit_says_what_is_wrong_with_its_checkpoints(tmp_path, monkeypatch, capsys):
    def press(epoch, logs=None):
        if epoch == 3:
            raise KeyboardInterrupt

    run = tmp_path / "r"
    monkeypatch.setattr("epochal.cli.fit._stop_if_pressed", press)
    assert main(["fit", "iris", "--epochs", "4", "--no-plot", "--verbose", "0", *FIXED, "--run-dir", str(run)]) == 130
    monkeypatch.undo()
    capsys.readouterr()
    monkeypatch.setattr("epochal.runs.checkpoint_file.FORMAT", 0)
    assert main(["fit", "--resume", str(run)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("epochal: The run cannot go on: Checkpoint ")
    assert error.endswith("has format 1, this epochal reads up to 0: update epochal.\n")
    monkeypatch.undo()
    for checkpoint in (run / "backup").glob("epoch-*"):
        (checkpoint / "data" / "metadata").write_text("{")
    assert main(["fit", "--resume", str(run)]) == 2
    error = capsys.readouterr().err
    assert re.search(r"No checkpoint in .*backup can be read: .*Put its files back, or delete the folder", error)
    assert error.count("\n") == 1


# -- replay


def test_replay_shows_a_step_as_the_run_computed_it(tmp_path, monkeypatch, capsys):
    """With one batch per epoch a step's loss is its epoch's, which history.csv of a whole run tells."""

    def press(epoch, logs=None):
        if epoch == 4:
            raise KeyboardInterrupt

    run, command = tmp_path / "r", ["fit", "digits", "--epochs", "6", "--no-plot", "--verbose", "0"]
    command += ["--batch-size", "full", "--run-dir"]
    assert main([*command, str(tmp_path / "whole")]) == 0
    losses = [float(row["loss"]) for row in read_rows(tmp_path / "whole" / "history.csv")]
    monkeypatch.setattr("epochal.cli.fit._stop_if_pressed", press)
    assert main([*command, str(run)]) == 130
    monkeypatch.undo()
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    capsys.readouterr()
    shown = {}
    for epoch in (1, 5, 6):
        output = tmp_path / f"{epoch}.npz"
        assert main(["replay", str(run), "--epoch", str(epoch), "--batch", "1", "-o", str(output)]) == 0
        shown[epoch] = " ".join(capsys.readouterr().out.split())
        step = np.load(output)
        assert float(step["loss"]) == pytest.approx(losses[epoch - 1], rel=1e-6)  # which is summed in more digits
        assert f"loss {losses[epoch - 1]:.4f}" in shown[epoch]
        assert "not finite nothing" in shown[epoch]
        assert len(step["rows"]) == len(step["x"]) == len(step["predictions"])
        assert step["gradients/hidden/kernel"].shape == (128, 64)
        labels = np.asarray(read_source("digits").column("target").values, int)
        assert np.array_equal(step["y"].ravel(), labels[step["rows"]])
    assert "made again from the beginning of the run" in shown[1]
    assert "made again from checkpoint epoch-" in shown[5]
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_a_step_that_cannot_be_replayed(whole, tmp_path, capsys):
    run = tmp_path / "r"
    run.mkdir()
    options = {**vars(Fit("iris", epochs=3, run_dir=str(run)))}
    record = {"options": options, "command": "epochal", "directory": str(tmp_path), "batch_size": 32}
    run_folder.write_begun(run, record)
    step = ["--epoch", "1", "--batch", "1"]
    cases = [
        ([str(tmp_path / "absent"), *step], "There is no folder"),
        ([str(whole), *step], "holds no run that can go on"),
        ([str(run), "--epoch", "4", "--batch", "1"], "--epoch 4: expected 1 to 3, of which the run consists."),
        ([str(run), "--epoch", "1", "--batch", "0"], "--batch 0: expected 1 to 4, of which the run consists."),
        ([str(run), *step, "-o", "step.csv"], "-o step.csv: expected a file ending in .npz."),
        ([str(run), *step, "-o", "nowhere/step.npz"], "-o nowhere/step.npz: there is no folder"),
    ]
    for arguments, said in cases:
        assert main(["replay", *arguments]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1


# -- as a program


def test_program_says_one_sentence_and_exits_with_2(tmp_path):
    ended = subprocess.run([*PROGRAM, "fit", "absent.csv"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "epochal: There is no file 'absent.csv'.\n"
    assert list(tmp_path.iterdir()) == []


class InTerminal:
    """The program in a terminal of its own, as a shell starts it, in the folder `tmp_path`."""

    SHELL = (
        "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.executable, sys.argv[1:])"
    )

    def __init__(self, folder, arguments):
        self._master, self._slave = pty.openpty()
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 100, 0, 0))
        self.before = termios.tcgetattr(self._slave)
        environment = {k: v for k, v in os.environ.items() if k not in ("CI", "NO_COLOR")}
        ends = dict.fromkeys(("stdin", "stdout", "stderr"), self._slave)
        started = [sys.executable, "-c", self.SHELL, *PROGRAM, *arguments]
        more = {"cwd": folder, "env": {**environment, "TERM": "xterm"}, "start_new_session": True}
        self.process = subprocess.Popen(started, **ends, **more)
        self.raw = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        with contextlib.suppress(OSError):  # the other side is closed
            while piece := os.read(self._master, 4096):
                self.raw += piece

    def type(self, keys):
        os.write(self._master, keys)

    def end(self):
        """Waits for the program's end: its code, the terminal's settings, and what one sees."""
        try:
            code = self.process.wait(60)
        finally:
            self.process.kill()
            self.process.wait()
            settings = termios.tcgetattr(self._slave)
            os.close(self._slave)
            self._reader.join()
            os.close(self._master)
        screen = pyte.Screen(100, 50)
        pyte.ByteStream(screen).feed(self.raw)
        return code, settings, screen


@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM"])
def test_a_run_that_is_broken_off_is_kept_and_leaves_the_terminal_as_it_was(how, tmp_path):
    forever = ["fit", "iris", "--epochs", "100000", "--patience", "100000", "--run-dir", "r", *FIXED]
    terminal = InTerminal(tmp_path, forever)
    log, deadline = tmp_path / "r" / "log.jsonl", time.monotonic() + 60
    try:
        while not (log.exists() and log.read_text().count("\n") > 4):
            assert time.monotonic() < deadline, terminal.raw
            assert terminal.process.poll() is None, terminal.raw
            time.sleep(0.05)
        terminal.type(b"\x03") if how == "Ctrl-C" else terminal.process.terminate()
    finally:
        code, settings, screen = terminal.end()
    said = "\n".join(line.rstrip() for line in screen.display).rstrip()
    for changed in (b"\x1b[?25l", b"\x1b[32m"):  # the cursor was hidden, and there were colours
        assert changed in terminal.raw
    assert not screen.cursor.hidden
    assert screen.cursor.attrs == pyte.Screen(1, 1).cursor.attrs
    assert (screen.cursor.x, screen.cursor.y) == (0, said.count("\n") + 1)
    assert screen.mode == pyte.Screen(1, 1).mode
    assert b"\x1b[?1049" not in terminal.raw  # the alternate screen
    assert settings == terminal.before
    assert settings[3] & termios.ECHO
    assert "Traceback" not in said
    if how == "SIGTERM":
        assert code == 143
        assert said.splitlines()[-1] == "epochal: terminated; go on with: epochal fit --resume r"
        assert list((tmp_path / "r" / "backup").glob("epoch-*"))
        return
    assert code == 130
    assert "interrupted" in said
    summary = read_json(tmp_path / "r" / "summary.json")
    assert summary["status"] == "interrupted"
    assert json.loads(log.read_text().splitlines()[-1])["reason"] == "interrupted"
    model = load_model(tmp_path / "r" / "model")
    prepared = prepare(read_source("iris"))
    values = model.evaluate(prepared.x_validation, prepared.y_validation, verbose=0, return_dict=True)
    assert values["loss"] == pytest.approx(summary["metrics"]["val_loss"], rel=1e-5)


def test_runs_of_the_same_second_have_folders_of_their_own(tmp_path):
    made = [run_folder.make_folder(tmp_path / "runs" / "now-iris", exact=False) for _ in range(3)]
    assert [folder.name for folder in made] == ["now-iris", "now-iris-2", "now-iris-3"]
    assert run_folder.make_folder(made[0], exact=True) == made[0]


def test_a_network_of_logits_gets_a_softmax(tmp_path, capsys):
    (tmp_path / "net.py").write_text(
        "from epochal import Sequential, layers\n"
        "def build(input_shape, n_outputs):\n"
        "    return Sequential([layers.Flatten(), layers.Dense(n_outputs)])\n"
    )
    folder = tmp_path / "run"
    command = ["fit", "iris", "--model", f"{tmp_path / 'net.py'}:build", "--run-dir", str(folder), "--epochs", "60"]
    assert main([*command, "--learning-rate", "0.05"]) == 0
    assert "a softmax is added" in capsys.readouterr().out
    assert read_json(folder / "summary.json")["metrics"]["val_accuracy"] > 0.8


def test_a_reader_that_goes_away_does_not_end_the_run(tmp_path):
    folder = tmp_path / "run"
    command = (
        f"{sys.executable} -m epochal fit iris --epochs 3 --batch-size 32 --no-plot --run-dir {folder} | head -n 2"
    )
    subprocess.run(["bash", "-c", command], check=True, capture_output=True, timeout=120)
    for _ in range(200):
        if (folder / "summary.json").exists():
            break
        time.sleep(0.1)
    assert read_json(folder / "summary.json")["epochs"] == 3

"""`epochal fit`, run in process."""

import json
import re

import numpy as np
import pytest
from support.command_line import FIXED, FLOWERS, read_json

from epochal.cli.program import main
from epochal.models import load_model
from epochal.plans import step_times, trial_noise
from epochal.runs.run_folder import read_history
from epochal.tables import prepare, read_source


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
    for name, value in {"SIZES": (64, 16), "ROUNDS": 1, "SLICE": 1e-4}.items():
        monkeypatch.setattr(step_times, name, value)
    for name, value in {"GRADIENTS": 64, "LOOKS": (1, 2)}.items():
        monkeypatch.setattr(trial_noise, name, value)
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

"""A run folder's files."""

import json
import math

import numpy as np
import pytest

from epochal.runs import run_folder, run_log


def test_run_log_writes_as_it_happens(tmp_path):
    path = tmp_path / "log.jsonl"
    log = run_log.RunLog(path, {"source": "made", "n": 7})
    log.set_params({"epochs": 3})

    def lines():
        return [json.loads(line) for line in path.read_text().splitlines()]

    log.on_train_begin()
    assert [line["event"] for line in lines()] == ["start"]
    assert lines()[0]["source"] == "made"
    log.on_epoch_end(0, {"loss": np.float32(0.5), "val_loss": math.nan, "per_class": np.ones(2)})
    assert lines()[1] | {"seconds": 0} == {
        "event": "epoch",
        "epoch": 1,
        "seconds": 0,
        "loss": 0.5,
        "val_loss": "nan",
        "per_class": [1, 1],
    }
    log.on_epoch_end(1, {"loss": 0.25})
    log.on_train_end()
    log.end("failed")  # is too late to say anything
    assert lines()[-1] | {"seconds": 0} == {"event": "end", "reason": "stopped early", "epochs": 2, "seconds": 0}


def test_history_round_trip(tmp_path):
    history = {"loss": [0.1, 0.2, 1 / 3], "val_loss": [0.5, 0.25]}
    run_folder.write_history(tmp_path, [1, 2, 3], history)
    epochs, values = run_folder.read_history(tmp_path)
    assert epochs == [1, 2, 3]
    assert values["loss"] == history["loss"]
    assert math.isnan(values["val_loss"][0])
    assert values["val_loss"][1:] == history["val_loss"]


def test_summary_is_there_whole_or_not_at_all(tmp_path):
    run_folder.write_summary(tmp_path, {"n": np.int64(3), "metrics": {"loss": np.float32(0.5), "val_loss": math.inf}})
    assert run_folder.read_summary(tmp_path) == {"n": 3, "metrics": {"loss": 0.5, "val_loss": "inf"}}
    with pytest.raises(TypeError):
        run_folder.write_summary(tmp_path, {"n": object()})
    assert run_folder.read_summary(tmp_path)["n"] == 3
    assert [p.name for p in tmp_path.iterdir() if p.name == "summary.json"] == ["summary.json"]


def test_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = run_folder.default_folder("some/where/houses.csv")
    assert first.name.endswith("-houses")
    first.mkdir(parents=True)
    run_folder.check_free(first)
    (first / "log.jsonl").touch()
    with pytest.raises(FileExistsError, match="already holds a run"):
        run_folder.check_free(first)
    with pytest.raises(NotADirectoryError, match="is a file"):
        run_folder.check_free(first / "log.jsonl")
    with pytest.raises(FileNotFoundError, match="no trained model"):
        run_folder.model_folder(first)

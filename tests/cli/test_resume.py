"""`epochal fit --resume`: a fit that was broken off goes on."""

import json
import re
import signal
import subprocess
import time

import pytest
from support.command_line import FIXED, PROGRAM, SHORT, read_json

from epochal.cli.options import Fit
from epochal.cli.program import main
from epochal.models import load_model
from epochal.runs import run_folder
from epochal.runs.store import Store

pytestmark = pytest.mark.optimized  # bits are compared


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

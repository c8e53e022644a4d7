"""`epochal replay` shows a step as the run computed it."""

import numpy as np
import pytest
from support.command_line import read_rows

from epochal.cli.options import Fit
from epochal.cli.program import main
from epochal.runs import run_folder
from epochal.tables import read_source

pytestmark = pytest.mark.optimized  # bits are compared


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

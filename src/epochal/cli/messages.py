"""What the command line says of the data, the network and the result."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from epochal.cli.options import Fit
from epochal.display.console import say, say_values
from epochal.display.text import listed
from epochal.tables import Prepared, Table


def data(table: Table, prepared: Prepared) -> None:
    """What was understood of the table."""
    preprocessing, target = prepared.preprocessing, prepared.preprocessing.target
    given = len(table.columns) - 1
    features = (
        f"examples of shape {preprocessing.input_shape}"
        if preprocessing.array is not None
        else f"{given} columns → {len(preprocessing.features)} features"
    )
    say("data", f"{table.source}: {prepared.n:,} rows, {features}")
    for note in table.notes:
        say("", note)
    for reason in sorted({reason for _, reason in preprocessing.dropped}):
        names = [name for name, why in preprocessing.dropped if why == reason]
        say("left out", f"{listed(names, 8)}: {reason}")
    say("target", f"{target.name} ({prepared.chosen})")
    if target.task == "classification":
        learned = f"classification, {len(target.classes)} classes: {listed([str(c) for c in target.classes], 10)}"
    else:
        learned = f"regression, mean {target.mean:.4g}, standard deviation {target.std:.4g}"
    say("task", f"{learned} ({prepared.rule}{'' if prepared.rule == 'by --task' else '; --task overrides'})")
    say("split", f"{len(prepared.x):,} training rows, {len(prepared.x_validation):,} validation rows")


def network(options: Fit, own: bool, size: int, steps: int) -> None:
    """The network and how it is trained."""
    compiled = "as compiled in " + str(options.model) if own else f"Adam, learning rate {options.learning_rate:g}"
    say("training", f"{compiled}; at most {options.epochs} epochs, patience {options.patience}")
    say("", f"batch size {size}, {steps:,} steps per epoch")


def result(options: Fit, summary: dict[str, Any], folder: Path, problem: str | None) -> None:
    """What came of the run."""
    times = f"{summary['seconds']:.1f} s"
    if summary["status"] == "interrupted":
        ended = "interrupted"
    else:
        ended = (
            "all epochs done" if summary["epochs"] == options.epochs else f"no better val_loss for {options.patience}"
        )
        times += f", {summary['compile_seconds']:.1f} s of it compiling"
    print()
    say("trained", f"{summary['epochs']} epochs ({ended}), {times}")
    if summary["status"] == "diverged":
        say("diverged", "the validation loss is not a finite number: try a smaller --learning-rate")
    else:
        say("kept", f"epoch {summary['best_epoch']}: least val_loss (chosen on these rows, so a bit flattering)")
    say_values(summary["metrics"])
    if problem is not None:
        say("not saved", problem)
    if summary["status"] == "interrupted":
        say("go on with", f"epochal fit --resume {folder}")
    if summary["status"] == "diverged":  # no epoch's val_loss was finite: it did so in the first one
        say("look into it", f"epochal replay {folder} --epoch 1 --batch 1, and the batches behind it")
    files = ["model/"] * (problem is None) + ["curves.png"] * options.plot
    say("run folder", f"{folder}{os.sep}  {', '.join([*files, 'history.csv', 'summary.json', 'log.jsonl'])}")

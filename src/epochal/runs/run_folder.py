"""The run folder: what a fit leaves behind, and reading it back.

    summary.json   what was run and what came of it (written last, in one piece: if it is there, the run is complete)
    history.csv    epoch (the first is 1) and every value, a row per epoch
    log.jsonl      a line as the run starts, a line per epoch as it happens, a line as it ends
    curves.png     drawn by display/curves.py
    plan.json      how the batch size was measured, if it was
    model/         `load_model` reads it; preprocessing.json beside the weights
    backup/        until the run has ended, and of one that diverged: how it was begun (begun.json) and its checkpoints,
                   to go on from and to replay steps

Nothing of training is imported here but the base of callbacks.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from epochal.runs.run_log import plain

SUMMARY, HISTORY, LOG, CURVES, MODEL = "summary.json", "history.csv", "log.jsonl", "curves.png", "model"
PLAN = "plan.json"
BACKUP, _BEGUN = "backup", "begun.json"
_OURS = (SUMMARY, HISTORY, LOG, CURVES, MODEL, PLAN, BACKUP)


def default_folder(source: str) -> Path:
    """`runs/<time>-<source>`, with a number at the end if there is one from the same second."""
    stem = Path(source).stem or "data"
    base = Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{stem}"
    tried, number = base, 2
    while tried.exists():
        tried, number = base.with_name(f"{base.name}-{number}"), number + 1
    return tried


def make_folder(folder: Path, exact: bool) -> Path:
    """Makes the folder and returns it. Unless `exact`, one that is there already, since another run came first, is left
    to it and a number is added to the name."""
    if exact:
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    tried, number = folder, 2
    while True:
        try:
            tried.mkdir()
        except FileExistsError:
            tried, number = folder.with_name(f"{folder.name}-{number}"), number + 1
        else:
            return tried


def check_free(folder: Path) -> None:
    """Raises `FileExistsError` if the folder already holds a run, `NotADirectoryError` if it is a file."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{str(folder)!r} is a file, expected a folder for the run.")
    held = [name for name in _OURS if (folder / name).exists()]
    if held:
        goes_on = (folder / BACKUP / _BEGUN).exists() and not has_ended(folder)
        hint = f", or go on with it: epochal fit --resume {folder}" if goes_on else ""
        raise FileExistsError(f"{str(folder)!r} already holds a run ({held[0]}): choose another --run-dir{hint}.")


def write_begun(folder: Path, record: dict[str, Any], plan: dict[str, Any] | None = None) -> None:
    """Notes in the run's backup how it was begun, as JSON data; beside it how the batch size was measured."""
    if plan is not None:
        _write_json(folder / PLAN, plan)
    (folder / BACKUP).mkdir()
    _write_json(folder / BACKUP / _BEGUN, record)


def read_begun(folder: Path) -> dict[str, Any]:
    """What `write_begun` wrote.

    Raises:
        FileNotFoundError: no such folder, or no run in it that can go on.
        ValueError: the file is damaged.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {str(folder)!r}.")
    path = folder / BACKUP / _BEGUN
    if not path.is_file():
        raise FileNotFoundError(
            f"{str(folder)!r} holds no run that can go on: expected a run folder of `epochal fit` with {BACKUP}/ in it."
        )
    return json.loads(path.read_text(encoding="utf-8"))


def read_plan(folder: Path) -> dict[str, Any] | None:
    """The size that a measured plan chose and the sentence that says why; None where nothing was measured."""
    if not (folder / PLAN).is_file():
        return None
    plan = json.loads((folder / PLAN).read_text(encoding="utf-8"))
    return {"batch_size": plan["batch_size"], "why": plan["why"][0]}


def remove_backup(folder: Path) -> None:
    """The run has ended, or never began."""
    shutil.rmtree(folder / BACKUP, ignore_errors=True)


def has_ended(folder: Path) -> bool:
    """Whether the run in a folder has come to its end; one that was interrupted has not."""
    return (folder / SUMMARY).is_file() and read_summary(folder).get("status") != "interrupted"


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """Writes `summary.json`."""
    _write_json(folder / SUMMARY, summary)


def _write_json(path: Path, data: dict[str, Any]) -> None:
    """Writes a file in one piece: a reader sees the whole file or none."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(plain(data), file, indent=2, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_summary(folder: Path) -> dict[str, Any]:
    """What `write_summary` wrote.

    Raises:
        FileNotFoundError: no such run, or one that has not ended.
    """
    return json.loads((folder / SUMMARY).read_text(encoding="utf-8"))


def write_history(folder: Path, epochs: list[int], history: dict[str, list[Any]]) -> None:
    """Writes `history.csv`: a row per epoch; a value that an epoch does not have is empty.

    Args:
        folder: of the run.
        epochs: their numbers, the first epoch being 1.
        history: name -> one value per epoch; shorter lists (validation every few epochs) belong to the last ones.
    """
    columns = {name: [""] * (len(epochs) - len(values)) + list(values) for name, values in history.items()}
    with (folder / HISTORY).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", *columns])
        for row, epoch in enumerate(epochs):
            writer.writerow([epoch, *(column[row] for column in columns.values())])


def read_history(folder: Path) -> tuple[list[int], dict[str, list[float]]]:
    """What `write_history` wrote; empty fields are NaN."""
    with (folder / HISTORY).open(newline="", encoding="utf-8") as file:
        names, *rows = list(csv.reader(file))
    values = {name: [float(row[i] or "nan") for row in rows] for i, name in enumerate(names)}
    epochs = [int(epoch) for epoch in values.pop("epoch")]
    return epochs, values


def model_folder(path: Path) -> Path:
    """The model's folder, given the run's folder or the model's own.

    Raises:
        FileNotFoundError: there is no model in it.
    """
    for folder in (path / MODEL, path):
        if (folder / "config.json").is_file() or (folder / "preprocessing.json").is_file():
            return folder
    raise FileNotFoundError(
        f"There is no trained model in {str(path)!r}: expected a run folder of `epochal fit`, or its model/ folder."
    )

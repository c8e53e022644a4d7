"""`epochal evaluate` and `epochal predict`: a trained model on other data."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from epochal.cli.loading import as_input_errors
from epochal.cli.networks import class_probabilities
from epochal.cli.options import Evaluate, Predict
from epochal.display.console import say, say_values
from epochal.models import Model, load_model
from epochal.runs import run_folder
from epochal.support.errors import InputError
from epochal.tables import Preprocessing, read_source, target_of
from epochal.tables.split import split_rows

# -- evaluate and predict


def evaluate(options: Evaluate) -> int:
    """Prints loss and metrics by name; 0."""
    model, preprocessing = _load(options.model)
    table = read_source(options.source, "test" if options.rows == "all" else "train")
    x, y = preprocessing.apply(table), target_of(table, preprocessing)
    if options.rows != "all":
        rows = _rows(options, preprocessing, y)
        x, y = x[rows], y[rows]
    with as_input_errors("The model cannot be evaluated on this data"):
        values = model.evaluate(x, y, verbose=0, return_dict=True)
    say("data", f"{options.source}: {len(x):,} rows" + (f" ({options.rows})" if options.rows != "all" else ""))
    for note in table.notes:
        say("", note)
    say_values(values)
    return 0


def _rows(options: Evaluate, preprocessing: Preprocessing, y: np.ndarray) -> np.ndarray:
    """The rows of one part of the split, made again from the run's seed."""
    folder = run_folder.model_folder(Path(options.model)).parent
    try:
        summary = run_folder.read_summary(folder)
    except (OSError, ValueError) as error:
        raise InputError(f"--rows {options.rows} needs {folder / run_folder.SUMMARY}, which cannot be read.") from error
    if summary["n"] != len(y):
        raise InputError(
            f"--rows {options.rows} needs the table that was trained on, with {summary['n']} rows, not {len(y)}."
        )
    training, validation = split_rows(y, summary["validation_split"], summary["seed"])
    return training if options.rows == "training" else validation


def predict(options: Predict) -> int:
    """Writes the predictions; 0."""
    path = Path(options.output)
    if path.suffix.lower() != ".csv":
        raise InputError(f"-o {options.output}: expected a file ending in .csv.")
    if path.exists() and not options.force:
        raise InputError(f"{options.output!r} exists already: add --force to replace it, or choose another -o.")
    if not path.parent.is_dir():
        raise InputError(f"-o {options.output}: there is no folder {str(path.parent)!r}.")
    model, preprocessing = _load(options.model)
    table = read_source(options.source, "test")
    x = preprocessing.apply(table)
    with as_input_errors("The model cannot predict from this data"):
        outputs = np.asarray(model.predict(x, verbose=0)).reshape(len(x), -1)
    target = preprocessing.target
    if target.task == "classification":
        probabilities = class_probabilities(outputs)
        header = ["prediction", *(f"probability_{label}" for label in target.classes)]
        labels = [target.classes[i] for i in probabilities.argmax(axis=1)]
        rows = ([label, *map(_short, row)] for label, row in zip(labels, probabilities, strict=True))
    else:
        header, rows = ["prediction"], ([_short(value)] for value in outputs[:, 0])
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    temporary.replace(path)
    say("written", f"{path}: {len(x):,} rows, {', '.join(header[:4])}{', …' if len(header) > 4 else ''}")
    return 0


def _load(path: str) -> tuple[Model, Preprocessing]:
    """The model and its preprocessing, from a run folder or a model folder."""
    folder = run_folder.model_folder(Path(path))
    preprocessing = Preprocessing.load(folder)
    with as_input_errors(f"{str(folder)!r} cannot be loaded"):
        return load_model(folder), preprocessing


def _short(value: float | np.floating) -> str:
    return f"{float(value):.7g}"

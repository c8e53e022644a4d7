"""The command line: `epochal fit`, `epochal replay`, `epochal evaluate`, `epochal predict`, `epochal plan` and `study`.

What the user can put right ends in one sentence on stderr and exit code 2; Ctrl-C in 130. Whatever else goes wrong is a
bug, and shows its traceback.
"""

from __future__ import annotations

import csv
import os
import platform
import shlex
import sys
import threading
from collections.abc import Sequence
from contextlib import chdir, contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from epochal import runfolder, telling
from epochal.batch_plan import BatchPlan
from epochal.options import Evaluate, Fit, Plan, Predict, Replay, Study
from epochal.report import say, say_values
from epochal.tables import InputError, Prepared, Preprocessing, Table, prepare, read_source, target_of
from epochal.tables.split import split_rows

_DESCRIPTION = """Train a network on a table, look at the result, use it.

  epochal fit digits                            a bundled data set: digits, diabetes, breast_cancer, iris, wine
  epochal fit houses.csv --target price         your own: .csv, .parquet, .npz
  epochal fit --resume runs/20260101-120000-houses    one that was killed or interrupted goes on where it was
  epochal replay runs/20260101-120000-houses --epoch 3 --batch 17      one step of it, made again to be looked at
  epochal plan digits                           which batch size to take, measured
  epochal evaluate runs/20260101-120000-houses new.csv
  epochal predict runs/20260101-120000-houses new.csv -o prices.csv
  epochal study digits                          which batch size is good for what, on one page
  epochal --version

Everything a fit leaves behind is in its run folder: model/, curves.png, history.csv, summary.json, log.jsonl."""


# Ctrl-C was pressed: set by the program's handler (`epochal.__main__`), looked at before every epoch.
pressed = threading.Event()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: without the program's name; None: those the program was started with.

    Returns:
        the exit code: 0, 2 for what the user can put right, 130 after Ctrl-C.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given in (["--version"], ["-V"]):
        print(f"epochal {version('epochal')}")
        return 0
    try:
        command = tyro.cli(
            Fit | Replay | Evaluate | Predict | Plan | Study, prog="epochal", description=_DESCRIPTION, args=given
        )
        if isinstance(command, Fit):
            return fit(command, shlex.join(["epochal", *given]))
        if isinstance(command, Study):
            return study(command)
        if isinstance(command, Plan):
            return plan(command)
        if isinstance(command, Replay):
            return replay(command)
        evaluate(command) if isinstance(command, Evaluate) else predict(command)
    except SystemExit as end:  # tyro: 0 after --help, 2 after a wrong option
        return end.code if isinstance(end.code, int) else 2
    except (InputError, OSError) as error:
        print(f"epochal: {_sentence(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("epochal: interrupted.", file=sys.stderr)
        return 130
    return 0


# -- fit


def fit(options: Fit, command: str) -> int:
    """Trains as the options say, and writes the run folder; 0, or 130 if Ctrl-C ended it (the folder is kept)."""
    if options.resume is not None:
        return _resume(options, Path(options.resume).absolute())
    _check(options)
    folder = Path(options.run_dir) if options.run_dir is not None else runfolder.default_folder(str(options.source))
    runfolder.check_free(folder)
    return _run(options, command, folder)


def _resume(options: Fit, folder: Path) -> int:
    """Goes on with the fit in a run folder, with the options that it was begun with."""
    if replace(options, resume=None, verbose=Fit.verbose) != Fit():
        raise InputError(
            "--resume goes on with the run's own settings: leave out SOURCE and all options but --verbose."
        )
    with _as_input_errors("No run can go on"):
        if runfolder.has_ended(folder):
            say("ended", f"the run in {folder}{os.sep} has come to its end: there is nothing to go on with")
            return 0
        own, begun = _begun(folder)
    with chdir(begun["directory"]):  # relative paths of its command mean what they meant
        return _run(replace(own, verbose=options.verbose), begun["command"], folder, begun)


def _begun(folder: Path) -> tuple[Fit, dict[str, Any]]:
    """The options that the fit in a run folder was begun with, and all else that was noted of it then."""
    begun = runfolder.read_begun(folder)
    try:
        given: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in begun["options"].items()
        }
        if lacking := {"command", "directory", "batch_size"} - begun.keys():
            raise TypeError(f"it lacks {', '.join(sorted(lacking))}")
        return Fit(**given), begun
    except (TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{str(folder)!r} was written by another epochal: {error}.") from error


def _run(options: Fit, command: str, folder: Path, begun: dict[str, Any] | None = None) -> int:
    """Reads the data and makes the network, then trains it; `begun` is how a run that goes on was begun."""
    resumed = begun is not None
    table, prepared = _prepared(options)
    network, own = _network(options, prepared)
    network.summary()
    planned, size = None, min(len(prepared.x), begun["batch_size"]) if begun is not None else 0
    if begun is None:
        planned, size = _batch_size(options, prepared, network)
    telling.network(options, own, size, -(-len(prepared.x) // size))
    if not resumed:
        folder = runfolder.make_folder(folder, exact=options.run_dir is not None)
        how = {"options": asdict(options), "command": command, "directory": os.getcwd(), "batch_size": size}
        runfolder.write_begun(folder, how, None if planned is None else planned.to_dict())
    say("run folder", f"{folder}{os.sep}")
    print(flush=True)
    try:
        return _train(options, command, folder, table.source, prepared, network, size)
    except InputError:
        if not resumed and not (folder / runfolder.LOG).exists():  # refused before the first line of the log
            runfolder.remove_backup(folder)
            (folder / runfolder.PLAN).unlink(missing_ok=True)
            if not any(folder.iterdir()):
                folder.rmdir()
        raise


def _prepared(options: Fit | Plan | Study) -> tuple[Table, Prepared]:
    """The source's table, and what becomes of it; says what was understood."""
    table = read_source(str(options.source))
    prepared = prepare(
        table,
        target=options.target,
        task=options.task,
        validation_split=options.validation_split,
        seed=options.seed,
        drop=options.drop,
        categorical=options.categorical,
    )
    telling.data(table, prepared)
    return table, prepared


def _train(options: Fit, command: str, folder: Path, source: str, prepared: Prepared, network: Any, size: int) -> int:
    """`model.fit` with early stopping, backup and the log, then the rest of the run folder, interrupted or not."""
    from epochal import callbacks
    from epochal.checkpoint import FolderInUse

    settings = _settings(options, command, source, prepared, network, size)
    log = runfolder.RunLog(folder / runfolder.LOG, settings)
    stopping = callbacks.EarlyStopping("val_loss", patience=options.patience, restore_best_weights=True)
    # Not deleted at the end of training: the summary is not written yet.
    backup = callbacks.BackupAndRestore(folder / runfolder.BACKUP, delete_checkpoint=False)
    reason, goes_on = "failed", any((folder / runfolder.BACKUP).glob("epoch-*"))
    try:
        with _as_input_errors("The run cannot go on" if goes_on else "The network cannot be trained on this data"):
            network.fit(
                prepared.x,
                prepared.y,
                batch_size=size,
                epochs=options.epochs,
                verbose=options.verbose,
                validation_data=(prepared.x_validation, prepared.y_validation),
                callbacks=[stopping, log, backup, callbacks.LambdaCallback(on_epoch_begin=_stop_if_pressed)],
            )
    except FolderInUse as error:
        raise InputError(str(error)) from error
    except KeyboardInterrupt:
        reason = "interrupted"
        stopping.on_train_end()  # puts the best epoch's weights back
    except SystemExit:  # SIGTERM; the run was kept
        reason = "terminated"
        print(f"epochal: terminated; go on with: epochal fit --resume {folder}", file=sys.stderr)
        raise
    finally:
        log.end(reason)  # nothing, if the fit ended as it should
    record, interrupted = network.history, reason == "interrupted"
    if record is None or not record.epoch:
        say("stopped", f"interrupted before the first epoch ended; go on with: epochal fit --resume {folder}")
        return 130
    summary = {**_summary(settings, record, interrupted, log), "plan": runfolder.read_plan(folder)}
    saved = _save(options, folder, summary, prepared.preprocessing, network)
    if summary["status"] == "done":  # one that diverged can be replayed
        runfolder.remove_backup(folder)
    telling.result(options, summary, folder, saved)
    return {"done": 0, "diverged": 1}.get(summary["status"], 130)


def _settings(options: Fit, command: str, source: str, prepared: Prepared, network: Any, size: int) -> dict[str, Any]:
    """What the log and the summary say of how the run was set up."""
    return {
        "source": source,
        "task": prepared.preprocessing.target.task,
        "target": prepared.preprocessing.target.name,
        "n": prepared.n,
        "n_train": len(prepared.x),
        "n_validation": len(prepared.x_validation),
        "features": list(prepared.preprocessing.input_shape),
        "batch_size": size,
        "steps_per_epoch": -(-len(prepared.x) // size),
        "validation_split": options.validation_split,
        "seed": options.seed,
        "learning_rate": float(network.optimizer.learning_rate),
        "optimizer": type(network.optimizer).__name__,
        "patience": options.patience,
        "command": command,
    }


def _stop_if_pressed(epoch: int, logs: Any) -> None:
    if pressed.is_set():
        raise KeyboardInterrupt


def _summary(settings: dict[str, Any], record: Any, interrupted: bool, log: runfolder.RunLog) -> dict[str, Any]:
    """What `summary.json` says, from the run's History; the log knows the time of a run that was broken off.

    `seconds` of the whole fit; `examples_per_second` are training examples outside of compiling, validation time
    included, and like `compile_seconds` and `data_wait` (the share of the time in which the device waited for data)
    since the run last went on; `metrics` are those of the kept epoch, the one of
    least val_loss.
    """
    losses = record.history.get("val_loss", [])
    best = _best(losses)
    whole = not interrupted
    return {
        **settings,
        "status": "interrupted" if interrupted else "done" if np.isfinite(losses).any() else "diverged",
        "epochs": len(record.epoch),
        "best_epoch": record.epoch[best] + 1,
        "seconds": round(record.seconds if whole and not log.resumed else log.seconds, 3),
        "compile_seconds": round(record.compile_seconds, 3) if whole else None,
        "examples_per_second": round(record.examples_per_second, 1) if whole else None,
        "data_wait": round(record.data_wait, 4) if whole else None,
        "metrics": {name: values[best] for name, values in record.history.items()},
        "versions": _versions(),
        "ended": runfolder.now(),
    }


def _save(
    options: Fit, folder: Path, summary: dict[str, Any], preprocessing: Preprocessing, network: Any
) -> str | None:
    """Writes the history, the picture, the model and, last, the summary; says why the model could not be written."""
    from epochal import report

    epochs, history = [epoch + 1 for epoch in network.history.epoch], network.history.history
    runfolder.write_history(folder, epochs, history)
    if options.plot:
        title = "{source}: {task}, {n_train:,} training rows, batch {batch_size}".format(**summary)
        report.draw_curves(folder / runfolder.CURVES, epochs, history, summary["best_epoch"], title)
    problem = None
    try:
        network.save(folder / runfolder.MODEL)
        preprocessing.save(folder / runfolder.MODEL)
    except TypeError as error:  # a part that cannot be written as data; the training is not to be lost for it
        network.save_weights(folder / "weights.safetensors")
        problem = f"{error} The weights alone are in weights.safetensors."
    runfolder.write_summary(folder, summary)
    return problem


def _best(losses: list[float]) -> int:
    """The index of the least loss, the first of equals; of none finite, the last epoch's."""
    finite = np.where(np.isfinite(losses), losses, np.inf)
    return int(np.argmin(finite)) if np.isfinite(finite).any() else len(losses) - 1


def _network(options: Fit | Plan, prepared: Prepared) -> tuple[Any, bool]:
    """The compiled model, and whether the user compiled it."""
    from epochal import tasks
    from epochal.random import set_random_seed

    set_random_seed(options.seed)
    target, shape, n = prepared.preprocessing.target, prepared.preprocessing.input_shape, len(prepared.x)
    if options.model is not None:
        network = tasks.network_from_file(options.model, shape, target, n)
        network, own, added = tasks.finish_network(network, target, prepared.x, options.learning_rate)
        if added is not None:
            say("network", f"its outputs are no probabilities: a {added} is added")
        return network, own
    network = tasks.default_network(shape, target, n)
    tasks.compile_for(network, target, options.learning_rate)
    return network, False


def _check(options: Fit) -> None:
    """Raises `InputError` for an option whose value makes no sense."""
    if options.source is None:
        raise InputError("fit needs a SOURCE, such as digits or houses.csv, or --resume FOLDER.")
    least = {"epochs": 1, "patience": 1, "seed": 0}
    for name, low in least.items():
        if getattr(options, name) < low:
            raise InputError(f"--{name} {getattr(options, name)}: expected {low} or more.")
    if options.seed >= 2**32:
        raise InputError(f"--seed {options.seed}: expected less than 2**32.")
    if isinstance(options.batch_size, int) and options.batch_size < 1:
        raise InputError(f'--batch-size {options.batch_size}: expected 1 or more, "auto" or "full".')
    if not 0 < options.validation_split < 1:
        raise InputError(f"--validation-split {options.validation_split:g}: expected more than 0 and less than 1.")
    if not 0 < options.learning_rate < float("inf"):
        raise InputError(f"--learning-rate {options.learning_rate:g}: expected more than 0.")


def _batch_size(options: Fit, prepared: Prepared, network: Any) -> tuple[BatchPlan | None, int]:
    """The plan, where it is "auto", and the rows per step, never more than there are."""
    given, n = options.batch_size, len(prepared.x)
    if given != "auto":
        return None, n if given == "full" else min(int(given), n)
    from epochal import advising

    planned = advising.before_fit(network, prepared, options.epochs)
    say("batch size", f"{planned.batch_size}, measured in {planned.measurements.measuring_seconds:.0f} s")
    for sentence in planned.why[:3]:
        say("", sentence)
    return planned, planned.batch_size


def _versions() -> dict[str, str]:
    packages = ("epochal", "jax", "flax", "optax", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


# -- replay, plan and study


def replay(options: Replay) -> int:
    """Makes one step of a fit again and shows it; 0."""
    from epochal import replaying

    folder, output = Path(options.run).absolute(), replaying.output_of(options)
    with _as_input_errors("No step can be made again"):
        own, begun = _begun(folder)
    with chdir(begun["directory"]):
        table, prepared = _prepared(own)
        network, _ = _network(own, prepared)
        rows = split_rows(target_of(table, prepared.preprocessing), own.validation_split, own.seed)[0]
        with _as_input_errors("The step cannot be made again"):
            step = replaying.run(options, own.epochs, folder, prepared, network, min(len(rows), begun["batch_size"]))
    replaying.show(step, rows, output)
    return 0


def plan(options: Plan) -> int:
    """Prints which batch size to take; 0."""
    from epochal import advising

    advising.check(options)
    _, prepared = _prepared(options)
    network, _ = _network(options, prepared)
    advising.run(options, prepared, network)
    return 0


def study(options: Study) -> int:
    """Compares batch sizes as the options say; 0, or 130 after Ctrl-C."""
    from epochal import studying

    studying.check(options)
    _, prepared = _prepared(options)
    try:
        studying.run(options, prepared)
    except KeyboardInterrupt:
        print()
        say("stopped", "interrupted; the same command goes on with the fits that are missing")
        return 130
    return 0


# -- evaluate and predict


def evaluate(options: Evaluate) -> dict[str, float]:
    """Prints and returns name -> value."""
    model, preprocessing = _load(options.model)
    table = read_source(options.source, "test" if options.rows == "all" else "train")
    x, y = preprocessing.apply(table), target_of(table, preprocessing)
    if options.rows != "all":
        rows = _rows(options, preprocessing, y)
        x, y = x[rows], y[rows]
    with _as_input_errors("The model cannot be evaluated on this data"):
        values = model.evaluate(x, y, verbose=0, return_dict=True)
    say("data", f"{options.source}: {len(x):,} rows" + (f" ({options.rows})" if options.rows != "all" else ""))
    for note in table.notes:
        say("", note)
    say_values(values)
    return values


def _rows(options: Evaluate, preprocessing: Preprocessing, y: np.ndarray) -> np.ndarray:
    """The rows of one part of the split, made again from the run's seed."""
    folder = runfolder.model_folder(Path(options.model)).parent
    try:
        summary = runfolder.read_summary(folder)
    except (OSError, ValueError) as error:
        raise InputError(f"--rows {options.rows} needs {folder / runfolder.SUMMARY}, which cannot be read.") from error
    if summary["n"] != len(y):
        raise InputError(
            f"--rows {options.rows} needs the table that was trained on, with {summary['n']} rows, not {len(y)}."
        )
    training, validation = split_rows(y, summary["validation_split"], summary["seed"])
    return training if options.rows == "training" else validation


def predict(options: Predict) -> None:
    """Writes the predictions."""
    from epochal.tasks import class_probabilities

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
    with _as_input_errors("The model cannot predict from this data"):
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


def _load(path: str) -> tuple[Any, Preprocessing]:
    """The model and its preprocessing, from a run folder or a model folder."""
    folder = runfolder.model_folder(Path(path))
    preprocessing = Preprocessing.load(folder)
    from epochal.models import load_model

    with _as_input_errors(f"{str(folder)!r} cannot be loaded"):
        return load_model(folder), preprocessing


def _short(value: Any) -> str:
    return f"{float(value):.7g}"


# -- what is printed


@contextmanager
def _as_input_errors(what: str) -> Any:
    """Values that a model refuses are the user's to put right."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        raise InputError(f"{what}: {error}") from error


def _sentence(error: Exception) -> str:
    """An error's message on one line; a failed system call as "what: which file"."""
    if isinstance(error, OSError) and error.strerror:
        where = f": {str(error.filename)!r}" if error.filename else ""
        return f"{error.strerror}{where}."
    return " ".join(str(error).split())

"""`epochal fit`: trains a network on a table, and keeps the run in a folder."""

from __future__ import annotations

import os
import platform
import sys
from contextlib import chdir
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from epochal import callbacks
from epochal.cli import messages
from epochal.cli.ctrl_c import pressed
from epochal.cli.loading import as_input_errors, make_network, read_prepared
from epochal.cli.options import Fit
from epochal.cli.plan import before_fit
from epochal.display import curves
from epochal.display.console import say
from epochal.models import Model
from epochal.plans.plan import BatchPlan
from epochal.runs import run_folder, run_log
from epochal.runs.store import FolderInUse
from epochal.support.errors import InputError
from epochal.tables import Prepared

# -- fit


def fit(options: Fit, command: str) -> int:
    """Trains as the options say, and writes the run folder; 0, or 130 if Ctrl-C ended it (the folder is kept)."""
    if options.resume is not None:
        return _resume(options, Path(options.resume).absolute())
    _check(options)
    folder = Path(options.run_dir) if options.run_dir is not None else run_folder.default_folder(str(options.source))
    run_folder.check_free(folder)
    return _run(options, command, folder)


def _resume(options: Fit, folder: Path) -> int:
    """Goes on with the fit in a run folder, with the options that it was begun with."""
    if replace(options, resume=None, verbose=Fit.verbose) != Fit():
        raise InputError(
            "--resume goes on with the run's own settings: leave out SOURCE and all options but --verbose."
        )
    with as_input_errors("No run can go on"):
        if run_folder.has_ended(folder):
            say("ended", f"the run in {folder}{os.sep} has come to its end: there is nothing to go on with")
            return 0
        own, begun = begun_options(folder)
    with chdir(begun["directory"]):  # relative paths of its command mean what they meant
        return _run(replace(own, verbose=options.verbose), begun["command"], folder, begun)


def begun_options(folder: Path) -> tuple[Fit, dict[str, Any]]:
    """The options that the fit in a run folder was begun with, and all else that was noted of it then."""
    begun = run_folder.read_begun(folder)
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
    table, prepared = read_prepared(options)
    network, own = make_network(options, prepared)
    network.summary()
    planned, size = None, min(len(prepared.x), begun["batch_size"]) if begun is not None else 0
    if begun is None:
        planned, size = _batch_size(options, prepared, network)
    messages.network(options, own, size, -(-len(prepared.x) // size))
    if not resumed:
        folder = run_folder.make_folder(folder, exact=options.run_dir is not None)
        how = {"options": asdict(options), "command": command, "directory": os.getcwd(), "batch_size": size}
        run_folder.write_begun(folder, how, None if planned is None else planned.to_dict())
    say("run folder", f"{folder}{os.sep}")
    print(flush=True)
    try:
        return _train(options, command, folder, table.source, prepared, network, size)
    except InputError:
        if not resumed and not (folder / run_folder.LOG).exists():  # refused before the first line of the log
            run_folder.remove_backup(folder)
            (folder / run_folder.PLAN).unlink(missing_ok=True)
            if not any(folder.iterdir()):
                folder.rmdir()
        raise


def _train(options: Fit, command: str, folder: Path, source: str, prepared: Prepared, network: Model, size: int) -> int:
    """`model.fit` with early stopping, backup and the log, then the rest of the run folder, interrupted or not."""
    settings = _settings(options, command, source, prepared, network, size)
    log = run_log.RunLog(folder / run_folder.LOG, settings)
    stopping = callbacks.EarlyStopping("val_loss", patience=options.patience, restore_best_weights=True)
    # Not deleted at the end of training: the summary is not written yet.
    backup = callbacks.BackupAndRestore(folder / run_folder.BACKUP, delete_checkpoint=False)
    reason, goes_on = "failed", any((folder / run_folder.BACKUP).glob("epoch-*"))
    try:
        with as_input_errors("The run cannot go on" if goes_on else "The network cannot be trained on this data"):
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
    summary = {**_summary(settings, record, interrupted, log), "plan": run_folder.read_plan(folder)}
    saved = _save(options, folder, summary, prepared, network, record)
    if summary["status"] == "done":  # one that diverged can be replayed
        run_folder.remove_backup(folder)
    messages.result(options, summary, folder, saved)
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


def _summary(
    settings: dict[str, Any], record: callbacks.History, interrupted: bool, log: run_log.RunLog
) -> dict[str, Any]:
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
        "ended": run_log.now(),
    }


def _save(
    options: Fit, folder: Path, summary: dict[str, Any], prepared: Prepared, network: Model, record: callbacks.History
) -> str | None:
    """Writes the history, the picture, the model and, last, the summary; says why the model could not be written."""
    epochs, history = [epoch + 1 for epoch in record.epoch], record.history
    run_folder.write_history(folder, epochs, history)
    if options.plot:
        title = "{source}: {task}, {n_train:,} training rows, batch {batch_size}".format(**summary)
        curves.draw_curves(folder / run_folder.CURVES, epochs, history, summary["best_epoch"], title)
    problem = None
    try:
        network.save(folder / run_folder.MODEL)
        prepared.preprocessing.save(folder / run_folder.MODEL)
    except TypeError as error:  # a part that cannot be written as data; the training is not to be lost for it
        network.save_weights(folder / "weights.safetensors")
        problem = f"{error} The weights alone are in weights.safetensors."
    run_folder.write_summary(folder, summary)
    return problem


def _best(losses: list[float]) -> int:
    """The index of the least loss, the first of equals; of none finite, the last epoch's."""
    finite = np.where(np.isfinite(losses), losses, np.inf)
    return int(np.argmin(finite)) if np.isfinite(finite).any() else len(losses) - 1


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


def _batch_size(options: Fit, prepared: Prepared, network: Model) -> tuple[BatchPlan | None, int]:
    """The plan, where it is "auto", and the rows per step, never more than there are."""
    given, n = options.batch_size, len(prepared.x)
    if given != "auto":
        return None, n if given == "full" else min(int(given), n)
    planned = before_fit(network, prepared, options.epochs)
    say("batch size", f"{planned.batch_size}, measured in {planned.measurements.measuring_seconds:.0f} s")
    for sentence in planned.why[:3]:
        say("", sentence)
    return planned, planned.batch_size


def _versions() -> dict[str, str]:
    packages = ("epochal", "jax", "flax", "optax", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}

"""The command `epochal replay`: one step of a run of `epochal fit`, made again and shown."""

from __future__ import annotations

from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np

from epochal.cli.fit import begun_options
from epochal.cli.loading import as_input_errors, make_network, read_prepared
from epochal.cli.options import Replay
from epochal.display.console import say, say_values
from epochal.display.text import listed
from epochal.models import Model, replaying
from epochal.runs import run_folder
from epochal.runs.store import Store
from epochal.support.errors import InputError
from epochal.tables import Prepared, target_of
from epochal.tables.split import split_rows

# -- replay, plan and study


def replay(options: Replay) -> int:
    """Makes one step of a fit again and shows it; 0."""
    folder, output = Path(options.run).absolute(), output_of(options)
    with as_input_errors("No step can be made again"):
        own, begun = begun_options(folder)
    with chdir(begun["directory"]):
        table, prepared = read_prepared(own)
        network, _ = make_network(own, prepared)
        rows = split_rows(target_of(table, prepared.preprocessing), own.validation_split, own.seed)[0]
        with as_input_errors("The step cannot be made again"):
            step = run(options, own.epochs, folder, prepared, network, min(len(rows), begun["batch_size"]))
    show(step, rows, output)
    return 0


def output_of(options: Replay) -> Path | None:
    """Where the step is written to, if anywhere; raises `InputError` where nothing can be."""
    if options.output is None:
        return None
    path = Path(options.output).absolute()
    if path.suffix.lower() != ".npz":
        raise InputError(f"-o {options.output}: expected a file ending in .npz.")
    if path.exists():
        raise InputError(f"{options.output!r} exists already: choose another -o.")
    if not path.parent.is_dir():
        raise InputError(f"-o {options.output}: there is no folder {str(path.parent)!r}.")
    return path


def run(
    options: Replay, epochs: int, folder: Path, prepared: Prepared, network: Model, size: int
) -> replaying.Replayed:
    """Makes the step again, from the run's last checkpoint before it, or from its beginning.

    Args:
        options: which step.
        epochs: at most so many has the run.
        folder: the run's.
        prepared, network: as the fit had them at its start.
        size: rows per step.

    Raises:
        InputError: a step that the run does not have.
        ValueError: the data or the network are not those of the run.
    """
    most = {"epoch": epochs, "batch": -(-len(prepared.x) // size)}
    for name, last in most.items():
        if not 1 <= getattr(options, name) <= last:
            raise InputError(f"--{name} {getattr(options, name)}: expected 1 to {last}, of which the run consists.")
    epoch, batch, backup = options.epoch - 1, options.batch - 1, folder / run_folder.BACKUP
    kept = Store(backup).newest((epoch, batch))
    say("step", f"epoch {options.epoch}, batch {options.batch} of {most['batch']}")
    say("", f"made again from {'the beginning of the run' if kept is None else f'checkpoint {kept.path.name}'}")
    return replaying.replay(
        network,
        None if kept is None else backup,
        prepared.x,
        prepared.y,
        epoch=epoch,
        batch=batch,
        batch_size=size,
        validation_data=(prepared.x_validation, prepared.y_validation),
    )


def show(step: replaying.Replayed, rows: np.ndarray, output: Path | None) -> None:
    """Prints the step, and writes its arrays if asked to.

    Args:
        step: as it was made again.
        rows: of the table, those that are trained on.
        output: the .npz to write.
    """
    of_table = rows[[] if step.examples is None else step.examples]  # data of the command line are arrays
    say("rows", f"{len(of_table)} of the table, the first being 0: {listed([str(row) for row in of_table], 10)}")
    say("not finite", listed(step.not_finite, 8) or "nothing")
    norms = {f"gradient of {name}, norm": float(np.linalg.norm(g)) for name, g in step.gradients.items()}
    say_values({"loss": step.loss, **norms})
    if output is not None:
        arrays: dict[str, Any] = {f"gradients/{name}": gradient for name, gradient in step.gradients.items()}
        arrays |= {"rows": of_table, "x": step.x, "y": step.y[0], "loss": step.loss}
        np.savez(output, predictions=step.predictions[0], **arrays)
        say("written", str(output))

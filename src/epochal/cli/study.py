"""The command `epochal study`: a batch-size study of a table's default network, or of the user's own."""

from __future__ import annotations

import os
from pathlib import Path

from epochal.cli import networks
from epochal.cli.loading import read_prepared
from epochal.cli.options import Study
from epochal.display.console import say
from epochal.models import Model
from epochal.study import batch_size_study
from epochal.support.errors import InputError
from epochal.tables import Prepared


def study(options: Study) -> int:
    """Compares batch sizes as the options say; 0, or 130 after Ctrl-C."""
    check(options)
    _, prepared = read_prepared(options)
    try:
        run(options, prepared)
    except KeyboardInterrupt:
        print()
        say("stopped", "interrupted; the same command goes on with the fits that are missing")
        return 130
    return 0


def check(options: Study) -> None:
    """Raises `InputError` for an option whose value makes no sense."""
    for name in ("epochs", "updates"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise InputError(f"--{name} {value}: expected 1 or more.")
    if options.seeds < 1:
        raise InputError(f"--seeds {options.seeds}: expected 1 or more.")
    if not 0 <= options.seed < 2**32:
        raise InputError(f"--seed {options.seed}: expected 0 or more, and less than 2**32.")
    for size in options.batch_sizes:
        if isinstance(size, int) and size < 1:
            raise InputError(f'--batch-sizes {size}: expected 1 or more, or "full".')
    if not 0 < options.validation_split < 1:
        raise InputError(f"--validation-split {options.validation_split:g}: expected more than 0 and less than 1.")
    if not 0 < options.learning_rate < float("inf"):
        raise InputError(f"--learning-rate {options.learning_rate:g}: expected more than 0.")


def folder_of(options: Study) -> Path:
    """The study's folder: the same one for the same source, so that the command goes on where it was broken off."""
    return Path(options.out) if options.out is not None else Path("studies") / (Path(options.source).stem or "data")


def run(options: Study, prepared: Prepared) -> None:
    """Runs the study, prints its table, and writes the page.

    Raises:
        InputError: another study is in the folder, or the network does not fit the data.
        KeyboardInterrupt: Ctrl-C; the finished fits are kept.
    """
    folder = folder_of(options)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{str(folder)!r} is a file, expected a folder for the study.")
    say("study", f"{folder}{os.sep} (finished fits are kept there: the same command goes on with the missing ones)")
    try:
        study = batch_size_study(
            lambda: _network(options, prepared),
            prepared.x,
            prepared.y,
            batch_sizes=options.batch_sizes,
            epochs=options.epochs,
            updates=options.updates,
            target=options.reach,
            seeds=options.seeds,
            learning_rates=options.learning_rates,
            validation_data=(prepared.x_validation, prepared.y_validation),
            out=folder,
            verbose=options.verbose,
        )
    except (ValueError, RuntimeError) as error:
        raise InputError(f"The study cannot be run: {error}") from error
    page = study.report()
    print(f"\n{study}\n")
    say("page", f"{page}  (with table.csv and study.png beside it)")


def _network(options: Study, prepared: Prepared) -> Model:
    """A new compiled model, as `epochal fit` makes it."""
    target, shape, n = prepared.preprocessing.target, prepared.preprocessing.input_shape, len(prepared.x)
    if options.model is not None:
        network = networks.network_from_file(options.model, shape, target, n)
        return networks.finish_network(network, target, prepared.x, options.learning_rate)[0]
    network = networks.default_network(shape, target, n)
    networks.compile_for(network, target, options.learning_rate)
    return network

"""A source and a network as the commands take them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from epochal.cli import messages, networks
from epochal.cli.options import Fit, Plan, Study
from epochal.display.console import say
from epochal.models import Model
from epochal.random import set_random_seed
from epochal.support.errors import InputError
from epochal.tables import Prepared, Table, prepare, read_source


def read_prepared(options: Fit | Plan | Study) -> tuple[Table, Prepared]:
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
    messages.data(table, prepared)
    return table, prepared


def make_network(options: Fit | Plan, prepared: Prepared) -> tuple[Model, bool]:
    """The compiled model, and whether the user compiled it."""
    set_random_seed(options.seed)
    target, shape, n = prepared.preprocessing.target, prepared.preprocessing.input_shape, len(prepared.x)
    if options.model is not None:
        network = networks.network_from_file(options.model, shape, target, n)
        network, own, added = networks.finish_network(network, target, prepared.x, options.learning_rate)
        if added is not None:
            say("network", f"its outputs are no probabilities: a {added} is added")
        return network, own
    network = networks.default_network(shape, target, n)
    networks.compile_for(network, target, options.learning_rate)
    return network, False


# -- what is printed


@contextmanager
def as_input_errors(what: str) -> Iterator[None]:
    """Values that a model refuses are the user's to put right."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        raise InputError(f"{what}: {error}") from error

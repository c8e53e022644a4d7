"""The command `epochal plan`, and the measuring that `epochal fit` begins with."""

from __future__ import annotations

import json
from pathlib import Path

from epochal.cli.loading import make_network, read_prepared
from epochal.cli.options import Plan
from epochal.display.console import say
from epochal.models import Model
from epochal.models.planning import plan_batch_size, plan_for_fit
from epochal.plans.plan import BatchPlan
from epochal.support.errors import InputError
from epochal.tables import Prepared


def check(options: Plan) -> None:
    """Raises `InputError` for an option whose value makes no sense."""
    if not 0 <= options.seed < 2**32:
        raise InputError(f"--seed {options.seed}: expected 0 or more, and less than 2**32.")
    if not 0 < options.max_seconds < float("inf"):
        raise InputError(f"--max-seconds {options.max_seconds:g}: expected more than 0.")
    if not 0 < options.validation_split < 1:
        raise InputError(f"--validation-split {options.validation_split:g}: expected more than 0 and less than 1.")
    if not 0 < options.learning_rate < float("inf"):
        raise InputError(f"--learning-rate {options.learning_rate:g}: expected more than 0.")
    for name in ("out", "plot"):
        path = getattr(options, name)
        if path is not None and not Path(path).parent.is_dir():
            raise InputError(f"--{name} {path}: there is no folder {str(Path(path).parent)!r}.")


def run(options: Plan, prepared: Prepared, network: Model) -> None:
    """Measures and prints the plan; writes it where it is asked for.

    Raises:
        InputError: the network does not fit the data, or a value makes no sense.
    """
    say("measuring", f"for about {options.max_seconds:g} s at most")
    try:
        plan = plan_batch_size(
            network,
            prepared.x,
            prepared.y,
            memory_limit=options.memory_limit,
            batch_sizes=options.batch_sizes or None,
            max_seconds=options.max_seconds,
            seed=options.seed,
        )
    except ValueError as error:
        raise InputError(f"The batch size cannot be planned: {error}") from error
    print(f"\n{plan.table()}\n")
    for sentence in plan.why:
        label, _, text = sentence.partition(": ")
        known = label in ("Machine", "Problem", "Memory")
        say(label.lower() if known else "", text if known else sentence)
    if options.out is not None:
        Path(options.out).write_text(json.dumps(plan.to_dict(), indent=2) + "\n", encoding="utf-8")
    if options.plot is not None:
        plan.plot(options.plot)
    say("go on with", f"epochal fit {options.source} --batch-size {plan.batch_size}")


def before_fit(network: Model, prepared: Prepared, epochs: int) -> BatchPlan:
    """The plan of `epochal fit`.

    Raises:
        InputError: the network does not fit the data.
    """
    try:
        held_out = (prepared.x_validation, prepared.y_validation)
        plan = plan_for_fit(network, (prepared.x, prepared.y, None), None, 0, epochs, held_out)
    except ValueError as error:
        raise InputError(f"The network cannot be trained on this data: {error}") from error
    if plan is None:
        raise InputError("The batch size cannot be planned for data that comes in batches.")
    return plan


def plan(options: Plan) -> int:
    """Prints which batch size to take; 0."""
    check(options)
    _, prepared = read_prepared(options)
    network, _ = make_network(options, prepared)
    run(options, prepared, network)
    return 0

"""Epochs, passes and executions: in which order everything runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import jax
import numpy as np

from epochal.data.feeds.block import Block, Stretch
from epochal.data.feeds.feed import Feed
from epochal.display.progress import Display
from epochal.engine.execution import execute
from epochal.engine.moment import Mark
from epochal.engine.objective.tally import Tally
from epochal.engine.out_of_memory import prepared, recovered
from epochal.engine.pacing import AllSteps, Pacer
from epochal.engine.runners import Runner, TestRunner, TrainRunner
from epochal.engine.session import Session
from epochal.runtime.interrupts import Interrupts
from epochal.support.types import Logs
from epochal.support.warn import warn


@dataclass(frozen=True)
class Arrival:
    """The batch before which training has ended; the model is as it was before it.

    Attributes:
        runner: would have run the batch; holds the programs and the model's arrays.
        block, index: what it would have run.
        rows: the batch's rows, where data are arrays.
    """

    runner: TrainRunner
    block: Block
    index: int
    rows: np.ndarray | None


def train(
    session: Session, feed: Feed, seed: int, epochs: range, validate: Callable[[int], Logs | None]
) -> Arrival | None:
    """Runs the epochs `epochs`; `validate(epoch)` returns the epoch's validation values, or None when it is skipped.

    Returns:
        where training ended before `session.until`; None: the session has none, or training ended earlier.
    """
    calls, display, model = session.callbacks, session.display, session.model
    saved = session.saved
    start = Mark(epochs.start, 0, feed.place(epochs.start, 0)) if saved is None else saved.mark
    logs: Logs = start.logs or {}
    model.stop_training = False
    calls.call("on_train_begin", {})
    display.train_begin(epochs.stop)
    if saved is not None and not start.within:
        saved.put_back()
    for epoch in range(start.epoch, start.epoch if saved is not None and saved.stop else epochs.stop):
        if not start.within and not session.begins(feed, epoch):
            _say_dry(feed, epoch, epochs)
            break
        calls.call("on_epoch_begin", epoch, {})
        if saved is not None and start.within:
            saved.put_back()
        display.epoch_begin(epoch, feed.steps)
        if not start.trained:
            runner = TrainRunner(session.programs.train, feed.padded, seed, epoch, entries=session.entries)
            pacer = Pacer(session, runner, feed, epoch, replace(start, within=True))
            tally, rest = advance(runner, pacer.stretches(), start.tally, pacer, session.display, session.interrupts)
            if rest is not None and pacer.arrived:
                found = feed.found(epoch, pacer.done)
                return Arrival(runner, rest.block, rest.first, None if found is None else found[0])
            logs = pacer.finish(tally)
        feed.end_epoch()
        values = validate(epoch)
        if values is not None:
            logs.update({f"val_{name}": value for name, value in values.items()})
        calls.call("on_epoch_end", epoch, logs)
        display.epoch_end(epoch, logs)
        start = Mark(epoch + 1, 0, feed.place(epoch + 1, 0), logs=dict(logs))
        session.keep(start, model.stop_training or epoch + 1 == epochs.stop)
        if model.stop_training:
            break
        if feed.dry and (feed.short or epoch + 1 < epochs.stop):
            _say_dry(feed, epoch + 1, epochs)
            break
    session.programs.end_with_averages()
    calls.call("on_train_end", logs)
    return None


def _say_dry(feed: Feed, done: int, epochs: range) -> None:
    """The data ended before the last epoch did."""
    needed = "" if feed.limit is None else f" of the {feed.limit * len(epochs)} needed"
    warn(
        f"The data ended after {feed.drawn} batches{needed}: training ends with epoch {done} of {epochs.stop}. Pass "
        "fewer epochs or steps_per_epoch, or data that can be gone over again (a dataset or a PyDataset).",
    )


def test(session: Session, feed: Feed) -> Logs | None:
    """One pass over the data with the test program; the values over all examples, None where there are none."""
    if not session.begins(feed, 0):
        return None
    session.model.stop_evaluating = False
    session.callbacks.call("on_test_begin", {})
    runner = TestRunner(session.programs.test, feed.padded)
    pacer = Pacer(session, runner, feed, 0)
    logs = pacer.finish(advance(runner, pacer.stretches(), None, pacer, session.display, session.interrupts)[0])
    feed.end_epoch()
    session.callbacks.call("on_test_end", logs)
    return logs


def evaluation(session: Session, feed: Feed) -> Logs:
    """What `evaluate` reports; a warning where the data ended before all batches that were asked for."""
    logs = test(session, feed) or {}
    if feed.short:
        warn(f"The data ended: {feed.batches} of {feed.limit} batches were evaluated.")
    return logs


def validation(session: Session, feed: Feed) -> Logs | None:
    """The values of a validation inside `fit`; None, with a warning, where the data does not suffice any more."""
    logs = test(session, feed)
    if logs is not None and not feed.short:
        return logs
    came = f"{feed.batches} of {feed.limit} batches came" if logs is not None else "no batch came"
    warn(
        f"The validation data has ended: {came}, so the epoch has no val_ values. Pass fewer validation_steps, or data "
        "that can be gone over again (a dataset or a PyDataset).",
    )
    return None


def advance(
    runner: Runner,
    stretches: Iterable[Stretch],
    tally: Tally | None,
    pacer: Pacer | AllSteps,
    display: Display,
    interrupts: Interrupts,
) -> tuple[Tally | None, Stretch | None]:
    """Runs the steps of blocks of batches, cut into executions: the one loop over blocks, whoever trains or tests.

    Args:
        runner: whose steps.
        stretches: blocks, and from which step on they are run.
        tally: before the first step; None: nothing was run yet.
        pacer: says how many steps the next execution runs, and is told of it.
        display: says what is compiled.
        interrupts: told while arrays are with a program.

    Returns:
        the tally after the last step, None if there was none; and what is left of the stretch in which the pacer ended
        the pass, None where it came to its end.
    """
    donates = runner.programs.donates
    for block, first, sizes in stretches:
        so_far = runner.start(block) if tally is None else tally
        executable = prepared(runner, block, so_far, display)
        while first < len(sizes):
            ahead = min(pacer.steps_ahead(executable), len(sizes) - first)
            if not ahead:
                return so_far, Stretch(block, first, sizes)
            arguments = runner.arguments(block, so_far, first, first + ahead)
            try:
                so_far = execute(executable, runner.arrays, arguments, interrupts, donates)
            except jax.errors.JaxRuntimeError as error:
                executable = recovered(runner, executable, block, so_far, display, error)
                continue
            pacer.after(executable, sizes[first : first + ahead], so_far)
            first += ahead
        tally = so_far
    return tally, None

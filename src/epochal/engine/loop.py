"""The definition of epochs, steps and batches: everything that runs is on this page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from epochal.data.feeds.feed import Feed
from epochal.engine import out_of_memory
from epochal.engine.moment import Mark
from epochal.engine.pacing import Watch
from epochal.engine.runners import TestRunner, TrainRunner
from epochal.engine.session import Reached, Session
from epochal.support.types import Logs
from epochal.support.warn import warn


def train(session: Session, feed: Feed, seed: int, epochs: range, validate: Callable[[int], Logs | None]) -> None:
    """Runs the epochs `epochs`; `validate(epoch)` returns the epoch's validation values, or None when it is skipped."""
    calls, display, model = session.callbacks, session.display, session.model
    saved = session.saved
    start = Mark(epochs.start, 0, feed.place(epochs.start, 0)) if saved is None else saved.mark
    logs: Logs = start.logs or {}
    model.stop_training = False
    calls.on_train_begin()
    display.train_begin(epochs.stop)
    if saved is not None and not start.within:
        saved.put_back()
    for epoch in range(start.epoch, start.epoch if saved is not None and saved.stop else epochs.stop):
        if not start.within and not session.begins(feed, epoch):
            _say_dry(feed, epoch, epochs)
            break
        calls.on_epoch_begin(epoch)
        if saved is not None and start.within:
            saved.put_back()
        display.epoch_begin(epoch, feed.steps)
        runner = TrainRunner(session.steps, feed.padded, seed, epoch, session.one_in)
        if not start.trained:
            logs = run_pass(session, runner, feed, epoch, replace(start, within=True))
        feed.end_epoch()
        values = validate(epoch)
        if values is not None:
            logs.update({f"val_{name}": value for name, value in values.items()})
        calls.on_epoch_end(epoch, logs)
        display.epoch_end(epoch, logs)
        start = Mark(epoch + 1, 0, feed.place(epoch + 1, 0), logs=dict(logs))
        session.keep(start, model.stop_training or epoch + 1 == epochs.stop)
        if model.stop_training:
            break
        if feed.dry and (feed.short or epoch + 1 < epochs.stop):
            _say_dry(feed, epoch + 1, epochs)
            break
    session.steps.end_with_averages()
    calls.on_train_end(logs)


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
    session.callbacks.on_test_begin()
    logs = run_pass(session, TestRunner(session.steps, feed.padded), feed, 0)
    feed.end_epoch()
    session.callbacks.on_test_end(logs)
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


def run_pass(
    session: Session, runner: TrainRunner | TestRunner, feed: Feed, epoch: int, start: Mark | None = None
) -> Logs:
    """One pass over the data, for training and testing alike: blocks of batches, cut into executions.

    Args:
        session, runner, feed, epoch: what is run.
        start: where in the epoch; None is its beginning, and keeps nothing.
    """
    tally = start.tally if start is not None else None
    watch = Watch(session, runner, feed, epoch, start)
    blocks = feed.epoch(epoch, watch.chunk)
    while not watch.stopped and (stretch := watch.fetched(blocks)) is not None:  # nothing is fetched after the last
        block, first, sizes = stretch
        tally = runner.start(block) if tally is None else tally
        executable = out_of_memory.prepared(runner, block, tally, session.display)
        while first < len(sizes) and not watch.stopped:
            if watch.arrived and isinstance(runner, TrainRunner):
                found = feed.found(epoch, watch.done)
                raise Reached(runner, block, first, None if found is None else found[0])
            last = min(first + watch.steps_ahead(executable), len(sizes))
            watch.before()
            with watch.marked():
                executable, tally = out_of_memory.run(
                    runner, executable, block, tally, (first, last), session.display, session.interrupts.whole
                )
            watch.after(executable, sizes[first:last], tally)
            first = last
    return watch.finish(tally)

"""`fit`, `evaluate` and `predict` as functions of checked arguments: prepare, then run.

Preparing goes one way and does everything once: data (`input_data`), the plan of its batch size where one is asked for,
batches, programs, the optimizer's state, and the session in which the loop runs.
"""

from __future__ import annotations

import inspect
import time
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from epochal.callbacks.callback_list import CallbackList
from epochal.callbacks.history import History
from epochal.callbacks.progbar_logger import ProgbarLogger
from epochal.data.feeds.block import Batch
from epochal.data.feeds.feed import Feed
from epochal.display.progress import Display, display_for
from epochal.engine import loop, prediction
from epochal.engine.objective.outputs import naming
from epochal.engine.session import Session, running
from epochal.models.arguments import DEFAULT_BATCH_SIZE, FitArguments
from epochal.models.input_data import ArrayBatches, Data, StreamBatches, Traversal, prepare, prepare_fit, prepare_inputs
from epochal.models.planning import plan_of_fit
from epochal.models.trainer import Training
from epochal.optimizers import Optimizer
from epochal.optimizers.batch_scaling import scaled
from epochal.plans.plan import BatchPlan
from epochal.random import next_seed
from epochal.runs.keeper import Keeping
from epochal.runtime.profiler import Trace
from epochal.support.types import Logs


@dataclass(frozen=True, eq=False)
class PreparedFit:
    """A fit that has all it needs, before its first step.

    Attributes:
        session: what runs, and who watches.
        feed: batches to train on.
        validation: batches to validate on; None: there are none.
        seed: of the run.
        arguments: what `fit` was called with.
        history: the record.
        keeping: how the run is kept, or what it goes on from; None: neither.
    """

    session: Session
    feed: Feed
    validation: Feed | None
    seed: int
    arguments: FitArguments
    history: History
    keeping: Keeping | None

    def validate(self, epoch: int) -> Logs | None:
        """The values of a validation after this epoch, counted from 0; None where there is none."""
        if self.validation is None or not self.arguments.validates(epoch):
            return None
        return loop.validation(self.session, self.validation)


def fit(model: Any, arguments: FitArguments) -> History:
    """See `Model.fit`."""
    started = time.perf_counter()
    with ExitStack() as closing:
        ready = prepare_to_fit(model, arguments, closing)
        session, programs = ready.session, ready.session.programs
        compiled_before = programs.compile_seconds
        try:
            with running(session):
                loop.train(session, ready.feed, ready.seed, arguments.span, ready.validate)
            if ready.keeping is not None:
                ready.keeping.end()
        finally:
            seconds, compiling = time.perf_counter() - started, programs.compile_seconds - compiled_before
            ready.history.finish(seconds, compiling, session.trained, session.waited)
            ready.history.programs = programs.executables
    return ready.history


def fit_until(model: Any, arguments: FitArguments, until: tuple[int, int]) -> loop.Arrival | None:
    """Runs a fit until the batch `until`, (epoch, number), both counted from 0; nothing is kept of it.

    Returns:
        what would run next; None where the run has ended without such a batch.

    Raises:
        RuntimeError, ValueError: as `Model.fit`.
    """
    with ExitStack() as closing:
        ready = prepare_to_fit(model, arguments, closing, until)
        with running(ready.session):
            return loop.train(ready.session, ready.feed, ready.seed, arguments.span, ready.validate)


def prepare_to_fit(
    model: Any, arguments: FitArguments, closing: ExitStack, until: tuple[int, int] | None = None
) -> PreparedFit:
    """Everything of a fit but its steps.

    Args:
        model: compiled.
        arguments: as `fit` was called with.
        closing: closes what is opened, and takes back what holds for this fit alone.
        until: epoch and batch before which it ends; it goes on from no later place. None lets it run.

    Raises:
        RuntimeError: never compiled, or called inside a JAX transformation.
        ValueError: data or arguments that do not fit; what a run cannot go on from.
    """
    training: Training = model._training
    compiled = training.ready_to("fit")
    trace = None if arguments.profile is None else Trace(arguments.profile)
    keeping, seed, planned_size = None, next_seed(), None
    if arguments.resume_from is not None or any(c.keeps_run for c in CallbackList(arguments.callbacks).callbacks):
        keeping = Keeping(arguments.callbacks, arguments.resume_from, closing, until)
        seed, planned_size = keeping.seed(seed), keeping.batch_size
    data, held_out = _prepared_data(training, arguments, seed, keeping is not None and keeping.active, closing)
    plan, batch_size = _planned(data, held_out, arguments, planned_size)
    batches = data.in_batches(batch_size)
    named = nullcontext() if arguments.validation_data is None else naming("validation_data")
    with named:
        held_batches = _validation_batches(held_out, batch_size)
    said = scale_rate(compiled.optimizer, arguments.lr_scaling, batches.size, closing)
    steps = training.steps(data.first, compiled)
    feed = batches.feed(steps)
    with naming("validation_data"):
        held = held_batches.feed(steps, testing=True) if held_batches is not None else None
    training.start_optimizer(steps.parts)
    history = training.history = History()
    history.plan = plan
    session = _session(
        training,
        steps,
        [arguments.callbacks, history],
        arguments.verbose,
        epochs=arguments.epochs,
        batches=feed.steps,
        batch_size=feed.batch_size,
    )
    session.until, session.trace = until, trace
    if trace is not None:
        closing.callback(trace.end)
    session.callbacks.set_run(steps, feed)
    if plan is not None:
        session.display.note(f"Batch size {plan.batch_size}, measured. {plan.why[0]}")
    if said:
        session.display.note(said)
    for source in (feed, held):
        if source is not None:
            source.tell(session.display.note)
    if keeping is not None:
        keeping.begin(session, feed, held, seed)
    return PreparedFit(session, feed, held, seed, arguments, history, keeping)


def _prepared_data(
    training: Training, arguments: FitArguments, seed: int, kept: bool, closing: ExitStack
) -> tuple[Data, Data | None]:
    """Data to train on, and to validate on; `kept` says whether the run is."""
    workforce = arguments.workforce
    traversal = Traversal(
        arguments.batch_size,
        arguments.shuffle,
        seed,
        arguments.steps_per_epoch,
        again=True,
        first_epoch=arguments.span.start,
        workforce=workforce,
        keeps_state=kept,
    )
    validation = Traversal(
        arguments.validation_batch_size, limit=arguments.validation_steps, workforce=workforce, keeps_state=kept
    )
    return prepare_fit(
        training,
        arguments.given,
        arguments.class_weight,
        traversal,
        arguments.validation_split,
        arguments.validation_data,
        validation,
        closing,
    )


def _planned(
    data: Data, held_out: Data | None, arguments: FitArguments, kept_size: int | None
) -> tuple[BatchPlan | None, Any]:
    """The plan of `fit(batch_size="auto")`, and the batch size; a run that goes on keeps the one that it had."""
    batch_size = arguments.batch_size
    if not isinstance(batch_size, str) or batch_size != "auto":
        return None, batch_size
    if kept_size is not None:
        return None, kept_size
    span = arguments.span
    validated = [arguments.validates(epoch) for epoch in span[:1000]]
    plan = plan_of_fit(data, held_out, len(span), sum(validated) / max(len(validated), 1))
    return plan, plan.batch_size


def _validation_batches(held_out: Data | None, batch_size: Any) -> ArrayBatches | StreamBatches | None:
    """Validation data in batches of its own size, or of as many as training takes."""
    if held_out is None:
        return None
    own = held_out.traversal.batch_size
    return held_out.in_batches(batch_size if own is None else own)


def scale_rate(optimizer: Optimizer, rule: str | None, batch_size: int | None, closing: ExitStack) -> str | None:
    """Changes the learning rate, right for batches of 32, until `closing` closes; what there is to say of it.

    Raises:
        ValueError: batches that come as they are, or an optimizer that the rule cannot be applied to.
    """
    if rule is None:
        return None
    if batch_size is None:
        raise ValueError("lr_scaling needs a batch size: expected arrays, got batches that come as they are.")
    factor = closing.enter_context(scaled(optimizer, rule, DEFAULT_BATCH_SIZE, batch_size))
    if factor == 1:
        return None
    rate = float(optimizer.learning_rate)
    sizes = f"batches of {DEFAULT_BATCH_SIZE} → {batch_size}"
    return f"Learning rate {rate / factor:.4g} → {rate:.4g}, times {factor:.4g} by {rule!r} for {sizes}."


def evaluate(training: Training, given: tuple, traversal: Traversal, verbose: Any, callbacks: Any) -> Logs:
    """See `Model.evaluate`; `given` is x, y and sample_weight."""
    compiled = training.ready_to("evaluate")
    with ExitStack() as closing:
        data = prepare(training, "evaluate", given, traversal, closing)
        batches = data.in_batches(traversal.batch_size)
        steps = training.steps(data.first, compiled)
        feed = batches.feed(steps, testing=True)
        session = _session(training, steps, [callbacks], verbose, batches=feed.steps, batch_size=feed.batch_size)
        with running(session):
            session.display.epoch_begin(0, feed.steps)
            logs = loop.evaluation(session, feed)
            session.display.epoch_end(0, logs)
    return logs


def predict(training: Training, x: Any, traversal: Traversal, verbose: Any, callbacks: Any) -> Any:
    """See `Model.predict`."""
    with ExitStack() as closing:
        batches = prepare_inputs(training, x, traversal, closing).in_batches(traversal.batch_size)
        steps = training.predict_steps()
        session = _session(training, steps, [callbacks], verbose, batches=batches.steps, batch_size=batches.size)
        with running(session):
            outputs = prediction.predict(session, batches.chunks(steps.parts.row_independent), batches.steps)
    return jax.tree.map(lambda *parts: np.concatenate(parts), *outputs)


def _session(
    training: Training,
    programs: Any,
    callbacks: list[Any],
    verbose: Any,
    *,
    epochs: Any = 1,
    batches: int | None,
    batch_size: int | None,
) -> Session:
    """A new session; callbacks learn how many batches an epoch has, and of how many examples."""
    params = {"verbose": verbose, "epochs": epochs, "steps": batches, "batch_size": batch_size}
    calls = CallbackList(callbacks, model=training.model, **params)
    # What a ProgbarLogger shows the display does, and faster; one that a user has changed does it itself.
    loggers = [c for c in calls.callbacks if isinstance(c, ProgbarLogger)]
    calls.callbacks = [c for c in calls.callbacks if type(c) is not ProgbarLogger]
    own = any(type(c) is not ProgbarLogger for c in loggers)
    display = Display() if own else display_for(verbose)
    together = "auto" if training.compiled is None else training.compiled.steps_per_execution
    return Session(training.model, programs, calls, display, training.stop, together)


def overridden_loss(model: Any, batch: Batch, y_pred: Any, training: bool) -> Any:
    """Calls `compute_loss` of a user's class; one from the days before `training` does without it."""

    def in_form(values: Any) -> Any:
        return values[0] if values is not None and len(values) == 1 else values

    given = {"x": batch.x, "y": in_form(batch.y), "y_pred": y_pred, "sample_weight": in_form(batch.weight)}
    known = inspect.signature(model.compute_loss).parameters
    if "training" in known or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values()):
        given["training"] = training
    return model.compute_loss(**given)


def reported(logs: Logs, as_dict: bool) -> Any:
    """Values as a dict; else a list in their order, or the loss when nothing else is reported."""
    if as_dict:
        return logs
    values = list(logs.values())
    return values[0] if len(values) == 1 else values

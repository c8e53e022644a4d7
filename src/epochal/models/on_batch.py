"""One batch at a time: `train_on_batch`, `test_on_batch`, and what `predict` and `evaluate` do with a single batch.

Everything but the values is checked at the first call with arrays of these shapes, and remembered: later calls take
little more time than the compiled program does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from epochal.data.arrays import plain_arrays
from epochal.data.examples import Examples, as_examples
from epochal.data.feeds.array_feed import ArrayFeed
from epochal.data.feeds.block import Block
from epochal.data.padding import shared_rows, widened
from epochal.display.progress import Display
from epochal.engine import out_of_memory, prediction
from epochal.engine.execution import execute
from epochal.engine.objective.labels import check_labels
from epochal.engine.objective.tally import Pass, Tally
from epochal.engine.programs import PredictPrograms, Programs
from epochal.engine.runners import Runner, TestRunner, TrainRunner
from epochal.engine.state import Parts
from epochal.models.arguments import checked_batch_size
from epochal.models.input_data import align, apply_class_weight, fix_batch_size, match
from epochal.models.trainer import Compiled, Training
from epochal.runtime import heap
from epochal.runtime.interrupts import Interrupts
from epochal.runtime.program import Executable, checks_numbers
from epochal.support.types import Logs


@dataclass
class Prediction:
    """What is known of predictions for arrays of these shapes.

    Attributes:
        parts: the model, taken apart; known things hold as long as it is the same object.
        programs: what predicts.
        structure: in which the model takes its inputs.
        width: how many rows the program takes.
        executable: computes the outputs; None before its first use.
    """

    parts: Parts
    programs: PredictPrograms
    structure: Any
    width: int
    executable: Executable | None = None


@dataclass
class Step:
    """What is known of training or testing with a batch of arrays of these shapes.

    Attributes:
        parts: as of a `Prediction`.
        programs: what trains and tests.
        structure: of the aligned x, y and weights.
        block: what the program takes, but for the data.
        executable: the program; None before its first use.
        width: rows that it runs at once; None: all.
        padded: whether what it takes has room for padding.
    """

    parts: Parts
    programs: Programs
    structure: Any
    block: Block
    executable: Executable | None = None
    width: int | None = None
    padded: bool = False


def predicted(training: Training, x: Any, batch_size: Any) -> Any:
    """The model's outputs for all rows of x as one batch; None where they have to be had in another way.

    That is: x is no arrays or has more rows than a batch, steps run as plain Python, or the model has states.
    """
    training.refuse_tracing("predict")
    plain = None if training.eager else plain_arrays(x, "x")
    if plain is None or not plain[0]:
        return None
    leaves, structure = plain
    n = leaves[0].shape[0]
    if checked_batch_size(batch_size, max(n, 1)) < n:
        return None
    key = ("predict", structure, _shapes(leaves), checks_numbers())
    known = training.known.get(key)
    if known is None or known.parts is not training.parts():
        known = _prediction(training, jax.tree.unflatten(structure, leaves), leaves)
        if known is None:
            return None
        training.known[key] = known
    inputs = jax.tree.unflatten(known.structure, leaves)
    inputs = widened(inputs, n, known.width)
    known.executable, outputs = out_of_memory.predicted(known.programs, inputs, Display(), known.executable)
    heap.pause()
    return prediction.fetched(outputs, n)


def _prediction(training: Training, x: Any, leaves: list[Any]) -> Prediction | None:
    """What is to be remembered of the first call; None as of `predicted`."""
    examples = match(training, as_examples(x, method="predict"))
    inputs, n = examples.x, examples.n
    programs = training.predict_steps()
    parts = programs.parts
    found, structure = jax.tree.flatten(inputs)
    if parts.stateful or not _same_objects(found, leaves):
        return None
    return Prediction(parts, programs, structure, shared_rows(n) if parts.row_independent else n)


def evaluated(training: Training, given: tuple, batch_size: Any) -> Logs | None:
    """Loss and metrics over all rows of x, y and sample_weight as one batch; None as of `predicted`."""
    compiled = training.ready_to("evaluate")
    plain = None if training.eager else _plain(given)
    if plain is None:
        return None
    leaves, structure = plain
    n = leaves[0].shape[0]
    if checked_batch_size(batch_size, max(n, 1)) < n:
        return None
    key = ("evaluate", structure, _shapes(leaves), compiled.optimizer.revision, checks_numbers())
    known = training.known.get(key)
    if known is None or known.parts is not training.parts():
        known = _evaluation(training, compiled, jax.tree.unflatten(structure, leaves), leaves)
        if known is None:
            return None
        training.known[key] = known
    examples = Examples(*jax.tree.unflatten(known.structure, leaves), n=n)
    programs = known.programs
    check_labels(programs.objective, examples)
    data = widened((examples.x, examples.y, examples.weight), n, known.block.order.shape[1])
    block = known.block._replace(data=data, pivot=jax.tree.map(lambda a: a[:1], examples.y))
    runner = TestRunner(programs.test, known.padded)
    return runner.read(_ran(runner, known, block, runner.start(block)))


def _evaluation(training: Training, compiled: Compiled, given: tuple, leaves: list[Any]) -> Step | None:
    """What is to be remembered of the first call; None as of `predicted`."""
    examples = align(training, as_examples(*given, method="evaluate"))
    found, structure = jax.tree.flatten((examples.x, examples.y, examples.weight))
    programs = training.steps(examples, compiled)
    if programs.parts.stateful or not _same_objects(found, leaves):
        return None
    feed = _feed(examples, exact_tail=not programs.row_independent, shared=True)
    return Step(programs.parts, programs, structure, _without_data(feed), padded=feed.padded)


def one_step(training: Training, kind: str, given: tuple, class_weight: Any, alone: bool) -> Logs:
    """Trains or tests with all examples as one batch; values of it alone, or running ones.

    Args:
        training: of the model.
        kind: "train" or "test".
        given: x, y and sample_weight.
        class_weight: as `fit` takes it.
        alone: whether the batch's own values are wanted.
    """
    compiled = training.ready_to(f"{kind}_on_batch")
    plain = None if training.eager or class_weight is not None else _plain(given)
    if plain is None:
        return _run(training, kind, *_first(training, kind, given, class_weight), alone)
    leaves, structure = plain
    key = (kind, structure, _shapes(leaves), compiled.optimizer.revision, checks_numbers())
    known = training.known.get(key)
    if known is None or known.parts is not training.parts():
        known, examples = _first(training, kind, jax.tree.unflatten(structure, leaves), None)
        if _same_objects(jax.tree.leaves((examples.x, examples.y, examples.weight)), leaves):
            training.known[key] = known
    else:
        examples = Examples(*jax.tree.unflatten(known.structure, leaves), n=leaves[0].shape[0])
    return _run(training, kind, known, examples, alone)


def _first(training: Training, kind: str, given: tuple, class_weight: Any) -> tuple[Step, Examples]:
    """What is to be remembered of the first call, and its examples in the model's form.

    Raises:
        RuntimeError, ValueError: as `fit`.
    """
    compiled, method = training.ready_to(f"{kind}_on_batch"), f"{kind}_on_batch"
    examples = align(training, as_examples(*given, method=method).read())
    fix_batch_size(training, examples.n, examples.n)
    examples = apply_class_weight(training, examples, class_weight)
    programs = training.steps(examples, compiled)
    structure = jax.tree.structure((examples.x, examples.y, examples.weight))
    return Step(programs.parts, programs, structure, _without_data(_feed(examples))), examples


def _run(training: Training, kind: str, known: Step, examples: Examples, alone: bool) -> Logs:
    programs = known.programs
    check_labels(programs.objective, examples)
    if kind == "train":
        training.start_optimizer(programs.parts)
    tally, pivot = (None, None) if alone else training.running.get(kind, (None, None))
    if pivot is None:  # a copy: running values need it when the user's array holds other numbers
        pivot = jax.tree.map(lambda a: np.array(a[:1]), examples.y)
    block = known.block._replace(data=(examples.x, examples.y, examples.weight), pivot=pivot)
    if kind == "train":
        runner: Runner = TrainRunner(programs.train, False, *training.next_draw())
    else:
        runner = TestRunner(programs.test, padded=False)
    tally = runner.start(block) if tally is None else tally
    tally = _ran(runner, known, block, tally)
    fresh = {entry.name: entry.start() for entry in runner.entries}  # every call tells of its own batch
    if fresh:
        runner.end(tally, Pass(_feed(examples), None, runner.width))
    training.running[kind] = (tally._replace(entries=fresh), pivot)
    return runner.read(tally)


def _ran(runner: Runner, known: Step, block: Block, tally: Tally) -> Tally:
    """The tally after the block's one batch."""
    executable, display = known.executable, Display()
    if executable is None:
        executable = out_of_memory.prepared(runner, block, tally, display)
    elif known.width is not None:
        runner.split(known.width, block.order.shape[1])
    interrupts, done = Interrupts(), None
    with interrupts.heard():
        while done is None:
            arguments = runner.arguments(block, tally, 0, 1)
            try:
                done = execute(executable, runner.arrays, arguments, interrupts, runner.programs.donates)
            except jax.errors.JaxRuntimeError as error:
                executable = out_of_memory.recovered(runner, executable, block, tally, display, error)
    heap.pause()
    known.executable, known.width = executable, runner.width
    return done


def _feed(examples: Examples, exact_tail: bool = True, shared: bool = False) -> ArrayFeed:
    return ArrayFeed(examples, examples.n, shuffle=False, seed=0, exact_tail=exact_tail, shared=shared)


def _without_data(feed: ArrayFeed) -> Block:
    """The feed's one block, which keeps none of its data alive."""
    ((block, _, _),) = feed.epoch(0)
    return block._replace(data=(None, None, None))


def _plain(given: tuple) -> tuple[list[Any], Any] | None:
    """The arrays of x, y and sample_weight as `as_examples` makes them, where these are nothing but arrays."""
    x, y, weight = given
    parts = plain_arrays(x, "x"), plain_arrays(y, "y"), plain_arrays(weight, "sample_weight")
    if parts[0] is None or parts[1] is None or parts[2] is None or not parts[0][0]:
        return None
    return [*parts[0][0], *parts[1][0], *parts[2][0]], jax.tree.structure(given)


def _shapes(leaves: list[Any]) -> tuple:
    return tuple([(a.shape, a.dtype) for a in leaves])


def _same_objects(found: list[Any], leaves: list[Any]) -> bool:
    """Whether nothing was done to the arrays but to put them in another structure."""
    return len(found) == len(leaves) and all(a is b for a, b in zip(found, leaves, strict=True))

"""When batches are run in micro-batches: where it was asked for, and where the memory does not suffice otherwise."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from epochal.data.feeds.block import Block
from epochal.display.progress import Display
from epochal.engine.objective.loss_sums import WholeOnly
from epochal.engine.objective.tally import Tally
from epochal.engine.programs import Steps
from epochal.engine.runners import TestRunner, TrainRunner
from epochal.runtime import heap, memory
from epochal.runtime.program import Executable, Program
from epochal.support.text import shown
from epochal.support.warn import warn

Runner = TrainRunner | TestRunner
LAG = 0.5  # seconds in which a run that has ended gives back what it worked in


class Lack(NamedTuple):
    """Memory that is missing: what is told, and how many times as much is needed as there is."""

    text: str
    times: float


def prepared(runner: Runner, block: Block, tally: Tally, display: Display) -> Executable:
    """The executable for blocks like this one; its batches are cut where they have to be.

    Raises:
        ValueError: they are to be cut, and cannot be.
        MemoryError: they do not fit into the memory, and cannot be cut, or not small enough.
    """
    rows, steps = block.order.shape[1], runner.steps
    executable = _compiled(runner, block, tally, display)
    if executable.fits:
        return executable
    first = lack = _lack(runner, executable, block, tally)
    while lack is not None:
        _narrow(runner, rows, lack)
        try:
            executable = _compiled(runner, block, tally, display)
        except WholeOnly as reason:
            raise MemoryError(f"{lack.text}. {reason} Or pass a smaller batch_size.") from None
        lack = _lack(runner, executable, block, tally)
    if first is not None and steps.micro_batch_size is None:
        fits = steps.most.pop(runner.kind)
        raise MemoryError(
            f"{first.text}, and micro_batch_size=None forbids to cut it. A batch of {fits} fits; or compile with "
            'micro_batch_size="auto".'
        )
    if first is not None:
        display.note(f"{first.text}: it is run in micro-batches of {runner.width}, with the same result.")
        executable.tight = True
    executable.fits = True
    return executable


def run(
    runner: Runner,
    executable: Executable,
    block: Block,
    tally: Tally,
    span: tuple[int, int],
    display: Display,
    whole: Callable[..., Tally] = lambda update, *arguments: update(*arguments),
) -> tuple[Executable, Tally]:
    """Runs steps span[0] … span[1]-1 of the block; in smaller pieces, where the memory turns out not to suffice.

    Args:
        executable: of `prepared`.
        whole: calls the function that it is given.

    Returns:
        what has run them, and the tally after them.

    Raises:
        MemoryError: not even one example at a time fits, or batches cannot be cut. The model is as before the steps.
    """
    rows, (first, last), again = block.order.shape[1], span, False
    while first < last:
        ahead = last - first if executable.trusted else 1
        try:
            tally = whole(runner.run, executable, block, tally, first, first + ahead)
            first, again = first + ahead, False
            continue
        except jax.errors.JaxRuntimeError as error:
            if executable.trusted or not memory.is_lacking(error):
                raise
            if executable.proven and not again:  # what the run before took may not be free yet
                again = True
                time.sleep(LAG)
                continue
            lack = Lack(f"{_piece(runner, rows)} does not fit into the memory ({str(error).splitlines()[0]})", 2)
            try:
                if runner.steps.micro_batch_size is None:
                    raise WholeOnly('micro_batch_size=None forbids to cut it: compile with micro_batch_size="auto".')
                _narrow(runner, rows, lack)
                executable = prepared(runner, block, tally, display)
            except WholeOnly as reason:
                raise MemoryError(f"{lack.text}. {reason} Or pass a smaller batch_size.") from error
        executable.tight = True
        display.note(f"{lack.text}: it is run in micro-batches of {runner.width}, with the same result.")
    return executable, tally


def cut(runner: Runner, rows: int) -> int | None:
    """Has batches of so many rows run in pieces, where that was asked for, or it is known that it has to be.

    Returns:
        rows per piece; None where batches stay whole.

    Raises:
        WholeOnly: they are to be cut, and cannot be.
    """
    steps = runner.steps
    width = steps.width_of(runner.kind, rows)
    if width is not None:
        _check_cuttable(steps, f"A batch of {rows} examples is to be run in micro-batches of {width}, but ")
    runner.cut(width, rows)
    return width


def _compiled(runner: Runner, block: Block, tally: Tally, display: Display) -> Executable:
    """The executable for pieces as they are to be now."""
    width = cut(runner, block.order.shape[1])
    executable = _executable(runner.program, runner.kind, runner.arguments(block, tally), display)
    if width is not None and runner.kind == "train":
        _tell_what_differs(runner.steps, width, display)
    return executable


def predicted(steps: Steps, x: Any, display: Display, executable: Executable | None = None) -> tuple[Executable, Any]:
    """The outputs for inputs like x and the buffers after them; in smaller pieces, where the memory does not suffice.

    Args:
        executable: of an earlier call with inputs like these.

    Returns:
        what has computed them, and both.

    Raises:
        MemoryError: not even one example at a time fits, or stateful layers take whole batches.
    """
    rows, first = len(jax.tree.leaves(x)[0]), None
    while True:
        executable = _predictor(steps, x, display) if executable is None else executable
        executable.tight = executable.tight or first is not None
        width = steps.width_of("predict", rows)
        try:
            found = executable(*steps.parts.collect(), x)
            if not executable.trusted:  # it may find that the memory does not suffice
                jax.block_until_ready(found)
                executable.proven = True
        except jax.errors.JaxRuntimeError as error:
            if executable.trusted or not memory.is_lacking(error):
                raise
            first = first or f"{_named(rows)} does not fit into the memory ({str(error).splitlines()[0]})"
            if steps.parts.stateful or (width or rows) == 1:
                raise MemoryError(
                    f"{first}, and cannot be predicted in smaller pieces: pass fewer examples."
                ) from error
            steps.most["predict"], executable = _fewer(width or rows, Lack(first, 2)), None
            continue
        if first is not None:
            display.note(f"{first}: it is predicted in pieces of {width}.")
        return executable, found


def _predictor(steps: Steps, x: Any, display: Display) -> Executable:
    """What predicts for inputs like x: in pieces, where the memory does not suffice for all at once."""
    rows, first = len(jax.tree.leaves(x)[0]), None
    while True:
        width = steps.width_of("predict", rows)
        arguments = (*steps.parts.collect(), x)
        executable = _executable(steps.program("predict", False, width), "predict", arguments, display)
        lack = None if executable.fits else _missing(executable, arguments, _named(rows))
        first, tried = first or lack, width or rows
        if lack is None or steps.parts.stateful or tried == 1:  # what cannot be cut is tried as it is
            break
        steps.most["predict"] = _fewer(tried, lack)
    if first is not None and width is not None:
        display.note(f"{first.text}: it is predicted in pieces of {width}.")
    executable.fits = True
    return executable


def _executable(program: Program, kind: str, arguments: tuple, display: Display) -> Executable:
    """What to call for these arguments; the display says when it has to be compiled first."""
    if program.ready(*arguments):
        return program.executable(*arguments)
    display.compiling(kind)
    executable = program.executable(*arguments)
    display.compiled(kind)
    return executable


def _lack(runner: Runner, executable: Executable, block: Block, tally: Tally) -> Lack | None:
    """What memory is missing, as far as that is known before a run."""
    what, state = _piece(runner, block.order.shape[1]), runner.state() if isinstance(runner, TrainRunner) else ()
    return _missing(executable, runner.arguments(block, tally), what, state)


def _missing(executable: Executable, arguments: tuple, what: str, state: Any = ()) -> Lack | None:
    """What is missing to run a program that nothing is known of, and for a copy of `state` beside it."""
    analysis = getattr(executable.function, "memory_analysis", None)
    if executable.proven or analysis is None:
        return None
    needed = memory.step_bytes(executable.function, state)
    held, copied = memory.tree_bytes(arguments), memory.tree_bytes(state)
    limit = memory.limit(held=held, copied=copied)
    if needed > limit.bytes:  # what compiling has left in the heap may count as taken
        heap.give_back()
        limit = memory.limit(held=held, copied=copied)
    if needed > limit.bytes / 4:
        executable.keeps = False  # blocks of other sizes might not find room beside those that are kept
    # On a CPU a run takes its memory when it is dispatched, also where the one before it is still under way.
    executable.tight = needed > limit.bytes / 2 and jax.default_backend() == "cpu"
    if needed <= limit.bytes:
        return None
    amounts = f"{shown(needed)}, more than {shown(limit.bytes)} ({limit.source})"
    return Lack(f"{what} needs {amounts}", needed / limit.bytes)


def _fewer(rows: int, lack: Lack) -> int:
    """Half, a quarter, … of the rows: the most that may fit. What a piece needs shrinks at most as its rows do."""
    return max(1, rows >> max(1, math.ceil(math.log2(lack.times))))


def _piece(runner: Runner, rows: int) -> str:
    return _named(rows) if runner.width is None else _named(runner.width, "micro-batch")


def _named(rows: int, kind: str = "batch") -> str:
    return f"A {kind} of {rows} example{'s' if rows > 1 else ''}"


def _narrow(runner: Runner, rows: int, lack: Lack) -> None:
    """Takes pieces of half, a quarter, … of the rows from now on: of the most that may fit.

    Raises:
        MemoryError: it cannot be.
    """
    steps, tried = runner.steps, runner.width or rows
    if tried == 1:
        raise MemoryError(
            f"{lack.text}, and there is no smaller one: take a smaller model, or fewer data at a time. (How much "
            f"memory to plan with is taken from the environment's {memory.VARIABLE}, if it is set.)"
        )
    try:
        _check_cuttable(steps, f"{lack.text}, and ")
    except WholeOnly as reason:
        raise MemoryError(str(reason)) from None
    steps.most[runner.kind] = _fewer(tried, lack)


def _check_cuttable(steps: Steps, trouble: str) -> None:
    """Raises WholeOnly, with `trouble` in front, where a batch must stay whole."""
    reason = None
    if steps.custom.step is not None:
        reason = "the model's own train_step() takes whole batches: do without it, or pass a smaller batch_size."
    elif steps.custom.loss is not None:
        reason = (
            "the model's own compute_loss() takes whole batches: pass a loss to compile(), or a smaller batch_size."
        )
    elif steps.parts.stateful:
        layers = ", ".join(steps.parts.stateful)
        reason = f"stateful layers keep a state per row of the whole batch ({layers}): pass a smaller batch_size."
    if reason is not None:
        raise WholeOnly(trouble + reason)


def _tell_what_differs(steps: Steps, width: int, display: Display) -> None:
    """Says, once, for which code a piece of a batch may not be the same as the whole."""
    if steps.told:
        return
    steps.told = True
    parts = steps.parts
    if parts.across_batch:
        warn(
            f"Batches are run in micro-batches of {width} examples, over which {', '.join(parts.across_batch)} takes "
            "statistics, not over the whole batch. LayerNormalization and GroupNormalization do not depend on it; "
            "compile(micro_batch_size=None) refuses batches that do not fit into the memory instead.",
        )
    if parts.unknown or steps.adders:
        added = [f"what {name!r} adds with add_loss() for a mean over examples" for name in steps.adders]
        alone = [f"{', '.join(parts.unknown)} to treat every example alone"] if parts.unknown else []
        display.note(f"Batches are run in micro-batches of {width} examples, taking {' and '.join([*alone, *added])}.")

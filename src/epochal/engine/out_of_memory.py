"""When batches are run in micro-batches: where it was asked for, and where the memory does not suffice otherwise."""

from __future__ import annotations

import math
import time
from typing import Any, NamedTuple

import jax

from epochal.data.feeds.block import Block
from epochal.display.progress import Display
from epochal.engine.execution import execute
from epochal.engine.objective.loss_sums import WholeOnly
from epochal.engine.objective.tally import Tally
from epochal.engine.programs import PredictPrograms, TestPrograms, TrainPrograms
from epochal.engine.runners import Runner
from epochal.runtime import heap, memory
from epochal.runtime.interrupts import Interrupts
from epochal.runtime.program import Executable, Program
from epochal.support.text import shown
from epochal.support.warn import warn

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
    rows, programs = block.order.shape[1], runner.programs
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
    if first is not None and programs.micro_batch_size is None:
        fits, programs.most = programs.most, None
        raise MemoryError(
            f"{first.text}, and micro_batch_size=None forbids to cut it. A batch of {fits} fits; or compile with "
            'micro_batch_size="auto".'
        )
    if first is not None:
        display.note(f"{first.text}: it is run in micro-batches of {runner.width}, with the same result.")
        executable.tight = True
    executable.fits = True
    return executable


def recovered(
    runner: Runner, executable: Executable, block: Block, tally: Tally, display: Display, error: Exception
) -> Executable:
    """What runs the block's steps instead, in smaller pieces, after a run has met with `error`.

    Raises:
        MemoryError: not even one example at a time fits, or batches cannot be split. The model is as before the run.
        Exception: `error`, where it is no lack of memory.
    """
    if executable.trusted or not memory.is_lacking(error):
        raise error
    if executable.proven and not executable.retried:  # what the run before took may not be free yet
        executable.retried = True
        time.sleep(LAG)
        return executable
    rows = block.order.shape[1]
    lack = Lack(f"{_piece(runner, rows)} does not fit into the memory ({str(error).splitlines()[0]})", 2)
    try:
        if runner.programs.micro_batch_size is None:
            raise WholeOnly('micro_batch_size=None forbids to cut it: compile with micro_batch_size="auto".')
        _narrow(runner, rows, lack)
        executable = prepared(runner, block, tally, display)
    except WholeOnly as reason:
        raise MemoryError(f"{lack.text}. {reason} Or pass a smaller batch_size.") from error
    executable.tight = True
    display.note(f"{lack.text}: it is run in micro-batches of {runner.width}, with the same result.")
    return executable


def split(runner: Runner, rows: int) -> int | None:
    """Has batches of so many rows run in pieces, where that was asked for, or it is known that it has to be.

    Returns:
        rows per piece; None where batches stay whole.

    Raises:
        WholeOnly: they are to be cut, and cannot be.
    """
    width = runner.programs.width_of(rows)
    if width is not None:
        _check_cuttable(runner.programs, f"A batch of {rows} examples is to be run in micro-batches of {width}, but ")
    if width != runner.width or width is not None:
        runner.split(width, rows)
    return width


def _compiled(runner: Runner, block: Block, tally: Tally, display: Display) -> Executable:
    """The executable for pieces as they are to be now."""
    width = split(runner, block.order.shape[1])
    executable = _executable(runner.program, runner.kind, _arguments(runner, block, tally), display)
    if width is not None and isinstance(runner.programs, TrainPrograms):
        _tell_what_differs(runner.programs, width, display)
    return executable


def _arguments(runner: Runner, block: Block, tally: Tally) -> tuple:
    """What the program takes, for compiling."""
    return runner.arrays.read(), *runner.arguments(block, tally, 0, 0)


def predicted(
    programs: PredictPrograms, x: Any, display: Display, executable: Executable | None = None
) -> tuple[Executable, Any]:
    """The outputs for inputs like x; in smaller pieces, where the memory does not suffice.

    Args:
        executable: of an earlier call with inputs like these.

    Returns:
        what has computed them, and the outputs.

    Raises:
        MemoryError: not even one example at a time fits, or stateful layers take whole batches.
    """
    rows, first = len(jax.tree.leaves(x)[0]), None
    while True:
        executable = _predictor(programs, x, display) if executable is None else executable
        executable.tight = executable.tight or first is not None
        width = programs.width_of(rows)
        try:
            outputs = execute(executable, programs.arrays, (x,), Interrupts())
        except jax.errors.JaxRuntimeError as error:
            if executable.trusted or not memory.is_lacking(error):
                raise
            first = first or f"{_named(rows)} does not fit into the memory ({str(error).splitlines()[0]})"
            if programs.parts.stateful or (width or rows) == 1:
                raise MemoryError(
                    f"{first}, and cannot be predicted in smaller pieces: pass fewer examples."
                ) from error
            programs.most, executable = _fewer(width or rows, Lack(first, 2)), None
            continue
        if first is not None:
            display.note(f"{first}: it is predicted in pieces of {width}.")
        return executable, outputs


def _predictor(programs: PredictPrograms, x: Any, display: Display) -> Executable:
    """What predicts for inputs like x: in pieces, where the memory does not suffice for all at once."""
    rows, first = len(jax.tree.leaves(x)[0]), None
    while True:
        width = programs.width_of(rows)
        arguments = (programs.arrays.read(), x)
        executable = _executable(programs.program(width), "predict", arguments, display)
        lack = None if executable.fits else _missing(executable, arguments, _named(rows))
        first, tried = first or lack, width or rows
        if lack is None or programs.parts.stateful or tried == 1:  # what cannot be cut is tried as it is
            break
        programs.most = _fewer(tried, lack)
    if first is not None and width is not None:
        display.note(f"{first.text}: it is predicted in pieces of {width}.")
    executable.fits = True
    return executable


def _executable(program: Program, kind: str, arguments: tuple, display: Display) -> Executable:
    """What to call for these arguments; the display says when it has to be compiled first."""
    found = program.find(*arguments)
    if found is not None:
        return found
    display.compiling(kind)
    executable = program.executable(*arguments)
    display.compiled(kind)
    return executable


def _lack(runner: Runner, executable: Executable, block: Block, tally: Tally) -> Lack | None:
    """What memory is missing, as far as that is known before a run."""
    what, state = _piece(runner, block.order.shape[1]), runner.arrays.read() if runner.programs.donates else ()
    return _missing(executable, _arguments(runner, block, tally), what, state)


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
    programs, tried = runner.programs, runner.width or rows
    if tried == 1:
        raise MemoryError(
            f"{lack.text}, and there is no smaller one: take a smaller model, or fewer data at a time. (How much "
            f"memory to plan with is taken from the environment's {memory.VARIABLE}, if it is set.)"
        )
    try:
        _check_cuttable(programs, f"{lack.text}, and ")
    except WholeOnly as reason:
        raise MemoryError(str(reason)) from None
    programs.most = _fewer(tried, lack)


def _check_cuttable(programs: TrainPrograms | TestPrograms, trouble: str) -> None:
    """Raises WholeOnly, with `trouble` in front, where a batch must stay whole."""
    reason, custom = None, programs.step.custom
    if custom.step is not None:
        reason = "the model's own train_step() takes whole batches: do without it, or pass a smaller batch_size."
    elif custom.loss is not None:
        reason = (
            "the model's own compute_loss() takes whole batches: pass a loss to compile(), or a smaller batch_size."
        )
    elif programs.parts.stateful:
        layers = ", ".join(programs.parts.stateful)
        reason = f"stateful layers keep a state per row of the whole batch ({layers}): pass a smaller batch_size."
    if reason is not None:
        raise WholeOnly(trouble + reason)


def _tell_what_differs(programs: TrainPrograms, width: int, display: Display) -> None:
    """Says, once, for which code a piece of a batch may not be the same as the whole."""
    if programs.warned:
        return
    programs.warned = True
    parts = programs.parts
    if parts.across_batch:
        warn(
            f"Batches are run in micro-batches of {width} examples, over which {', '.join(parts.across_batch)} takes "
            "statistics, not over the whole batch. LayerNormalization and GroupNormalization do not depend on it; "
            "compile(micro_batch_size=None) refuses batches that do not fit into the memory instead.",
        )
    if parts.unknown or programs.step.adders:
        added = [f"what {name!r} adds with add_loss() for a mean over examples" for name in programs.step.adders]
        alone = [f"{', '.join(parts.unknown)} to treat every example alone"] if parts.unknown else []
        display.note(f"Batches are run in micro-batches of {width} examples, taking {' and '.join([*alone, *added])}.")

"""An execution: a program runs on the current arrays. State in, state out; all programs are called here."""

from __future__ import annotations

from typing import Any

import jax

from epochal.runtime import heap
from epochal.runtime.host_copies import host_copy, on_device
from epochal.runtime.interrupts import Interrupts
from epochal.runtime.program import Executable


def execute(
    executable: Executable, arrays: Any, arguments: tuple, interrupts: Interrupts, donates: bool = False
) -> Any:
    """Runs a program `(state, *arguments) -> (state afterwards, result)` and leaves the new arrays where they belong.

    The first run of a program, and all of one that may raise, is waited for: it may find that the memory does not
    suffice. What it was donated is put back then.

    Args:
        executable: the compiled program.
        arrays: reads the state, and takes the new one: `state.ModelArrays` and its like.
        arguments: what else the program takes.
        interrupts: told while the arrays are with the program.
        donates: whether the program takes over the memory of the state.

    Returns:
        the result.

    Raises:
        Exception: whatever a step raises; the arrays are then those of before the run.
    """
    state = arrays.read()
    waits = executable.may_raise or not executable.proven or executable.tight  # `alone`, without a call
    copy = host_copy(state) if waits and donates and not executable.may_raise else None
    if executable.keeps:
        heap.keep()
    interrupts.updating = True
    try:
        after, result = executable.function(state, *arguments)
        if waits:
            jax.block_until_ready((after, result))
            executable.proven, executable.retried = True, False
        arrays.write(after)
    except jax.errors.JaxRuntimeError:
        if copy is not None:
            arrays.write(on_device(copy, state))
        raise
    finally:
        interrupts.updating = False
    return result

"""Functions of arrays as compiled programs, one per set of argument shapes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from epochal.runtime import heap, program_cache


@dataclass
class Executable:
    """A compiled program.

    Attributes:
        function: what to call.
        proven: whether a run of it has come to its end. The first one may find that the memory does not suffice.
        step_seconds: the time that a step of it was seen to take.
        most: steps that were run at once so far.
        fits: whether it has been seen that the memory ought to suffice.
        tight: whether it takes most of it, so that any run may find it wanting: what another took is not free yet, say.
        keeps: whether the memory that a run works in is kept for the next one.
        may_raise: whether a run may end in an exception: it is plain Python, calls Python, or looks for NaN. Its
            arguments stay alive.
        retried: whether the last run failed for want of memory, and is being tried once more.
    """

    function: Callable
    proven: bool = False
    step_seconds: float = math.inf
    most: int = 0
    fits: bool = False
    tight: bool = False
    keeps: bool = False
    may_raise: bool = False
    retried: bool = False

    @property
    def trusted(self) -> bool:
        """Whether a run is not expected to fail for want of memory."""
        return self.proven and not self.tight

    @property
    def alone(self) -> bool:
        """Whether its steps run one at a time, each waited for."""
        return self.may_raise or not self.trusted

    def steps_in(self, seconds: float) -> int:
        """How many steps take so long; at most eight times as many as have been run at once."""
        # The first executions are too short to be measured well.
        return max(1, min(8 * self.most, int(seconds / max(self.step_seconds, 1e-7))))

    def took(self, steps: int, seconds: float, exactly: bool) -> None:
        """So many steps took so long, or not longer where that is not known exactly."""
        per_step = seconds / steps
        self.step_seconds = per_step if exactly else min(per_step, self.step_seconds)


class Program:
    """A function of arrays and its executables, one per set of argument shapes.

    Args:
        function: pure, of pytrees of arrays.
        donate: positions of arguments whose memory the results may take over.
        eager: run the function as plain Python instead, so that `print` and a debugger work in it.

    Attributes:
        compile_seconds: spent on compiling so far.
        executables: how many programs have been compiled.
    """

    def __init__(self, function: Callable, donate: tuple[int, ...] = (), eager: bool = False):
        self._function, self._python = function, False
        self._eager, self._donate = eager, donate
        self._executables: dict[Any, Executable] = {}
        self.compile_seconds, self.executables = 0.0, 0

    def find(self, *arguments: Any) -> Executable | None:
        """What to call for arguments of these shapes; None where it has to be compiled first."""
        if self._eager:
            return Executable(self._function, may_raise=True)
        return self._executables.get(_signature(arguments))

    def executable(self, *arguments: Any) -> Executable:
        """What to call for arguments of these shapes; compiled at the first request."""
        found = self.find(*arguments)
        return self._compiled(arguments) if found is None else found

    def _compiled(self, arguments: tuple) -> Executable:
        program_cache.keep_programs()
        start = time.perf_counter()
        traced = jax.jit(self._function, donate_argnums=self._donate).trace(*arguments)
        if _calls_python(traced.jaxpr.jaxpr):
            self._python = True
            traced = jax.jit(self._function).trace(*arguments)
        compiled = traced.lower().compile()
        found = Executable(compiled, may_raise=self._python or checks_numbers())
        self._executables[_signature(arguments)] = found
        self.executables += 1
        found.keeps = _works_in(compiled) >= heap.LARGE and heap.hold(found)
        self.compile_seconds += time.perf_counter() - start
        return found


def _works_in(compiled: Any) -> int:
    """Bytes on the host that a run allocates for what is between arguments and results."""
    return compiled.memory_analysis().temp_size_in_bytes if jax.default_backend() == "cpu" else 0


def _calls_python(jaxpr: Any) -> bool:
    """Whether a program calls Python functions when it runs: `jax.pure_callback` and its like."""
    if any("callback" in equation.primitive.name for equation in jaxpr.eqns):
        return True
    inner = jax.tree.leaves([equation.params for equation in jaxpr.eqns], is_leaf=lambda a: hasattr(a, "eqns"))
    return any(_calls_python(getattr(part, "jaxpr", part)) for part in inner if hasattr(part, "eqns"))


def _signature(arguments: Any) -> Any:
    leaves, structure = jax.tree.flatten(arguments)
    return structure, tuple((np.shape(a), a.dtype) for a in leaves), checks_numbers()


def checks_numbers() -> bool:
    """Whether JAX looks for NaN in all results; it donates no arguments then."""
    return jax.config.jax_debug_nans or jax.config.jax_debug_infs  # pyright: ignore[reportAttributeAccessIssue]

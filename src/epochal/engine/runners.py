"""What runs the compiled steps of one kind on a model's current arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from epochal.data.feeds.block import Block
from epochal.engine.micro_batches import Cut
from epochal.engine.nonfinite import Record
from epochal.engine.objective.tally import Means, Tally
from epochal.engine.programs import Steps, pass_key
from epochal.engine.state import TrainState
from epochal.runtime.host_copies import host_copy, on_device
from epochal.runtime.program import Executable
from epochal.support.types import Logs


class _Runner:
    """Runs the steps of one kind.

    Attributes:
        padded: whether batches may hold padding.
        width: rows that are run at once, of batches that are cut; None: all.
        how: they are cut; None: not at all.
        program: what is run.
        one_in: rows per piece -> in one of how many batches that are cut the noise is listened to, 0 in none.
    """

    kind = ""

    def __init__(self, steps: Steps, padded: bool, one_in: Callable[[int], int] | None = None):
        self.steps, self.padded, self.one_in = steps, padded, one_in
        self.cut(None)

    def cut(self, width: int | None, rows: int = 0) -> None:
        """Runs batches of `rows` rows in pieces of `width` from here on; as a whole, if that is None."""
        padded = self.padded
        if width is not None and self.steps.row_independent:  # else the last piece has its true shape
            padded = padded or rows % width != 0
        one_in = 0 if width is None or self.one_in is None else self.one_in(width)
        self.width, self.program = width, self.steps.program(self.kind, padded, width, one_in)
        self.how = None if width is None else Cut(width, padded, self.steps.eager)


class TrainRunner(_Runner):
    """Runs training steps on the model's current arrays and leaves the new ones in the model."""

    kind = "train"

    def __init__(self, steps: Steps, padded: bool, seed: int, epoch: int, one_in: Callable[[int], int] | None = None):
        super().__init__(steps, padded, one_in)
        self._draw = np.array([seed, epoch], np.uint32)  # the key of the pass is made of these in the program

    def state(self) -> TrainState:
        """The state as the model and the optimizer hold it now."""
        params, buffers = self.steps.parts.collect()
        optimizer = self.steps.optimizer
        assert optimizer is not None
        return TrainState(params, buffers, optimizer.state)

    @property
    def key(self) -> Array:
        """What the pass draws masks by."""
        return pass_key(self._draw)

    def start(self, block: Block) -> Tally:
        """The tally before any batch of blocks like this."""
        tally = self.steps.tally(block, self.state)
        width = self.steps.width_of(self.kind, block.order.shape[1])
        listens = self.one_in is not None and width is not None and self.one_in(width) > 0
        return tally._replace(noise=np.zeros((2, 7), np.float32)) if listens else tally

    def restored(self, leaves: Sequence[Any], labels: Sequence[str], steps: int) -> Tally:
        """A tally from its arrays and the names of its values, behind so many batches."""
        if self.steps.custom.step is not None and not self.steps.means.labels:
            self.steps.means = Means({label: np.zeros(()) for label in labels})
        arrays = [jnp.array(leaf) for leaf in leaves]
        structure = jax.tree.structure(self.steps.train_report.start)
        if len(arrays) < structure.num_leaves:
            raise TypeError(f"expected {structure.num_leaves} arrays of metrics so far, got {len(arrays)}")
        tally, noted = jax.tree.unflatten(structure, arrays[: structure.num_leaves]), arrays[structure.num_leaves :]
        noise = noted.pop() if len(noted) % len(Record._fields) else None
        record = self.steps.record(steps)  # what is done about such updates may have changed
        return tally._replace(skips=Record(*noted) if record is not None and noted else record, noise=noise)

    def read(self, tally: Tally) -> Logs:
        """The reported numbers. Waits for the device."""
        return self.steps.train_report.read(tally)

    def arguments(self, block: Block, tally: Tally) -> tuple:
        """What the program takes, for compiling."""
        return (self.state(), tally, block, self._draw, np.int32(0), np.int32(0))

    def run(self, executable: Executable, block: Block, tally: Tally, first: int, last: int) -> Tally:
        """Steps first … last-1 of the block; returns the tally so far.

        Raises:
            Exception: whatever a step raises; the model then holds the arrays of the last complete one.
        """
        while first < last:  # the first step, and all of a program that may raise, alone: each is waited for
            ahead = last - first if executable.trusted and not self.program.may_raise else 1
            tally = self._once(executable, block, tally, first, first + ahead)
            first += ahead
        return tally

    def _once(self, executable: Executable, block: Block, tally: Tally, first: int, last: int) -> Tally:
        state = self.state()
        copy = None if self.program.may_raise or executable.trusted else host_copy(state)
        try:
            tally = self._update(executable, state, block, tally, first, last)
        except jax.errors.JaxRuntimeError:
            if copy is not None:
                self._keep(on_device(copy, state))
            raise
        executable.proven = True
        return tally

    def _update(
        self, executable: Executable, state: TrainState, block: Block, tally: Tally, first: int, last: int
    ) -> Tally:
        state, tally = executable(state, tally, block, self._draw, np.int32(first), np.int32(last))
        if self.program.may_raise or not executable.trusted:
            jax.block_until_ready(state)
        self._keep(state)
        return tally

    def _keep(self, state: TrainState) -> None:
        """Leaves these arrays in the model and the optimizer."""
        self.steps.parts.publish(state.params, state.buffers)
        assert self.steps.optimizer is not None
        self.steps.optimizer.state = state.opt


class TestRunner(_Runner):
    """Runs evaluation steps; changes nothing in the model but the states of stateful layers."""

    __test__ = False  # not a test class, whatever pytest thinks of its name
    kind = "test"

    def __init__(self, steps: Steps, padded: bool):
        super().__init__(steps, padded)
        assert steps.objective is not None
        self._objective = steps.objective

    def start(self, block: Block) -> Tally:
        """The tally before any batch."""
        return self._objective.start

    def read(self, tally: Tally) -> Logs:
        """The reported numbers. Waits for the device."""
        return self._objective.read(tally)

    def arguments(self, block: Block, tally: Tally) -> tuple:
        """What the program takes, for compiling."""
        return (*self.steps.parts.collect(), tally, block, np.int32(0), np.int32(0))

    def run(self, executable: Executable, block: Block, tally: Tally, first: int, last: int) -> Tally:
        """Steps first … last-1 of the block; returns the tally so far."""
        params, buffers = self.steps.parts.collect()
        kept, tally = executable(params, buffers, tally, block, np.int32(first), np.int32(last))
        if not executable.trusted:  # it may find that the memory does not suffice
            jax.block_until_ready(tally)
            executable.proven = True
        if kept is not None:
            self.steps.parts.publish(params, kept)
        return tally

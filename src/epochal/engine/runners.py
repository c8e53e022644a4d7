"""What a pass runs: the programs of one kind on current arrays, for batches that are padded and split in one way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax import Array

from epochal.data.feeds.block import Block
from epochal.engine.micro_batches import Cut
from epochal.engine.objective.tally import Entry, Pass, Tally
from epochal.engine.programs import TestPrograms, TrainPrograms, pass_key
from epochal.support.types import Logs


class Runner:
    """The steps of one kind on current arrays.

    Args:
        programs: compiled for the model.
        padded: whether batches may hold padding.
        arrays: what the steps run on; None: the model's.
        entries: of the tally, that were asked for.

    Attributes:
        padded: whether batches may hold padding.
        width: rows that are run at once, of batches that are split; None: all.
        cut: how they are split; None: not at all.
        program: what is run.
    """

    def __init__(
        self,
        programs: TrainPrograms | TestPrograms,
        padded: bool,
        arrays: Any = None,
        entries: Sequence[Entry] = (),
    ):
        self.programs, self.kind, self.padded, self._asked = programs, programs.kind, padded, entries
        self.arrays = programs.arrays if arrays is None else arrays
        self.split(None)

    def split(self, width: int | None, rows: int = 0) -> None:
        """Runs batches of `rows` rows in micro-batches of `width` from here on; as a whole, if that is None."""
        padded, programs = self.padded, self.programs
        if width is not None and programs.step.row_independent:  # else the last piece has its true shape
            padded = padded or rows % width != 0
        self.width, self.cut = width, None if width is None else Cut(width, padded, programs.eager)
        self.entries = programs.entries(self._asked, width) if isinstance(programs, TrainPrograms) else []
        self.program = programs.program(padded, width, self.entries)

    def start(self, block: Block) -> Tally:
        """The tally before any batch of blocks like this."""
        tally = self.programs.start(block, self._asked)
        if isinstance(self.programs, TrainPrograms):  # what a step of the model's own logs is known by now
            self.split(self.width, block.order.shape[1])
        return tally

    def arguments(self, block: Block, tally: Tally, first: int, last: int) -> tuple:
        """What the program takes beside the state, for steps first … last-1."""
        return tally, block, np.int32(first), np.int32(last)

    def read(self, tally: Tally) -> Logs:
        """The reported numbers. Waits for the device."""
        return self.programs.report.read(tally)

    def check(self, tally: Tally, place: Pass) -> None:
        """Lets the entries of the tally look at a pass under way; one may end training by raising."""
        for entry in self.entries:
            if entry.name in tally.entries:
                entry.check(tally.entries[entry.name], place)

    def end(self, tally: Tally, place: Pass) -> Logs:
        """What the entries of the tally report at the end of a pass."""
        logs: Logs = {}
        for entry in self.entries:
            if entry.name in tally.entries:
                logs.update(entry.end(tally.entries[entry.name], place))
        return logs


class TrainRunner(Runner):
    """Training steps of one pass.

    Args:
        programs, padded, arrays, entries: as of a `Runner`.
        seed, epoch: what the pass draws masks by.
    """

    def __init__(
        self,
        programs: TrainPrograms,
        padded: bool,
        seed: int,
        epoch: int,
        arrays: Any = None,
        entries: Sequence[Entry] = (),
    ):
        self.programs: TrainPrograms
        self._draw = np.array([seed, epoch], np.uint32)  # the key of the pass is made of these in the program
        super().__init__(programs, padded, arrays, entries)

    @property
    def key(self) -> Array:
        """What the pass draws masks by."""
        return pass_key(self._draw)

    def arguments(self, block: Block, tally: Tally, first: int, last: int) -> tuple:
        """What the program takes beside the state, for steps first … last-1."""
        return tally, block, self._draw, np.int32(first), np.int32(last)


class TestRunner(Runner):
    """Evaluation steps of one pass; they change nothing in the model but the states of stateful layers."""

    __test__ = False  # not a test class, whatever pytest thinks of its name

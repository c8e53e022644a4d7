"""A copy of a model's state that is trained to be measured: its examples, and its programs for several batch sizes.

Programs are those that `fit` runs, so what is compiled here is compiled for it, too. They run on copies of the arrays:
the model, its optimizer and all random streams stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from epochal.data.arrays import read_rows
from epochal.data.examples import Examples
from epochal.data.feeds.array_feed import ArrayFeed
from epochal.data.feeds.block import Block, Stretch
from epochal.display.progress import Display
from epochal.engine import out_of_memory
from epochal.engine.execution import execute
from epochal.engine.loop import advance
from epochal.engine.pacing import AllSteps
from epochal.engine.programs import Programs
from epochal.engine.runners import TrainRunner
from epochal.engine.state import CopiedArrays, TrainState
from epochal.runtime.interrupts import Interrupts
from epochal.runtime.program import Executable

MOST_ROWS = 65_536  # of large data so many are measured on


@dataclass(frozen=True, eq=False)
class Prepared:
    """What a plan is measured on.

    Attributes:
        programs: the model's; the optimizer has a state for the arrays that train.
        examples: in memory, in the model's form, with the weights of their classes; at most MOST_ROWS.
        n: of how many examples they are a sample.
    """

    programs: Programs
    examples: Examples
    n: int


def sample(examples: Examples, seed: int) -> Examples:
    """At most MOST_ROWS of the examples, in memory; not copied where all are, and are there."""
    if examples.n > MOST_ROWS:
        rows = np.sort(np.random.default_rng(seed).permutation(examples.n)[:MOST_ROWS])
        examples = Examples(*read_rows((examples.x, examples.y, examples.weight), rows), n=MOST_ROWS)
    return examples.read()


class Stopwatch:
    """Tells how long measuring takes.

    Args:
        now: tells the time in seconds.
    """

    def __init__(self, now: Callable[[], float]):
        self.now, self._began = now, now()

    @property
    def elapsed(self) -> float:
        """Seconds since it was made."""
        return self.now() - self._began


class Sized(NamedTuple):
    """What runs batches of one size."""

    feed: ArrayFeed
    runner: TrainRunner
    block: Block
    executable: Executable


class TrialModel:
    """The model on copies of its arrays, and its data on the device.

    Args:
        prepared: programs, optimizer and examples.
        seed: of the order of the rows and of masks.

    Attributes:
        programs: the model's.
        examples: on the device.
        n: of how many examples they are a sample.
        seed: as given.
        sizes: batch size -> what runs such batches, as far as they are compiled.
    """

    def __init__(self, prepared: Prepared, seed: int):
        self.programs, self.n, self.seed = prepared.programs, prepared.n, seed
        examples = prepared.examples
        self.examples = Examples(*jax.device_put((examples.x, examples.y, examples.weight)), n=examples.n)
        self.sizes: dict[int, Sized] = {}

    @property
    def piece(self) -> int | None:
        """Examples that are run at once, where `compile` was told."""
        asked = self.programs.micro_batch_size
        return asked if isinstance(asked, int) else None

    def state(self) -> TrainState:
        """The arrays of the model and of the optimizer themselves."""
        return self.programs.train.arrays.read()

    def copies(self) -> CopiedArrays:
        """Copies of them, to be trained."""
        return CopiedArrays(jax.tree.map(lambda a: jnp.array(a, copy=True), self.state()))

    def compile(self, m: int) -> Sized:
        """What runs batches of m examples; compiled, if it is not yet."""
        if m not in self.sizes:
            feed = ArrayFeed(self.examples, m, True, self.seed, not self.programs.row_independent)
            runner = TrainRunner(self.programs.train, feed.padded, self.seed, 0)
            block = next(iter(feed.epoch(0))).block
            out_of_memory.split(runner, block.order.shape[1])
            arguments = runner.arguments(block, runner.start(block), 0, 0)
            executable = runner.program.executable(runner.arrays.read(), *arguments)
            self.sizes[m] = Sized(feed, runner, block, executable)
        return self.sizes[m]

    def per_epoch(self, m: int) -> int:
        """Batches of m examples in an epoch of the sample."""
        return self.sizes[m].feed.steps or 1

    def call(self, m: int, copies: CopiedArrays, tally: Any, count: int) -> Any:
        """The tally after the first so many steps of an epoch on these arrays."""
        sized = self.sizes[m]
        runner = sized.runner
        start = runner.start(sized.block) if tally is None else tally
        arguments = runner.arguments(sized.block, start, 0, count)
        return execute(sized.executable, copies, arguments, Interrupts(), donates=True)

    def advance(self, m: int, copies: CopiedArrays, done: int, until: int) -> float:
        """Trains these arrays from the state after update number `done` to that after `until`.

        Returns:
            the mean loss of the updates between.
        """
        feed, steps = self.sizes[m].feed, self.per_epoch(m)
        runner, tally = None, None
        while done < until:
            epoch, first = divmod(done, steps)
            runner = TrainRunner(self.programs.train, feed.padded, self.seed, epoch, copies)
            pacer = AllSteps(until - done)
            tally, _ = advance(runner, _from(feed.epoch(epoch), first), tally, pacer, Display(), Interrupts())
            done += pacer.done
        if runner is None or tally is None:
            raise ValueError(f"Expected more updates than {done}, got {until}.")
        return float(runner.read(tally)["loss"])


def _from(stretches: Iterable[Stretch], first: int) -> Iterator[Stretch]:
    """The steps of an epoch from number `first` on."""
    for block, start, sizes in stretches:
        if first < len(sizes) - start:
            yield Stretch(block, start + first, sizes)
        first = max(first - (len(sizes) - start), 0)

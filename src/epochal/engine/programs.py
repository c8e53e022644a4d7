"""Training, testing and predicting as compiled programs over many steps.

The trip count of a program's loop is an argument, so that one program runs any number of steps; cutting a row of steps
into several executions gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from epochal.data.feeds.block import Block, take
from epochal.engine.micro_batches import Cut, predicted
from epochal.engine.objective.objective import Objective
from epochal.engine.objective.tally import Entry, Tally
from epochal.engine.sampling import sampled_loop
from epochal.engine.state import ModelArrays, TrainedArrays, TrainState
from epochal.engine.step import Custom, Forward, TestStep, TrainStep
from epochal.optimizers import Optimizer
from epochal.runtime.program import Program
from epochal.tracing import forward_pass


class _Programs:
    """The programs of one kind, one for each way in which batches are padded and split.

    Args:
        kind: "train", "test" or "predict".
        arrays: those that the programs run on.
        micro_batch_size: rows that are run at once at most, "auto" or None, as `compile` takes it.

    Attributes:
        most: how many rows are run at once, where the memory does not suffice for more; None: not known to.
        made: the programs, by how batches are padded and split.
    """

    donates = False

    def __init__(self, kind: str, arrays: ModelArrays, micro_batch_size: int | str | None):
        self.kind, self.arrays, self.micro_batch_size = kind, arrays, micro_batch_size
        self.parts = arrays.parts
        self.most: int | None = None
        self.made: dict[Any, Program] = {}

    def width_of(self, rows: int) -> int | None:
        """Rows per micro-batch of batches of so many, as equal as may be; None where one suffices."""
        asked = self.micro_batch_size if isinstance(self.micro_batch_size, int) else None
        most = asked if self.most is None else self.most
        return None if most is None or rows <= most else -(-rows // -(-rows // most))

    def _kept(self, key: Any, make: Callable[[], Program]) -> Program:
        if key not in self.made:
            self.made[key] = make()
        return self.made[key]


class PredictPrograms(_Programs):
    """The model's outputs for inputs: `(state, x) -> (changed buffers, outputs)`.

    Args:
        forward: the model's call.
    """

    def __init__(self, forward: Forward):
        super().__init__("predict", ModelArrays(forward.parts), None)
        self.forward, self.eager = forward, forward.eager

    def program(self, width: int | None = None) -> Program:
        """The program for whole inputs, or for pieces of `width` rows."""
        return self._kept(width, lambda: self._make(width))

    def _make(self, width: int | None) -> Program:
        def predict(state: TrainState, x: Any) -> Any:
            def outputs(x: Any) -> Any:
                call = forward_pass.Call(training=False)
                with forward_pass.calling(call):
                    return self.forward(state.params, state.buffers, x, call)[1:]

            if width is not None:
                return None, predicted(lambda x: outputs(x)[0], x, width, self.eager)
            predictions, after = outputs(x)
            return after if self.parts.stateful else None, predictions

        return Program(predict, eager=self.eager)


class TestPrograms(_Programs):
    """Evaluation: `(state, tally, block, first, last) -> (changed buffers, tally)`.

    Args:
        step: one step of it.
        micro_batch_size: as `compile` takes it.
    """

    __test__ = False  # not a test class, whatever pytest thinks of its name

    def __init__(self, step: TestStep, micro_batch_size: int | str | None):
        super().__init__("test", ModelArrays(step.parts), micro_batch_size)
        self.step, self.eager = step, step.eager

    def program(self, padded: bool, width: int | None, entries: Sequence[Entry] = ()) -> Program:
        """The program for batches with or without room for padding.

        With a `width` it runs every batch in micro-batches of so many rows, which may be padded instead of the batch.
        """
        return self._kept((padded, width), lambda: self._make(padded, width))

    def start(self, block: Block, entries: Sequence[Entry] = ()) -> Tally:
        """The tally before any batch."""
        return self.step.objective.start

    @property
    def report(self) -> Objective:
        """What reads the tally."""
        return self.step.objective

    def _make(self, padded: bool, width: int | None) -> Program:
        cut = None if width is None else Cut(width, padded, self.eager)

        def test(state: TrainState, tally: Tally, block: Block, first: Any, last: Any) -> tuple[Any, Tally]:
            params, buffers = state.params, state.buffers

            def body(i: Any, carry: Any) -> Any:
                kept, tally = carry
                if cut is not None:
                    return kept, self.step.pieces(cut).tested(params, buffers, tally, block, i)
                after, tally = self.step.test(params, buffers if kept is None else kept, tally, take(block, i, padded))
                return after if self.parts.stateful else None, tally

            return _loop(first, last, body, (buffers if self.parts.stateful else None, tally), self.eager)

        return Program(test, eager=self.eager)


class TrainPrograms(_Programs):
    """Training: `(state, tally, block, draw, first, last) -> (state, tally)`; the state is donated.

    Args:
        step: one step of it.
        micro_batch_size: as `compile` takes it.

    Attributes:
        warned: whether the user knows for which code a micro-batch may not be the same as the whole.
    """

    donates = True

    def __init__(self, step: TrainStep, micro_batch_size: int | str | None):
        self.arrays: TrainedArrays
        super().__init__("train", TrainedArrays(step.parts, step.optimizer), micro_batch_size)
        self.step, self.eager = step, step.eager
        self.warned = False

    def program(self, padded: bool, width: int | None, entries: Sequence[Entry] = ()) -> Program:
        """The program for batches as of `TestPrograms.program`, which adds to these entries of the tally."""
        key = padded, width, tuple(entry.trace_key(width) for entry in entries)
        return self._kept(key, lambda: self._make(padded, width, {entry.name: entry for entry in entries}))

    def entries(self, asked: Sequence[Entry], width: int | None) -> list[Entry]:
        """Those of the tally of batches in micro-batches of `width` rows: the program's own, and those asked for."""
        own = [] if self.step.skipped is None else [self.step.skipped]
        return [*own, *[entry for entry in asked if entry.period(width) > 0]]

    def start(self, block: Block, entries: Sequence[Entry] = ()) -> Tally:
        """The tally before any training batch of blocks like this."""
        if self.step.custom.step is not None and not self.step.means.labels:
            self.step.logs(self._logged(block))
        active = self.entries(entries, self.width_of(block.order.shape[1]))
        return self.step.report.start._replace(entries={entry.name: entry.start() for entry in active})

    @property
    def report(self) -> Any:
        """What reads the tally: an `Objective`, or `Means`."""
        return self.step.report

    def _logged(self, block: Block) -> Any:
        """Shape and type of what a `train_step` of the model's own logs, by name."""
        custom: Any = self.step.custom.step

        def logs(state: TrainState, block: Block) -> Any:
            batch = take(block, 0, padded=False)
            with forward_pass.calling(self.step.custom_call(batch, jax.random.key(0))):
                return custom(state, batch)[1]

        state = self.arrays.read()
        return jax.tree.map(jnp.asarray, logs(state, block)) if self.eager else jax.eval_shape(logs, state, block)

    def _make(self, padded: bool, width: int | None, entries: Mapping[str, Entry]) -> Program:
        cut = None if width is None else Cut(width, padded, self.eager)
        periods = {name: entry.period(width) for name, entry in entries.items() if entry.sampled}

        def train(state: TrainState, tally: Tally, block: Block, draw: Any, first: Any, last: Any) -> Any:
            key = pass_key(draw)

            def body(i: Any, carry: Any, sampled: bool = False) -> Any:
                state, tally = carry
                if cut is not None:
                    return self.step.train_in_pieces(state, tally, block, i, key, cut, entries, sampled)
                return self.step.train(state, tally, take(block, i, padded), key, entries, sampled)

            period = min((period for name, period in periods.items() if name in tally.entries), default=0)
            if period:
                return sampled_loop(first, last, body, (state, tally), _updates, period, self.eager)
            return _loop(first, last, body, (state, tally), self.eager)

        return Program(train, donate=(0,), eager=self.eager)


class Programs:
    """What trains and tests one model with one objective.

    Args:
        forward: the model's call.
        objective: losses and metrics.
        optimizer: makes the updates.
        custom: what the model's class overrides.
        on_nonfinite, micro_batch_size: as `compile` takes them.
    """

    def __init__(
        self,
        forward: Forward,
        objective: Objective,
        optimizer: Optimizer,
        custom: Custom,
        on_nonfinite: str,
        micro_batch_size: int | str | None,
    ):
        self.parts, self.objective, self.optimizer, self.eager = forward.parts, objective, optimizer, forward.eager
        self.custom, self.micro_batch_size = custom, micro_batch_size
        self.train = TrainPrograms(TrainStep(forward, objective, custom, optimizer, on_nonfinite), micro_batch_size)
        self.test = TestPrograms(TestStep(forward, objective, custom), micro_batch_size)
        self.gradients: dict[bool, Program] = {}

    @property
    def row_independent(self) -> bool:
        """Whether padding rows reach no result: all code that sees batches is epochal's own."""
        return self.train.step.row_independent

    @property
    def executables(self) -> dict[str, int]:
        """How many programs of each kind have been compiled."""
        train, test = (sum(p.executables for p in kind.made.values()) for kind in (self.train, self.test))
        return {"train": train, "test": test, "predict": 0}

    @property
    def compile_seconds(self) -> float:
        """Spent on compiling so far."""
        return sum(program.compile_seconds for program in [*self.train.made.values(), *self.test.made.values()])

    def end_with_averages(self) -> None:
        """An optimizer with `use_ema` leaves the moving averages of the weights in the model, as in Keras."""
        optimizer = self.optimizer
        if optimizer.state is None or not optimizer.iterations:
            return
        averages = optimizer.averages(optimizer.state)
        if averages is not None:
            # copies: training takes over the memory of the optimizer's own
            self.parts.publish(tuple(jnp.array(a, copy=True) for a in averages), self.parts.collect()[1])


def _loop(first: Any, last: Any, body: Callable, carry: Any, eager: bool) -> Any:
    if not eager:
        return lax.fori_loop(first, last, body, carry)
    for i in range(int(first), int(last)):
        carry = body(i, carry)
    return carry


def _updates(carry: tuple[TrainState, Tally]) -> Array:
    return jnp.asarray(carry[0].opt.iterations)


def pass_key(draw: Any) -> Array:
    """The random key of a pass, from the run's seed and the epoch, shape (2,)."""
    return jax.random.fold_in(jax.random.key(draw[0]), draw[1])

"""What a batch plan is made of, measured on a copy of a model's state: seconds, bytes and the gradient's noise.

Programs are those that `fit` runs, so what is compiled here is compiled for it, too. They run on copies of the arrays:
the model, its optimizer and all random streams stay as they are.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from epochal import memory, micro, sources
from epochal.arguments import Checked, check_labels, is_count
from epochal.array_feed import ArrayFeed
from epochal.batch_plan import BatchPlan, Measurements, duration, largest_within, make_plan, memory_of
from epochal.critical_batch import NoiseEstimate, noise_scale
from epochal.feed import Block
from epochal.gradients import chunk_size, grouped, squares_and_products
from epochal.program import Executable
from epochal.sources import Examples
from epochal.state import TrainState
from epochal.step import Steps, TrainRunner
from epochal.streams import is_stream, made
from epochal.training import Training

# Sizes that are timed, in the order of what they tell; all examples are another one.
SIZES = (128, 16, 1024, 8192, 32, 512, 64, 256, 4)
LEAST_SIZES = 3
ROUGH_SIZES = 2  # of a plan that may not take long: they make a line, nothing is said of sizes beyond them
MOST_AT_ONCE = 8192  # all examples at once are timed up to here
MOST_ROWS = 65_536  # of large data so many are measured on
GRADIENTS = 1024  # that a noise scale is made of
SLICE = 0.01  # seconds that a size is timed for at a time
ROUNDS = 10
TIMED = 1.0  # seconds after which no further round begins, whatever little time there is
AUTO_SECONDS = 10.0  # that `fit(batch_size="auto")` measures for at most
STAGES = (1, 2, 4, 8)  # epochs of the trial training after which the noise is looked at
ROUGH_STAGES = (4,)  # of a plan that may not take long
STEADY = 1.02  # as much as the loss must have fallen by from stage to stage


def plan_batch_size(
    model: Any,
    x: Any,
    y: Any = None,
    *,
    sample_weight: Any = None,
    class_weight: Checked = None,
    memory_limit: Checked = None,
    batch_sizes: Checked = None,
    max_seconds: Checked = 60,
    seed: int = 0,
) -> BatchPlan:
    """Measures which batch size trains this model on this data and this machine to a target in the least time.

    Steps of a few sizes are timed, their memory is read off the compiled programs, and a copy of the model is trained
    for a few epochs to see how noisy its gradient is. m* = sqrt(a / b · B), with a + b m seconds per step and B the
    critical batch size (McCandlish et al. 2018, arXiv:1812.06162), is rounded and capped by memory and the data.

    Args:
        model: compiled; it is the same afterwards, to the bit.
        x, y, sample_weight, class_weight: arrays as `fit` takes them.
        memory_limit: bytes, or text such as "2GiB"; None: EPOCHAL_MEMORY_LIMIT, or what the machine has.
        batch_sizes: the sizes to choose from, ints or "full"; None leaves it open.
        max_seconds: about how long to measure, compiling included; what was begun is brought to its end.
        seed: of the trial training and of the drawn examples.

    Returns:
        a `BatchPlan`: `print` it.

    Raises:
        RuntimeError: never compiled, or called inside a JAX transformation.
        ValueError: batches in place of arrays, a recurrent model with `stateful=True`, or arguments out of range.

    Example:
        >>> import epochal as keras
        >>> plan = keras.plan_batch_size(model, x, y)  # doctest: +SKIP
        >>> plan.batch_size  # doctest: +SKIP
        128
    """
    x = made(x)
    if is_stream(x):
        raise ValueError(f"plan_batch_size() tries several sizes, and a {type(x).__name__} has its own: pass arrays.")
    model._training.ready_to("plan_batch_size")
    given = sources.as_examples(x, y, sample_weight, method="plan_batch_size")
    return plan_for(
        model,
        given,
        class_weight,
        memory_limit=memory_limit,
        batch_sizes=batch_sizes,
        max_seconds=max_seconds,
        seed=seed,
    )


def plan_for_fit(model: Any, given: tuple, class_weight: Any, fraction: Any, epochs: int) -> BatchPlan | None:
    """The plan of `fit(batch_size="auto")`; None beside batches, which have their size.

    It takes about as long as the training that it is for, but for what a rough plan needs, and AUTO_SECONDS at most.

    Args:
        model: compiled.
        given: x, y and sample_weight.
        class_weight: as `fit` takes it.
        fraction: the part of the examples that is held out to validate on.
        epochs: that are to be trained.
    """
    x = made(given[0])
    if is_stream(x):
        return None
    examples = sources.as_examples(x, *given[1:], method="fit")
    if fraction:
        examples, _ = sources.split(examples, fraction)
    return plan_for(model, examples, class_weight, max_seconds=AUTO_SECONDS, epochs=epochs)


def plan_for(
    model: Any,
    given: Examples,
    class_weight: Any = None,
    *,
    memory_limit: Any = None,
    batch_sizes: Any = None,
    max_seconds: Any = 60,
    seed: int = 0,
    epochs: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> BatchPlan:
    """See `plan_batch_size`; with `epochs` it takes no longer than so many would. `clock` tells the time in seconds."""
    if isinstance(max_seconds, bool) or not isinstance(max_seconds, int | float) or not 0 < max_seconds < math.inf:
        raise ValueError(f"Expected max_seconds to be a number > 0, got {max_seconds!r}.")
    sizes = _asked(batch_sizes, given.n)
    if memory_limit is not None:
        memory.parsed(memory_limit, "memory_limit")
    if model.stateful_layers():
        raise ValueError(
            "A stateful model keeps a state per row of the batch, so its batch size is part of what it computes: it "
            "cannot be measured. Pass batch_size=…"
        )
    training: Training = model._training
    training.refuse_tracing("plan_batch_size")
    with _optimizer_kept(training):
        trial = Trial(training, given, class_weight, seed, clock)
        max_seconds = trial.time_sizes(sizes, memory_limit, max_seconds, epochs)
        trial.train_and_listen(max_seconds)
        return make_plan(trial.measurements(sizes))


def _asked(batch_sizes: Any, n: int) -> tuple[int, ...] | None:
    """The sizes to choose from, in order; at most n."""
    if batch_sizes is None:
        return None
    given: list[Any] = list(batch_sizes) if isinstance(batch_sizes, list | tuple | range) else []
    sizes = [n if m == "full" else m for m in given]
    if not sizes or not all(is_count(m) for m in sizes):
        raise ValueError(f'Expected batch_sizes to be a list of ints >= 1 and "full", got {batch_sizes!r}.')
    return tuple(sorted({min(int(m), n) for m in sizes}))


@contextmanager
def _optimizer_kept(training: Training) -> Iterator[None]:
    """The optimizer's state is what it was, none if it was none."""
    optimizer = training.optimizer
    assert optimizer is not None
    state, belongs = optimizer.state, training._optimizer_for
    try:
        yield
    finally:
        optimizer.state, training._optimizer_for = state, belongs


class Trial:
    """Measurements of one model on one data set, on copies of the model's arrays.

    Args:
        training: the model's training side.
        given: all examples.
        class_weight: as `fit` takes it.
        seed: of the order of the rows, of masks and of what is drawn.
        clock: tells the time in seconds.
    """

    def __init__(self, training: Training, given: Examples, class_weight: Any, seed: int, clock: Callable[[], float]):
        recipe = training.ready_to("plan_batch_size")
        self._clock, self._began, self._seed, self.n = clock, clock(), seed, given.n
        aligned = training.aligned(given)
        if aligned.n > MOST_ROWS:
            rows = np.sort(np.random.default_rng(seed).permutation(aligned.n)[:MOST_ROWS])
            arrays = sources.read_rows((aligned.x, aligned.y, aligned.weight), rows)
            aligned = Examples(*arrays, n=MOST_ROWS)
        examples = training.weighted(aligned.read(), class_weight)  # not copied: that would be missing from the memory
        self._steps: Steps = training.steps(examples, recipe)
        check_labels(self._steps, examples)
        training.start_optimizer(self._steps.parts)
        objective = self._steps.objective
        assert objective is not None
        self._exact_tail = not (objective.row_independent and self._steps.parts.row_independent)
        x, y, weight = jax.device_put((examples.x, examples.y, examples.weight))
        self._examples = Examples(x, y, weight, examples.n)
        self._feeds: dict[int, tuple[ArrayFeed, TrainRunner, Block, Executable]] = {}
        self._seconds: dict[int, float] = {}
        self._bytes: dict[int, int] = {}
        self._limit = memory.Limit(1, "")
        self._epoch_seconds, self._trained = 0.0, 0
        self._noise: NoiseEstimate | None = None
        self._notes: list[str] = []
        self._rough = False

    @property
    def _piece(self) -> int | None:
        """Examples that are run at once, where `compile` was told."""
        asked = self._steps.micro_batch_size
        return asked if isinstance(asked, int) else None

    @property
    def elapsed(self) -> float:
        """Seconds since the trial began."""
        return self._clock() - self._began

    def measurements(self, sizes: tuple[int, ...] | None) -> Measurements:
        """All of it."""
        # A batch can be padded to a larger one, so no size takes longer than one above it.
        seconds = {m: min(s for size, s in self._seconds.items() if size >= m) for m in self._seconds}
        return Measurements(
            self.n,
            seconds,
            self._epoch_seconds,
            self._bytes,
            self._limit,
            self._noise,
            self._trained,
            sizes,
            tuple(self._notes),
            self.elapsed,
            self._piece,
        )

    # -- seconds and bytes

    def time_sizes(
        self, asked: tuple[int, ...] | None, memory_limit: Any, max_seconds: float, epochs: int | None
    ) -> float:
        """Compiles and times steps of several sizes, the most telling ones first, in about 0.4 of the time.

        Returns:
            how long to measure: max_seconds, or as long as `epochs` are expected to take, if that is less.

        Raises:
            ValueError: not even a step with one example fits into memory.
        """
        held = memory.tree_bytes((self._state(copied=False), self._examples.x))
        self._limit = memory.limit(memory_limit, held=held)
        for m in self._wanted(asked):
            least = ROUGH_SIZES if self._rough else LEAST_SIZES
            if len(self._feeds) >= least and (self._rough or self.elapsed > 0.4 * max_seconds):
                if not self._rough:
                    self._notes.append(f"Only {len(self._feeds)} sizes were timed, to measure for {max_seconds:g} s.")
                break
            if not self._known_not_to_fit(m):
                self._compile(m)
                if epochs is not None and len(self._feeds) == 1 and self._bytes.get(m, 0) <= self._limit.bytes:
                    max_seconds = self._worth(m, epochs, max_seconds)
        self._bracket_largest(max_seconds)
        self._limit = min(self._limit, memory.limit(memory_limit, held=held))  # compiling took some of it
        fitting = [m for m in self._feeds if self._bytes.get(m, 0) <= self._limit.bytes]
        if not fitting:
            self._compile(1)
            if self._bytes.get(1, 0) > self._limit.bytes:
                raise ValueError(
                    f"A step with one example needs {memory.shown(self._bytes[1])}, and there are "
                    f"{memory.shown(self._limit.bytes)} ({self._limit.source})."
                )
            fitting = [1]
        self._time(fitting, max(0.25 * max_seconds, TIMED))
        return max_seconds

    def _worth(self, m: int, epochs: int, max_seconds: float) -> float:
        """Seconds that measuring may take: as many as the training, since a plan cannot save more."""
        _, runner, block, executable = self._feeds[m]
        state, tally = self._state(copied=True), runner.start(block)
        steps = np.int32(min(block.sizes.shape[0], 8))
        for _ in range(2):  # the first one finds everything cold
            began = self._clock()
            state, tally = executable(state, tally, block, runner._draw, np.int32(0), steps)
            jax.block_until_ready(tally)
            took = self._clock() - began
        expected = took / int(steps) * self.n / m * epochs
        if expected >= max_seconds:
            return max_seconds
        self._rough = True
        self._notes.append(
            f"Measuring was kept short, since {epochs} epochs in batches of {m} would take {duration(expected)}."
        )
        return expected

    def _wanted(self, asked: tuple[int, ...] | None) -> list[int]:
        n, piece = self._examples.n, self._piece
        if asked is not None:
            return [m for m in sorted({*asked, min(16, n), min(128, n)}) if m <= n]
        sizes = [m for m in SIZES if m < n]
        sizes = sizes[:2] + [n] + sizes[2:] if n <= MOST_AT_ONCE else sizes
        return sizes if piece is None else list(dict.fromkeys([min(piece, n), *sizes]))  # where its need bends

    def _known_not_to_fit(self, m: int) -> bool:
        """Compiling something huge takes long itself."""
        smaller = [size for size in self._bytes if size < m]
        return bool(smaller) and (memory_of(self._bytes, m) or 0) > 4 * self._limit.bytes

    def _compile(self, m: int) -> None:
        if m in self._feeds:
            return
        feed = ArrayFeed(self._examples, m, True, self._seed, self._exact_tail)
        runner = TrainRunner(self._steps, feed.padded, self._seed, 0)
        block = next(iter(feed.epoch(0))).block
        micro.cut(runner, block.order.shape[1])
        executable = runner.program.executable(*runner.arguments(block, runner.start(block)))
        self._feeds[m] = feed, runner, block, executable
        if hasattr(executable.function, "memory_analysis"):
            self._bytes[m] = memory.program_bytes(executable.function)

    def _bracket_largest(self, max_seconds: float) -> None:
        """Finds the largest size that fits, by compiling: bytes are straight in m but for some bends.

        It lies between a size that is known to fit and one that is known not to. What the line through those says is
        compiled, or the next sixteenth above, until they are that near, or until the need for all examples is far from
        the limit.
        """
        most, limit = self._examples.n, self._limit.bytes
        if not self._bytes or self.n > most:
            return
        while self.elapsed < 0.6 * max_seconds:
            fitting = max((m for m, size in self._bytes.items() if size <= limit), default=0)
            failing = min((m for m, size in self._bytes.items() if size > limit), default=most + 1)
            near = max(fitting // 16, 1)
            if failing - fitting <= near:
                return
            needed = memory_of(self._bytes, most) or 0
            if failing > most and 4 * needed < limit:
                return
            guess = largest_within(self._bytes, limit, most)
            self._compile(min(guess if guess > fitting else fitting + near, failing - 1))

    def _time(self, sizes: list[int], seconds: float) -> None:
        """Times the sizes in turns, the least of several rounds counts: other programs only make it longer.

        No round begins after so many seconds; one is made. Half of a block's steps are timed, too. What the other half
        adds is the steps' own time; what a call takes beside them is no part of a step, and counts among an epoch's
        seconds.
        """
        states = self._state(copied=True)
        tallies = {m: self._feeds[m][1].start(self._feeds[m][2]) for m in sizes}
        least: dict[tuple[int, int], float] = {}
        counts = [(size, int(self._feeds[size][2].sizes.shape[0])) for size in sizes]
        calls = dict.fromkeys(call for size, count in counts for call in ((size, count), (size, max(count // 2, 1))))
        began_all = self._clock()
        for turn in range(ROUNDS + 1):
            if turn > 1 and self._clock() - began_all > seconds:
                break
            for m, count in list(calls):
                if (m, count) not in calls:
                    continue
                try:
                    states, tallies[m], took = self._timed(states, tallies[m], m, count, SLICE if turn else 0.0)
                except jax.errors.JaxRuntimeError as error:
                    if "RESOURCE_EXHAUSTED" not in str(error) or m == min(size for size, _ in calls):
                        raise
                    self._found_not_to_fit(m)
                    calls = {call: took for call, took in calls.items() if call[0] < m}
                    least = {call: took for call, took in least.items() if call[0] < m}
                    states = self._state(copied=True)  # the ones before were donated
                    continue
                if turn > 0:  # the first one finds everything cold
                    least[m, count] = min(least.get((m, count), math.inf), took)
        self._seconds.update(_own_seconds(least))

    def _timed(
        self, states: TrainState, tally: Any, m: int, count: int, seconds: float
    ) -> tuple[TrainState, Any, float]:
        """State and tally behind some calls of `count` steps, for so many seconds, and what the fastest one took."""
        _, runner, block, executable = self._feeds[m]
        least, first = math.inf, self._clock()
        while least == math.inf or self._clock() - first < seconds:
            began = self._clock()
            states, tally = executable(states, tally, block, runner._draw, np.int32(0), np.int32(count))
            jax.block_until_ready(tally)
            least = min(least, self._clock() - began)
        return states, tally, least

    def _found_not_to_fit(self, m: int) -> None:
        """A step ran out of memory that was predicted to fit: there is less than was said."""
        self._limit = memory.Limit(min(self._limit.bytes, self._bytes.get(m, 1) - 1), self._limit.source)
        self._notes.append(
            f"A step with {m:,} examples ran out of memory, so there is less than {self._limit.source} says."
        )

    def _state(self, copied: bool) -> TrainState:
        parts, optimizer = self._steps.parts, self._steps.optimizer
        assert optimizer is not None
        state = TrainState(*parts.collect(), optimizer.state)
        return jax.tree.map(lambda a: jnp.array(a, copy=True), state) if copied else state

    # -- noise

    def train_and_listen(self, max_seconds: float) -> None:
        """Trains a copy for a few epochs and measures the noise on the way.

        At first weights the gradient is all of one mind, and its noise scale small; it grows as the loss falls. What
        counts for the time to a target is the latter part, where most updates are made. So the largest scale counts
        that was seen while the loss still fell.
        """
        if self._steps.custom.step is not None:
            self._notes.append("The model has a train_step of its own, whose gradient is not known.")
            return
        m = min(self._seconds, key=lambda size: abs(math.log(size / 64)))
        feed, runner, _, executable = self._feeds[m]
        state, epoch, walls, last = self._state(copied=True), 0, [], math.inf
        for until in ROUGH_STAGES if self._rough else STAGES:
            loss = math.inf
            while epoch < until:
                began = self._clock()
                state, loss = self._epoch(feed, runner, executable, state, epoch)
                walls.append(self._clock() - began - self._seconds[m] * (feed.steps or 0))
                epoch += 1
            if not math.isfinite(loss):
                self._notes.append("The trial training diverged: the learning rate may be too high.")
                break
            began = self._clock()
            found = self._listen(state)
            if found is None:
                break
            if self._noise is None or _size(found) > _size(self._noise):
                self._noise, self._trained = found, epoch * (feed.steps or 0)
            if loss > last / STEADY or self.elapsed + 2 * (self._clock() - began) > max_seconds:
                break
            last = loss
        self._epoch_seconds = max(float(np.min(walls)), 0.0) if walls else 0.0

    def _epoch(self, feed: ArrayFeed, runner: TrainRunner, executable: Executable, state: Any, epoch: int) -> Any:
        """The state behind an epoch, and the epoch's mean loss."""
        draw, tally = np.array([self._seed, epoch], np.uint32), None
        for block, first, sizes in feed.epoch(epoch):
            tally = runner.start(block) if tally is None else tally
            arguments = (state, tally, block, draw)
            same = block.order.shape == self._feeds[feed.batch_size or 0][2].order.shape
            run = executable if same else runner.program.executable(*arguments, np.int32(0), np.int32(0))
            state, tally = run(*arguments, np.int32(first), np.int32(len(sizes)))
        assert tally is not None
        return state, float(runner.read(tally)["loss"])

    def _listen(self, state: TrainState) -> NoiseEstimate | None:
        """The gradient noise scale at these weights; None where gradients are not finite, or examples too few."""
        examples, parts = self._examples, self._steps.parts
        count = min(GRADIENTS, examples.n)
        group = max(1, min(16, count // 128))
        if count // group < 3:
            return None
        rows = np.random.default_rng(self._seed).choice(examples.n, count - count % group, replace=False)
        arrays = jax.tree.map(lambda a: np.asarray(a)[rows], (examples.x, examples.y, examples.weight))
        arrays, ids = grouped(arrays, rows, group)
        own = parts.collect()
        try:
            parts.publish(state.params, state.buffers)
            together = min(chunk_size(parts), len(ids))
            squares, products = squares_and_products(self._steps, arrays, ids, self._seed, together)
        finally:
            parts.publish(*own)
        if not np.isfinite(squares).all():
            self._notes.append("Gradients of the trial are not finite, so their noise is not known.")
            return None
        return noise_scale(squares, products, group=group, n=self.n)


def _own_seconds(least: dict[tuple[int, int], float]) -> dict[int, float]:
    """Batch size -> seconds per step, from the seconds of calls: (batch size, steps) -> seconds.

    A call of one step has no shorter one to compare with: what the other sizes' calls take beside their steps is taken
    off.
    """
    steps: dict[int, float] = {}
    calls = [0.0]
    for m in {m for m, _ in least}:
        (few, half), *more = sorted((count, took) for (size, count), took in least.items() if size == m)
        for count, took in more:
            steps[m] = max((took - half) / (count - few), 0.1 * took / count)
            calls.append(max(took - count * steps[m], 0.0))
    call = float(np.median(calls[1:] or calls))
    alone = {m: max(took - call, 0.1 * took) for (m, count), took in least.items() if count == 1 and m not in steps}
    return steps | alone


def _size(noise: NoiseEstimate) -> float:
    return noise.value if noise.resolved else noise.low

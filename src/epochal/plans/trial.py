"""What a batch plan is made of, measured on a copy of a model's state: seconds, bytes and the gradient's noise.

Programs are those that `fit` runs, so what is compiled here is compiled for it, too. They run on copies of the arrays:
the model, its optimizer and all random streams stay as they are.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from epochal.critical_batch import Moments, NoiseEstimate, combined, moments
from epochal.data.arrays import read_rows
from epochal.data.examples import Examples
from epochal.data.feeds.array_feed import ArrayFeed
from epochal.data.feeds.block import Block
from epochal.engine import out_of_memory
from epochal.engine.example_gradients import chunk_size, grouped, squares_and_products
from epochal.engine.objective.labels import check_labels
from epochal.engine.programs import Steps
from epochal.engine.runners import TrainRunner
from epochal.engine.state import TrainState
from epochal.plans.choice import largest_within, memory_of
from epochal.plans.measurements import Measurements
from epochal.plans.reasons import duration
from epochal.runtime import heap, memory
from epochal.runtime.program import Executable
from epochal.support.text import shown

# Sizes that are timed, in the order of what they tell; all examples are another one. What people take without asking
# comes first: `fit` needs its program, if nothing better is found.
SIZES = (32, 128, 8, 512, 16, 1024, 64, 8192, 256, 4)
LEAST_SIZES = 3
ROUGH_SIZES = 2  # of a plan that may not take long: they make a line, nothing is said of sizes far beside them
MOST_AT_ONCE = 8192  # all examples at once are timed up to here
MOST_ROWS = 65_536  # of large data so many are measured on
GRADIENTS = 1024  # that the noise is measured on after an update
SLICE = 0.01  # seconds that a size is timed for at a time
ROUNDS = 10
TIMED = 0.1  # seconds after which no further round begins, whatever little time there is
LOOKS = tuple(2**k for k in range(12))  # updates of the trial training after which the noise is looked at
SETTLED = 32  # updates after which the trial may end
FOR_FIT = 0.96  # of the memory that was found: the data of a fit may take some again, and so do compiled programs
NEARLY = 0.99  # of that, for the largest size, since compiling it takes some
LISTENED = 0.5  # seconds that this may take, whatever little time there is
FORWARD = 1 / 3  # of the seconds per example in training, without the gradient
FALLING = 0.2  # of what the loss has fallen by in all, which twice as many updates must add


class Trial:
    """Measurements of one model on one data set, on copies of the model's arrays.

    Args:
        training: the model's training side.
        given: all examples.
        class_weight: as `fit` takes it.
        seed: of the order of the rows, of masks and of what is drawn.
        clock: tells the time in seconds.
    """

    def __init__(self, training: Any, given: Examples, class_weight: Any, seed: int, clock: Callable[[], float]):
        recipe = training.ready_to("plan_batch_size")
        self._clock, self._began, self._seed, self.n = clock, clock(), seed, given.n
        aligned = training.aligned(given)
        if aligned.n > MOST_ROWS:
            rows = np.sort(np.random.default_rng(seed).permutation(aligned.n)[:MOST_ROWS])
            arrays = read_rows((aligned.x, aligned.y, aligned.weight), rows)
            aligned = Examples(*arrays, n=MOST_ROWS)
        examples = training.weighted(aligned.read(), class_weight)  # not copied: that would be missing from the memory
        self._steps: Steps = training.steps(examples, recipe)
        check_labels(self._steps.objective, examples)
        training.start_optimizer(self._steps.parts)
        objective = self._steps.objective
        assert objective is not None
        self._exact_tail = not (objective.row_independent and self._steps.parts.row_independent)
        x, y, weight = jax.device_put((examples.x, examples.y, examples.weight))
        self._examples = Examples(x, y, weight, examples.n)
        self._copies, self._tallies = self._state(copied=True), dict[int, Any]()  # of what is timed
        self._feeds: dict[int, tuple[ArrayFeed, TrainRunner, Block, Executable]] = {}
        self._seconds: dict[int, float] = {}
        self._bytes: dict[int, int] = {}
        self._limit = memory.Limit(1, "")
        self._epoch_seconds, self._trained = 0.0, 0
        self._noise: NoiseEstimate | None = None
        self._notes: list[str] = []
        self._rough = self._quick = False

    @property
    def _piece(self) -> int | None:
        """Examples that are run at once, where `compile` was told."""
        asked = self._steps.micro_batch_size
        return asked if isinstance(asked, int) else None

    @property
    def elapsed(self) -> float:
        """Seconds since the trial began."""
        return self._clock() - self._began

    def measurements(self, sizes: tuple[int, ...] | None, validation: tuple[int, float] = (0, 0.0)) -> Measurements:
        """All of it. Validation counts as a pass of which the steps take a FORWARD part of training ones."""
        # A batch can be padded to a larger one, so no size takes longer than one above it.
        seconds = {m: min(s for size, s in self._seconds.items() if size >= m) for m in self._seconds}
        rows, passes = validation
        validating = self._epoch_seconds + FORWARD * rows * min(s / m for m, s in seconds.items())
        return Measurements(
            self.n,
            seconds,
            self._epoch_seconds + passes * validating,
            self._bytes,
            self._limit,
            self._noise,
            self._trained,
            sizes,
            tuple(self._notes),
            self.elapsed,
            self._piece,
            rows,
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
        self._limit = self._left(memory_limit)
        for m in self._wanted(asked):
            if self._enough(max_seconds):
                break
            if not self._known_not_to_fit(m):
                self._compile(m)
                if epochs is not None and len(self._feeds) == 1 and self._bytes.get(m, 0) <= self._limit.bytes:
                    max_seconds = self._worth(m, epochs, max_seconds)
        self._bracket_largest(memory_limit, max_seconds)
        fitting = [m for m in self._feeds if self._bytes.get(m, 0) <= self._limit.bytes]
        if not fitting:
            self._compile(1)
            if self._bytes.get(1, 0) > self._limit.bytes:
                raise ValueError(
                    f"A step with one example needs {shown(self._bytes[1])}, and there are "
                    f"{shown(self._limit.bytes)} ({self._limit.source})."
                )
            fitting = [1]
        self._time(fitting, max(0.2 * max_seconds, TIMED))
        return max_seconds

    def _left(self, memory_limit: Any) -> memory.Limit:
        """What a fit would have now: what compiling took of the address space is not free again."""
        heap.give_back()
        examples = self._examples
        held = (self._state(copied=False), self._copies, examples.x, examples.y, examples.weight)
        found = memory.limit(memory_limit, held=memory.tree_bytes(held))
        told = memory_limit is not None or found.source == memory.VARIABLE
        return found if told else memory.Limit(int(FOR_FIT * found.bytes), found.source)

    def _enough(self, max_seconds: float) -> bool:
        """Whether as many sizes are compiled as there is time for."""
        if self._quick:
            return True
        if len(self._feeds) < (ROUGH_SIZES if self._rough else LEAST_SIZES) or self.elapsed <= 0.4 * max_seconds:
            return False
        if not self._rough:
            self._notes.append(f"Only {len(self._feeds)} sizes were timed, to measure for {max_seconds:g} s.")
        return True

    def _worth(self, m: int, epochs: int, max_seconds: float) -> float:
        """Seconds that measuring may take: as many as the training, since a plan cannot save more."""
        _, runner, block, _ = self._feeds[m]
        steps = min(int(block.sizes.shape[0]), 8)
        self._called(m, steps)  # the first one finds everything cold
        each = min(self._called(m, steps) for _ in range(3)) / steps
        expected = epochs * (each * self.n / m + self._beside_steps(m, each))
        if expected >= max_seconds:
            return max_seconds
        self._rough, self._quick = True, expected < runner.program.compile_seconds
        text = f"Measuring was kept short, since {epochs} epochs in batches of {m} would take {duration(expected)}"
        self._notes.append(f"{text}, less than another size takes to compile." if self._quick else f"{text}.")
        return expected

    def _beside_steps(self, m: int, step: float) -> float:
        """Seconds of an epoch beside its steps: of one that ends with its first step, which takes `step` seconds."""
        state, least, began_all = self._state(copied=True), math.inf, self._clock()
        for epoch in range(10 * ROUNDS):
            if epoch >= ROUNDS and self._clock() - began_all > TIMED:
                break
            began, first = self._clock(), epoch * (self._feeds[m][0].steps or 1)
            state, _ = self._advance(m, state, first, first + 1)
            least = min(least, self._clock() - began)
        return max(least - step, 0.0)

    def _wanted(self, asked: tuple[int, ...] | None) -> list[int]:
        n, piece = self._examples.n, self._piece
        if asked is not None:
            return [m for m in sorted({*asked, min(16, n), min(128, n)}) if m <= n]
        sizes = [m for m in SIZES if m < n]
        sizes = sizes[:4] + [n] + sizes[4:] if n <= MOST_AT_ONCE else sizes
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
        out_of_memory.cut(runner, block.order.shape[1])
        executable = runner.program.executable(*runner.arguments(block, runner.start(block)))
        self._feeds[m] = feed, runner, block, executable
        if hasattr(executable.function, "memory_analysis"):
            self._bytes[m] = memory.step_bytes(executable.function, self._copies)

    def _bracket_largest(self, memory_limit: Any, max_seconds: float) -> None:
        """Finds the largest size that fits, by compiling: bytes are straight in m but for some bends.

        It lies between a size that is known to fit and one that is known not to. What the line through those says is
        compiled, or the next sixteenth above, until they are that near, or until the need for all examples is far from
        the limit. A size is compiled that needs nearly as much as there is, so that a fit with it finds its program:
        compiling may take more memory than is kept in reserve.
        """
        most = self._examples.n
        while True:
            self._limit = min(self._limit, self._left(memory_limit))
            limit = self._limit.bytes
            if not self._bytes or self.n > most or self.elapsed >= 0.6 * max_seconds:
                return
            fitting = max((m for m, size in self._bytes.items() if size <= limit), default=0)
            failing = min((m for m, size in self._bytes.items() if size > limit), default=most + 1)
            if failing > most and 4 * (memory_of(self._bytes, most) or 0) < limit:
                return
            near, guess = max(fitting // 16, 1), largest_within(self._bytes, int(NEARLY * limit), most)
            between = failing - fitting - 1
            if between < near and (between == 0 or guess - fitting <= near // 4):
                return
            self._compile(min(guess if guess > fitting else fitting + near, failing - 1))

    def _called(self, m: int, count: int) -> float:
        """Seconds of a call that runs so many steps on copies."""
        _, runner, block, executable = self._feeds[m]
        tally = self._tallies.setdefault(m, runner.start(block))
        began = self._clock()
        self._copies, tally = executable(self._copies, tally, block, runner._draw, np.int32(0), np.int32(count))
        jax.block_until_ready(tally)
        self._tallies[m] = tally
        return self._clock() - began

    def _worth_a_slice(self, m: int) -> list[int]:
        """How many steps a call runs that is timed, and half as many."""
        most = int(self._feeds[m][2].sizes.shape[0])
        self._called(m, 1)  # the first one finds everything cold
        few = min(most, 8)
        count = max(min(most, int(SLICE * few / max(self._called(m, few), 1e-9))), min(most, 2))
        return sorted({count, max(count // 2, 1)})

    def _time(self, sizes: list[int], seconds: float) -> None:
        """Times the sizes in turns, the least of several rounds counts: other programs only make it longer.

        No round begins after so many seconds; one is made. As many steps as take a SLICE are timed, and half of them.
        What the other half adds is the steps' own time; what a call takes beside them is no part of a step, and counts
        among an epoch's seconds.
        """
        least: dict[tuple[int, int], float] = {}
        calls: list[tuple[int, int]] = []
        for m in sorted(sizes):
            try:
                calls += [(m, count) for count in self._worth_a_slice(m)]
            except jax.errors.JaxRuntimeError as error:
                if not memory.is_lacking(error) or not calls:
                    raise
                self._found_not_to_fit(m)
                self._copies = self._state(copied=True)  # the ones before were donated
                break
        began_all = self._clock()
        for turn in range(ROUNDS):
            if turn > 0 and self._clock() - began_all > seconds:
                break
            for m, count in calls:
                first, took = self._clock(), 0.0
                while took == 0 or self._clock() - first < SLICE:
                    took = self._called(m, count)
                    least[m, count] = min(least.get((m, count), math.inf), took)
        self._seconds.update(_own_seconds(least))
        m = self._middle
        self._epoch_seconds = self._beside_steps(m, self._seconds[m])

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

    @property
    def _middle(self) -> int:
        """The size that the copy is trained with."""
        return min(self._seconds, key=lambda size: abs(math.log(size / 64)))

    def train_and_listen(self, max_seconds: float, epochs: int | None) -> None:
        """Trains a copy and measures the noise on the way: B is its mean over the steps that the copy would have made
        without noise.

        An update with a batch of m lowers the loss by 1 / (1 + B / m) of what one without noise does, at their best
        rates (McCandlish et al. 2018, arXiv:1812.06162), so that S(m) = ∫ (1 + B / m) ds over steps s without noise.
        Each of the copy's updates is 1 / (1 + B / m) of one: late ones, whose gradients are all but noise, count
        little, so it hardly matters where the copy's training ends: where twice the updates lower the loss by little
        more.
        """
        if self._steps.custom.step is not None:
            self._notes.append("The model has a train_step of its own, whose gradient is not known.")
            return
        m = self._middle
        most = math.inf if epochs is None else epochs * (self._feeds[m][0].steps or 1)
        state, losses, looks, deadline = self._state(copied=True), [], {}, math.inf
        for until in LOOKS:
            began = self._clock()
            state, loss = self._advance(m, state, max(looks, default=0), until)
            if not math.isfinite(loss):
                self._notes.append("The trial training diverged: the learning rate may be too high.")
                break
            found = self._listen(state, until)
            if found is None:
                break
            losses.append(loss)
            if until > SETTLED and losses[-2] - loss < FALLING * (losses[0] - loss):
                break
            looks[until] = found
            if not math.isfinite(deadline):  # the first look compiles
                deadline = max(max_seconds, self.elapsed + LISTENED)
            elif 2 * until > most or self.elapsed + 2 * (self._clock() - began) > deadline:
                break
        if looks:
            self._trained = max(looks)
            self._noise = combined(list(looks.values()), weights=_ideal_steps(looks, m), n=self.n)

    def _advance(self, m: int, state: TrainState, done: int, until: int) -> tuple[TrainState, float]:
        """The state behind update number `until`, from the one behind `done`, and the mean loss of those between."""
        feed, runner, planned, compiled = self._feeds[m]
        steps, tally = feed.steps or 1, None
        while done < until:
            epoch = done // steps
            draw, before = np.array([self._seed, epoch], np.uint32), epoch * steps
            for block, _, sizes in feed.epoch(epoch):
                last = min(before + len(sizes), until)
                if done < last:
                    tally = runner.start(block) if tally is None else tally
                    arguments = (state, tally, block, draw)
                    same = block.order.shape == planned.order.shape
                    run = compiled if same else runner.program.executable(*arguments, np.int32(0), np.int32(0))
                    state, tally = run(*arguments, np.int32(done - before), np.int32(last - before))
                    done = last
                before += len(sizes)
        assert tally is not None
        return state, float(runner.read(tally)["loss"])

    def _listen(self, state: TrainState, update: int) -> Moments | None:
        """What gradients at these weights tell; None where they are not finite, or examples too few."""
        examples, parts = self._examples, self._steps.parts
        count = min(GRADIENTS, examples.n)
        group = min(16, -(-count // 128))  # so that the gradients of small models are taken in one go
        if count // group < 3:
            return None
        rows = np.random.default_rng((self._seed, update)).choice(examples.n, count - count % group, replace=False)
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
        return moments(squares, products, group)


def _updates(looks: list[int]) -> list[float]:
    """How many updates each look stands for, those between two of them half and half, and those before the first."""
    edges = [0.0, *((a + b) / 2 for a, b in itertools.pairwise(looks)), float(looks[-1])]
    return [b - a for a, b in itertools.pairwise(edges)]


def _ideal_steps(looks: dict[int, Moments], m: int) -> list[float]:
    """The weights with which the sums of looks make B = Σ tr Σ / Σ |G|² the mean over steps without noise.

    Such a step is 1 / e updates, e = 1 / (1 + B / m) = |G|² / L with L = |G|² + tr Σ / m. The mean of B = tr Σ / |G|²
    with weights e is Σ tr Σ / L over Σ |G|² / L. The estimate of |G|² may be below zero, L is not: a training that has
    come to its end would decide alone.
    """
    updates = _updates(list(looks))
    sizes = [max(found.grad_sq, 0.0) + found.trace / m for found in looks.values()]
    weights = [count / size if size > 0 else 0.0 for count, size in zip(updates, sizes, strict=True)]
    return weights if any(weights) else updates


def _own_seconds(least: dict[tuple[int, int], float]) -> dict[int, float]:
    """Batch size -> seconds per step, from the seconds of calls: (batch size, steps) -> seconds.

    What a call takes beside its steps is the same for all sizes. It shows where fewer steps save less than their part;
    disturbed calls show too much of it, so the least counts.
    """
    calls, longest = [], {}
    for m in {m for m, _ in least}:
        found = sorted((count, took) for (size, count), took in least.items() if size == m)
        (few, half), (count, took) = found[0], found[-1]
        longest[m] = count, took
        if count > few:
            calls.append(max(took - count * (took - half) / (count - few), 0.0))
    call = min(calls, default=0.0)
    return {m: max(took - call, 0.1 * took) / count for m, (count, took) in longest.items()}

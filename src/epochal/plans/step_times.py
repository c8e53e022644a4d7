"""What steps of several batch sizes take: seconds, measured, and bytes, read off the compiled programs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax

from epochal.plans.choice import largest_within, memory_of
from epochal.plans.reasons import duration
from epochal.plans.trial_model import Stopwatch, TrialModel
from epochal.runtime import heap, memory
from epochal.support.text import shown

# Sizes that are timed, in the order of what they tell; all examples are another one. What people take without asking
# comes first: `fit` needs its program, if nothing better is found.
SIZES = (32, 128, 8, 512, 16, 1024, 64, 8192, 256, 4)
LEAST_SIZES = 3
ROUGH_SIZES = 2  # of a plan that may not take long: they make a line, nothing is said of sizes far beside them
MOST_AT_ONCE = 8192  # all examples at once are timed up to here
SLICE = 0.01  # seconds that a size is timed for at a time
ROUNDS = 10
TIMED = 0.1  # seconds after which no further round begins, whatever little time there is
FOR_FIT = 0.96  # of the memory that was found: the data of a fit may take some again, and so do compiled programs
NEARLY = 0.99  # of that, for the largest size, since compiling it takes some


@dataclass(frozen=True)
class Timed:
    """What steps take.

    Attributes:
        seconds: batch size -> seconds per step.
        epoch_seconds: of an epoch beside its steps.
        bytes: batch size -> bytes that a step needs; empty where programs are not compiled.
        limit: how much memory there is.
        notes: sentences on what went into it.
    """

    seconds: Mapping[int, float]
    epoch_seconds: float
    bytes: Mapping[int, int]
    limit: memory.Limit
    notes: tuple[str, ...] = ()


def middle_of(seconds: Mapping[int, float]) -> int:
    """The timed size that is nearest to 64: the copy of the model is trained with it."""
    return min(seconds, key=lambda size: abs(math.log(size / 64)))


class StepTimes:
    """Compiles and times steps of several batch sizes.

    Args:
        trial: the copy of the model that runs them.
        watch: how long measuring has taken.
        memory_limit: as `plan_batch_size` takes it.

    Attributes:
        bytes: batch size -> bytes that a step needs, of those that are compiled; empty where programs are not.
        limit: how much memory there is.
    """

    def __init__(self, trial: TrialModel, watch: Stopwatch, memory_limit: Any):
        self._trial, self._watch, self._memory_limit = trial, watch, memory_limit
        self._copies, self._tallies = trial.copies(), dict[int, Any]()  # of what is timed
        self.bytes: dict[int, int] = {}
        self._notes: list[str] = []
        self._rough = self._quick = False
        self.limit = self._left()

    def timed(self, sizes: list[int], max_seconds: float) -> Timed:
        """Times these sizes, which are compiled and fit into memory, in about a fifth of the seconds."""
        seconds = self._time(sizes, max(0.2 * max_seconds, TIMED))
        middle = middle_of(seconds)
        beside = self._beside_steps(middle, seconds[middle])
        return Timed(seconds, beside, dict(self.bytes), self.limit, tuple(self._notes))

    # -- bytes

    def compile(self, asked: tuple[int, ...] | None, max_seconds: float, epochs: int | None) -> tuple[list[int], float]:
        """Compiles steps of several sizes, the most telling ones first, in about 0.4 of the time.

        Args:
            asked: the sizes to choose from; None leaves it open.
            max_seconds: how long to measure, about.
            epochs: that are to be trained; None: that is not known.

        Returns:
            those that fit into memory, and how long to measure: max_seconds, or as long as `epochs` are expected to
            take, if that is less.

        Raises:
            ValueError: not even a step with one example fits into memory.
        """
        for m in self._wanted(asked):
            if self._enough(max_seconds):
                break
            if not self._known_not_to_fit(m):
                self._compile(m)
                if epochs is not None and len(self._trial.sizes) == 1 and self._fits(m):
                    max_seconds = self._worth(m, epochs, max_seconds)
        self._bracket_largest(max_seconds)
        fitting = [m for m in self._trial.sizes if self._fits(m)]
        if not fitting:
            self._compile(1)
            if not self._fits(1):
                raise ValueError(
                    f"A step with one example needs {shown(self.bytes[1])}, and there are "
                    f"{shown(self.limit.bytes)} ({self.limit.source})."
                )
            fitting = [1]
        return fitting, max_seconds

    def _fits(self, m: int) -> bool:
        """Whether a step that is compiled fits into memory, as far as that is known."""
        return self.bytes.get(m, 0) <= self.limit.bytes

    def _left(self) -> memory.Limit:
        """What a fit would have now: what compiling took of the address space is not free again."""
        heap.give_back()
        examples = self._trial.examples
        held = (self._trial.state(), self._copies.read(), examples.x, examples.y, examples.weight)
        found = memory.limit(self._memory_limit, held=memory.tree_bytes(held))
        told = self._memory_limit is not None or found.source == memory.VARIABLE
        return found if told else memory.Limit(int(FOR_FIT * found.bytes), found.source)

    def _enough(self, max_seconds: float) -> bool:
        """Whether as many sizes are compiled as there is time for."""
        if self._quick:
            return True
        count = len(self._trial.sizes)
        if count < (ROUGH_SIZES if self._rough else LEAST_SIZES) or self._watch.elapsed <= 0.4 * max_seconds:
            return False
        if not self._rough:
            self._notes.append(f"Only {count} sizes were timed, to measure for {max_seconds:g} s.")
        return True

    def _wanted(self, asked: tuple[int, ...] | None) -> list[int]:
        n, piece = self._trial.examples.n, self._trial.piece
        if asked is not None:
            return [m for m in sorted({*asked, min(16, n), min(128, n)}) if m <= n]
        sizes = [m for m in SIZES if m < n]
        sizes = sizes[:4] + [n] + sizes[4:] if n <= MOST_AT_ONCE else sizes
        return sizes if piece is None else list(dict.fromkeys([min(piece, n), *sizes]))  # where its need bends

    def _known_not_to_fit(self, m: int) -> bool:
        """Compiling something huge takes long itself."""
        smaller = [size for size in self.bytes if size < m]
        return bool(smaller) and (memory_of(self.bytes, m) or 0) > 4 * self.limit.bytes

    def _compile(self, m: int) -> None:
        if m in self._trial.sizes:
            return
        program = self._trial.compile(m).executable.function
        if hasattr(program, "memory_analysis"):
            self.bytes[m] = memory.step_bytes(program, self._copies.read())

    def _bracket_largest(self, max_seconds: float) -> None:
        """Finds the largest size that fits, by compiling: bytes are straight in m but for some bends.

        It lies between a size that is known to fit and one that is known not to. What the line through those says is
        compiled, or the next sixteenth above, until they are that near, or until the need for all examples is far from
        the limit. A size is compiled that needs nearly as much as there is, so that a fit with it finds its program:
        compiling may take more memory than is kept in reserve.
        """
        most = self._trial.examples.n
        while True:
            self.limit = min(self.limit, self._left())
            limit = self.limit.bytes
            if not self.bytes or self._trial.n > most or self._watch.elapsed >= 0.6 * max_seconds:
                return
            fitting = max((m for m, size in self.bytes.items() if size <= limit), default=0)
            failing = min((m for m, size in self.bytes.items() if size > limit), default=most + 1)
            if failing > most and 4 * (memory_of(self.bytes, most) or 0) < limit:
                return
            near, guess = max(fitting // 16, 1), largest_within(self.bytes, int(NEARLY * limit), most)
            between = failing - fitting - 1
            if between < near and (between == 0 or guess - fitting <= near // 4):
                return
            self._compile(min(guess if guess > fitting else fitting + near, failing - 1))

    def _found_not_to_fit(self, m: int) -> None:
        """A step ran out of memory that was predicted to fit: there is less than was said."""
        self.limit = memory.Limit(min(self.limit.bytes, self.bytes.get(m, 1) - 1), self.limit.source)
        self._notes.append(
            f"A step with {m:,} examples ran out of memory, so there is less than {self.limit.source} says."
        )

    # -- seconds

    def _worth(self, m: int, epochs: int, max_seconds: float) -> float:
        """Seconds that measuring may take: as many as the training, since a plan cannot save more."""
        sized = self._trial.sizes[m]
        steps = min(int(sized.block.sizes.shape[0]), 8)
        self._called(m, steps)  # the first one finds everything cold
        each = min(self._called(m, steps) for _ in range(3)) / steps
        expected = epochs * (each * self._trial.n / m + self._beside_steps(m, each))
        if expected >= max_seconds:
            return max_seconds
        self._rough, self._quick = True, expected < sized.runner.program.compile_seconds
        text = f"Measuring was kept short, since {epochs} epochs in batches of {m} would take {duration(expected)}"
        self._notes.append(f"{text}, less than another size takes to compile." if self._quick else f"{text}.")
        return expected

    def _beside_steps(self, m: int, step: float) -> float:
        """Seconds of an epoch beside its steps: of one that ends with its first step, which takes `step` seconds."""
        now, copies, least = self._watch.now, self._trial.copies(), math.inf
        began_all = now()
        for epoch in range(10 * ROUNDS):
            if epoch >= ROUNDS and now() - began_all > TIMED:
                break
            began, first = now(), epoch * self._trial.per_epoch(m)
            self._trial.advance(m, copies, first, first + 1)
            least = min(least, now() - began)
        return max(least - step, 0.0)

    def _called(self, m: int, count: int) -> float:
        """Seconds of a call that runs so many steps on copies."""
        began = self._watch.now()
        tally = self._trial.call(m, self._copies, self._tallies.get(m), count)
        jax.block_until_ready(tally)
        self._tallies[m] = tally
        return self._watch.now() - began

    def _worth_a_slice(self, m: int) -> list[int]:
        """How many steps a call runs that is timed, and half as many."""
        most = int(self._trial.sizes[m].block.sizes.shape[0])
        self._called(m, 1)  # the first one finds everything cold
        few = min(most, 8)
        count = max(min(most, int(SLICE * few / max(self._called(m, few), 1e-9))), min(most, 2))
        return sorted({count, max(count // 2, 1)})

    def _time(self, sizes: list[int], seconds: float) -> dict[int, float]:
        """Times the sizes in turns, the least of several rounds counts: other programs only make it longer.

        No round begins after so many seconds; one is made. As many steps as take a SLICE are timed, and half of them.
        What the other half adds is the steps' own time; what a call takes beside them is no part of a step, and counts
        among an epoch's seconds.
        """
        least: dict[tuple[int, int], float] = {}
        calls: list[tuple[int, int]] = []
        now = self._watch.now
        for m in sorted(sizes):
            try:
                calls += [(m, count) for count in self._worth_a_slice(m)]
            except jax.errors.JaxRuntimeError as error:
                if not memory.is_lacking(error) or not calls:
                    raise
                self._found_not_to_fit(m)
                break
        began_all = now()
        for turn in range(ROUNDS):
            if turn > 0 and now() - began_all > seconds:
                break
            for m, count in calls:
                first, took = now(), 0.0
                while took == 0 or now() - first < SLICE:
                    took = self._called(m, count)
                    least[m, count] = min(least.get((m, count), math.inf), took)
        return _own_seconds(least)


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

"""Measures the gradient noise scale while a model trains."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from epochal.callbacks.callback import Callback
from epochal.critical_batch import Moments, NoiseEstimate, combined, moments, moments_of_batches
from epochal.engine.example_gradients import chunk_size, grouped, squares_and_products
from epochal.engine.gradient_noise import GradientNoise
from epochal.engine.objective.tally import Entry
from epochal.support.types import Logs
from epochal.support.warn import warn


class NoiseScale(Callback):
    """Measures the gradient noise scale in epochs of training, and logs it with its interval.

    It logs `noise_scale`, `noise_scale_low` and `noise_scale_high` (95 %), in examples; infinite where the mean
    gradient cannot be told from zero, NaN before the first measurement. The last five since the learning rate jumped
    (by more than a tenth from one look to the next) are averaged. When to measure depends on how many examples have
    been trained on alone, so a run that goes on logs the same.

    Batches that are run in micro-batches tell it without other gradients: each has those of its pieces and their mean,
    all at the same weights. Adding up squares takes its time, so of batches in pieces of k examples one in 400 / k is
    listened to (one in 50 with pieces of 8, all with pieces of 400), by the number of the update, and fewer where a
    model is so small that its steps take microseconds, one in 500 at least; with `every` given all are. Where it turns
    out in training that batches have to be cut, from the next epoch on.
    Of a whole batch only the mean of the gradients is computed. So where batches are whole, examples are
    drawn at random at the end of an epoch, and their gradients taken in groups, as `gradient_noise_scale` does.

    Args:
        every: measure in every so many epochs, the first one among them. None: after as many as a measurement costs
            at most 2 % of the time of. A short run of small data may have none, with a warning.
        examples: how many examples are drawn for a measurement; the noise scales that it can tell reach about as far.
            None: 128, or more where epochs are so long that a part of 2 % of each would be left.
        seed: of the draws.
        confidence: of the interval.

    Raises:
        ValueError: arguments out of their range; before training, data that is not arrays.

    Attributes:
        estimate: the last `epochal.critical_batch.NoiseEstimate`; None before the first measurement.
    """

    GROUP = 16  # gradients of single examples would cost up to a hundred times what training on them does
    COST = 25  # an example in such a group costs so many times what it does within a batch: benchmarks/noise_cost.py
    SHARE = 0.02
    KEPT = 5
    PIECE = 400  # examples; of batches in smaller pieces so many times fewer are listened to: benchmarks/noise_cost.py
    LEAST = 3  # batches that a measurement is made of, where they are cut
    LIGHT = 5e7  # examples × parameters trained in 100 times the 0.1 ms that a batch costs that is listened to, or more
    RAREST = 500  # updates take that long too, of whatever model
    JUMP = 0.1  # of the learning rate: measurements at another one are not averaged with

    def __init__(self, every: Any = None, examples: Any = None, *, seed: int = 0, confidence: Any = 0.95):
        for name, value in (("every", every), ("examples", examples)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"Expected {name} to be None or an int >= 1, got {value!r}.")
        if not isinstance(confidence, float) or not 0 < confidence < 1:
            raise ValueError(f"Expected confidence between 0 and 1, such as 0.95, got {confidence!r}.")
        self.every, self.examples, self.seed, self.confidence = every, examples, seed, confidence
        self._steps: Any = None
        self._feed: Any = None
        self._parameters = 1
        self._reset()

    def _reset(self) -> None:
        self.estimate: NoiseEstimate | None = None
        self._measured: list[Moments] = []
        self._sums = np.zeros(7)  # of batches that were too few yet
        self._epoch = 0
        self._cut = False  # whether batches of the last epoch were
        self._heard: Any = None  # in it, a `GradientNoise` value
        self._trained = 0  # examples since the last measurement
        self._rate = math.nan
        self._first: int | None = None
        self._logged = (math.nan,) * 3

    def set_run(self, steps: Any, feed: Any) -> None:
        feed.taken(np.arange(1))  # refused before training, where there are no rows
        if feed.n < 3:
            raise ValueError(f"NoiseScale needs at least 3 examples, got {feed.n}.")
        self._steps, self._feed = steps, feed
        self._parameters = sum(p.size for p in steps.parts.collect()[0])

    def state_dict(self) -> dict[str, Any]:
        sums = {"sums": self._sums.tolist(), "heard": None if self._heard is None else np.asarray(self._heard).tolist()}
        counts = {"rate": self._rate, "first": self._first, "trained": self._trained, "logged": self._logged}
        counts["cut"] = self._cut
        return {"measured": [list(m) for m in self._measured], **sums, **counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._measured = [Moments(a, b, tuple(c), *counts) for a, b, c, *counts in state["measured"]]
        self._rate, self._first, self._trained = state["rate"], state["first"], state["trained"]
        self._sums, self._heard, self._cut = np.array(state["sums"]), state["heard"], state["cut"]
        self._estimate()
        self._logged = tuple(state["logged"])

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._reset()

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self._steps is None:
            return
        if self.estimate is None and self.every is None and self._first is not None:
            when = f"with {self._feed.n:,} examples the first measurement is within that after "
            when += f"{self.due_every(self.pause)} epochs. NoiseScale(every=1) measures in each."
            if self._cut:
                when = f"of batches in such pieces it listens to few, and needs {self.LEAST}. "
                when += "NoiseScale(every=1) listens to all."
            warn(f"NoiseScale measured nothing: it is to take 2 % of the time, and {when}")

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if self._feed is None:  # in a loop of one's own
            return
        if self._first is None:
            self._first = epoch
        self._trained += self._feed.per_epoch
        asked = self.every is not None and (epoch - self._first) % self.every == 0
        if self._cut:
            if self._heard is not None and (asked or self.every is None):
                self._take(np.asarray(self._heard))
        elif self._steps.train.most is not None:  # the memory does not suffice for more
            pass
        elif asked or (self.every is None and self._trained >= self.pause):  # when it is paid for
            self._trained = 0
            self._measure(epoch, self.drawn)
        if logs is not None:
            logs["noise_scale"], logs["noise_scale_low"], logs["noise_scale_high"] = self._logged

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._epoch = epoch

    def entry(self) -> Entry:
        return GradientNoise(self.one_in)

    def receive_entries(self, values: Mapping[str, Any], width: int | None) -> None:
        self._cut, self._heard = width is not None, values.get(GradientNoise.name)

    def one_in(self, width: int) -> int:
        """In this epoch, to one in how many batches is listened that are run in pieces of so many examples; 0: to none.

        Epochs of few batches are listened to once in a while, for the sums that ride along cost each of them 0.05 ms.
        """
        if self.every is not None:
            return 1
        rare = self.rarity(width)
        epochs = rare // max(1, self._feed.steps or 1)
        return rare if epochs < 2 else self._feed.steps if self._epoch % epochs == epochs - 1 else 0

    def rarity(self, width: int) -> int:
        """To one in how many batches in pieces of so many examples is listened, taken over all epochs."""
        return max(1, -(-self.PIECE // width), min(self.RAREST, math.ceil(self.LIGHT / (width * self._parameters))))

    @property
    def drawn(self) -> int:
        """How many examples a measurement draws."""
        affordable = int(self.SHARE * self._feed.n / self.COST) if self.every is None else 0
        least = 8 * self.GROUP
        wanted = min(max(least, affordable // least * least), 2048) if self.examples is None else self.examples
        return max(3, min(wanted, self._feed.n))

    @property
    def pause(self) -> float:
        """How many examples are trained on before a measurement."""
        return self.COST * self.drawn / self.SHARE

    def due_every(self, pause: float) -> int:
        """After how many epochs one is measured again."""
        return max(1, math.ceil(pause / self._feed.per_epoch)) if self.every is None else self.every

    def _look(self) -> None:
        """Starts anew where the learning rate has jumped; a schedule that falls smoothly goes on."""
        # NaN where an Optax transformation keeps it to itself. float(Array) takes ten times as long.
        rate = float(np.asarray(self.model.optimizer.state.learning_rate))
        if abs(rate - self._rate) > self.JUMP * max(rate, self._rate):
            self._measured, self._sums = [], np.zeros(7)
        self._rate = rate

    def _take(self, noise: np.ndarray) -> None:
        """Takes what the pieces of an epoch's batches tell."""
        if not noise[0, 0]:
            return
        self._look()
        sums = self._sums + noise[0] + noise[1]
        if math.isfinite(sums.sum()):  # else training is past saving, which others report
            self._sums = sums
        if self._sums[0] >= self.LEAST:
            self._measured = [*self._measured, moments_of_batches(self._sums)][-self.KEPT :]
            self._sums = np.zeros(7)
            self._estimate()

    def _measure(self, epoch: int, drawn: int) -> None:
        self._look()
        group = max(1, min(self.GROUP, drawn // 8))
        rows = np.random.default_rng((self.seed, epoch)).choice(self._feed.n, drawn - drawn % group, replace=False)
        data, ids = grouped(self._feed.taken(rows), rows, group)
        chunk = min(chunk_size(self._steps.parts), len(ids))
        found = squares_and_products(self._steps, data, ids, self.seed, chunk)
        if np.isfinite(found[0]).all():  # else training is past saving, which others report
            self._measured = [*self._measured, moments(*found, group)][-self.KEPT :]
            self._estimate()

    def _estimate(self) -> None:
        if self._measured:
            found = self.estimate = combined(self._measured, n=self._feed.n, confidence=self.confidence)
            self._logged = found.value, found.low, found.high

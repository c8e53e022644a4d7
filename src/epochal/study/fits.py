"""Runs the fits of a study that are not there yet: first all learning rates, then all seeds, then the probes."""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from epochal.study import descent, statistics
from epochal.study.bench import Bench, sampled
from epochal.study.loss_surface import Surface, cosine, flat
from epochal.study.protocol import REFERENCE, Protocol, first_rates, next_rates
from epochal.study.results import Store, key_of
from epochal.study.statistics import EPOCHS, TARGET, UPDATES, Fit, Judge

PROBED = 2048  # examples that gradients and sharpness are measured on, at most
_DRAWS, _DRAWN = 512, 2**16  # batches whose gradients are compared, per size, and examples in them; 32 at least
_PATH_POINTS = 16  # updates that are compared with the gradient of all examples


class Progress:
    """Says on the terminal what has been done, and about how long the rest will take.

    Args:
        show: whether to.
        cost: batch size -> what a fit of it costs, in any unit; for sizes that no fit has run with yet.
        expected: the batch sizes of fits that are expected, one entry per fit.
    """

    def __init__(self, show: bool, cost: Callable[[int], float], expected: Sequence[int]):
        self._show, self._cost, self._left = show, cost, list(expected)
        self._seconds: dict[int, list[float]] = {}
        self.run = self.found = 0
        self._live = sys.stdout.isatty()

    def expect(self, sizes: Sequence[int]) -> None:
        """These are all the fits that are still to come."""
        self._left = list(sizes)

    def done(self, size: int, what: str, seconds: float | None) -> None:
        """After a fit; `seconds` is None for one that was found on disk."""
        if size in self._left:
            self._left.remove(size)
        if seconds is None:
            self.found += 1
            return
        self.run += 1
        self._seconds.setdefault(size, []).append(seconds)
        left = sum(map(self._expected, self._left))
        count = self.run + self.found
        self._say(f"[{count} of about {count + len(self._left)} fits] {what}, about {_time(left)} left")

    def _expected(self, size: int) -> float:
        """Seconds of a fit: the mean of those that ran with the size, else by what it costs beside the last one's."""
        if size in self._seconds:
            return float(np.mean(self._seconds[size]))
        last = list(self._seconds)[-1]
        return float(np.mean(self._seconds[last])) * self._cost(size) / self._cost(last)

    def end(self) -> None:
        """After the last fit."""
        self._say(f"{self.run} fits run" + (f", {self.found} found on disk" if self.found else ""))
        if self._show and self._live:
            print()

    def _say(self, text: str) -> None:
        if self._show:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\x1b[K{text[:width]}" if self._live else text, end="" if self._live else "\n", flush=True)


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


class Fits:
    """The fits of a study, by their settings; run when they are asked for and not there.

    Args:
        bench: the model and the data.
        protocol: which fits there are.
        store: keeps them.
        progress: tells of them.
        target: as the user gave it; None chooses one.
    """

    def __init__(self, bench: Bench, protocol: Protocol, store: Store, progress: Progress, target: float | None):
        self._bench, self.protocol, self._store, self._progress = bench, protocol, store, progress
        self.judge, self.target = Judge(bench.monitor, bench.higher), target
        self.every: dict[int, list[Fit]] = {size: [] for size in protocol.sizes}
        self.chosen: dict[int, dict[str, list[Fit]]] = {}
        self.probes: dict[int, dict[str, Any]] = {}
        self.noise: dict[str, Any] | None = None
        self.paths: dict[str, Any] | None = None
        self._rule = "linear" if type(bench.optimizer).__name__ == "SGD" else "sqrt"

    def run(self) -> None:
        """All of it."""
        for size in self.protocol.sizes:
            self._search(size)
        if self.target is None:
            self.target = statistics.chosen_target([f for fits in self.every.values() for f in fits], self.judge)
        wanted = {size: self._choose(size) for size in self.protocol.sizes}
        others = self.protocol.seeds[1:]
        probes = [size for size in self.protocol.sizes if wanted[size][EPOCHS] is not None]
        rates = {size: {fit["rate"] for fit in wanted[size].values() if fit} for size in self.protocol.sizes}
        self._progress.expect([size for size in rates for _ in rates[size] for _ in others] + probes)
        for size, by_reading in wanted.items():
            self.chosen[size] = {
                reading: [] if first is None else [first, *(self._fit(size, first["rate"], seed) for seed in others)]
                for reading, first in by_reading.items()
            }
        self._probe()
        found = self._kept(
            {"paths": descent.UPDATES}, self.protocol.sizes[0], lambda: {"found": descent.descend(self._bench.examples)}
        )
        self.paths = found["found"]
        self._progress.end()

    # -- fits

    def _search(self, size: int) -> None:
        """Fits with the first seed: every learning rate that is to be tried."""
        todo = first_rates(self.protocol, size, self._bench.rate, self._rule)
        if self._bench.optimizer.scheduled:
            todo = [self._bench.rate]
        while todo:
            for rate in todo:
                self._fit(size, rate, self.protocol.seeds[0])
            fits = self.every[size]
            best = [self._best(fits, reading, None) for reading in (EPOCHS, UPDATES)]
            tried = [fit["rate"] for fit in fits]
            todo = next_rates(self.protocol, tried, [fit["rate"] for fit in best if fit is not None])

    def _best(self, fits: Sequence[Fit], reading: str, target: float | None) -> Fit | None:
        return statistics.best_rate(fits, self.protocol, reading, self.judge, target)

    def _choose(self, size: int) -> dict[str, Fit | None]:
        """For each reading the fit of the first seed with the rate that serves it best."""
        fits = list(self.every[size])
        found = {reading: self._best(fits, reading, None) for reading in (EPOCHS, UPDATES)}
        reached = None if self.target is None else self._best(fits, TARGET, self.target)
        return {**found, TARGET: found[EPOCHS] if reached is None else reached}

    def _fit(self, size: int, rate: float, seed: int) -> Fit:
        """The fit with these settings, from the store or run now."""
        marks = self.protocol.marks(size)
        key = key_of({"size": size, "rate": rate, "seed": seed, "marks": marks, "monitor": self._bench.monitor})
        fit, seconds = self._store.results.get(key), None
        known = any((f["size"], f["rate"], f["seed"]) == (size, rate, seed) for f in self.every[size])
        if fit is None:
            began = time.perf_counter()
            fit = self._train(size, rate, seed, marks)
            self._store.put(key, fit)
            seconds = time.perf_counter() - began
        if not known:
            self.every[size].append(fit)
            self._progress.done(size, self._told(fit), seconds)
        return fit

    def _train(self, size: int, rate: float, seed: int, marks: list[int]) -> Fit:
        fit: Fit = {"size": size, "rate": rate, "seed": seed, "updates": [], "seconds": [], "diverged": None}
        names = dict.fromkeys(["loss", self._bench.monitor])
        columns: dict[str, list[float]] = {f"{part}{name}": [] for name in names for part in ("", "val_")}
        try:
            memory = self._bench.memory(size)
        except MemoryError as error:  # and the batch cannot be cut
            return {**fit, **columns, "diverged": 0, "why": str(error), "memory": None}
        for done, seconds in self._bench.travel(size, rate, seed, marks):
            parts = dict(zip(("", "val_"), self._bench.evaluate(), strict=True))
            values = {f"{part}{name}": float(parts[part][name]) for name in names for part in parts}
            if not all(map(math.isfinite, values.values())):
                fit["diverged"] = done
                break
            fit["updates"].append(done)
            fit["seconds"].append(round(seconds, 6))
            for column, value in values.items():
                columns[column].append(value)
        return {**fit, **columns, "memory": memory}

    def _told(self, fit: Fit) -> str:
        how = f"batch {self.protocol.label(fit['size'])}, learning rate {fit['rate']:g}, seed {fit['seed']}"
        if fit["diverged"] is not None:
            return f"{how}: {'does not fit into the memory' if 'why' in fit else 'diverged'}"
        value = statistics.value_at(fit, statistics.budget(self.protocol, EPOCHS, fit["size"]), self.judge.key)
        return f"{how}: {self.judge.key} {value:.4g}"

    # -- probes: sharpness and the path at one training loss, the noise of gradients at one point

    def _probe(self) -> None:
        """Measures the loss surface where each size's fit first comes to a training loss that all come to."""
        firsts = {size: chosen[EPOCHS][0] for size, chosen in self.chosen.items() if chosen[EPOCHS]}
        level = statistics.matched_loss(list(firsts.values()))
        if level is None:
            return
        examples = self._bench.examples
        rows = np.sort(np.random.default_rng(1).permutation(examples.n)[:PROBED])
        surface = Surface(self._bench.programs.test.step, sampled(examples, rows), self._bench.parts.collect()[0])
        for size, fit in firsts.items():
            self.probes[size] = self._kept(
                {"probe": size, "rate": fit["rate"], "seed": fit["seed"], "level": level},
                size,
                self._probed,
                surface,
                fit,
                level,
            )
        middle = min(firsts, key=lambda size: abs(math.log(size / REFERENCE)))
        sizes = [size for size in self.protocol.sizes if size <= surface.n]
        settings = {
            "noise": sizes,
            "at": middle,
            "rate": firsts[middle]["rate"],
            "seed": self.protocol.seeds[0],
            "level": level,
        }
        self.noise = self._kept(settings, middle, self._noise, surface, firsts[middle], level, sizes)

    def _kept(
        self, settings: dict[str, Any], size: int, measure: Callable[..., dict[str, Any]], *arguments: Any
    ) -> Any:
        key = key_of(settings)
        if key not in self._store.results:
            began = time.perf_counter()
            self._store.put(key, measure(*arguments))
            self._progress.done(
                size, f"batch {self.protocol.label(size)}: the loss around its path", time.perf_counter() - began
            )
        return self._store.results[key]

    def _lead(self, fit: Fit, level: float, beside: Sequence[int] = ()) -> Any:
        """The fit made again, up to where its training loss is at the level; yields at the updates in `beside` too."""
        there = next(u for u, loss in zip(fit["updates"], fit["loss"], strict=True) if loss <= level)
        marks = sorted({u for u in beside if u <= there} | {there})
        return self._bench.travel(fit["size"], fit["rate"], fit["seed"], marks)

    def _probed(self, surface: Surface, fit: Fit, level: float) -> dict[str, Any]:
        there = next(u for u, loss in zip(fit["updates"], fit["loss"], strict=True) if loss <= level)
        points = sorted({round(there ** (k / _PATH_POINTS)) for k in range(_PATH_POINTS + 1)})
        path, done = [], 0
        before: Any = None
        for done, _ in self._lead(fit, level, [u for point in points for u in (point, point + 1)]):
            params, buffers = self._bench.parts.collect()
            now = flat(params)
            if before is not None and before[0] + 1 == done:
                path.append([before[0], cosine(now - before[1], -before[2])])
            before = (done, now, surface.value_and_grad(now, buffers)[1]) if done in points else None
        params, buffers = self._bench.parts.collect()
        adaptive, keskar = surface.sharpness(flat(params), buffers)
        return {"updates": done, "adaptive": adaptive, "keskar": keskar, "path": path, "loss": level}

    def _noise(self, surface: Surface, fit: Fit, level: float, sizes: Sequence[int]) -> dict[str, Any]:
        for _ in self._lead(fit, level):
            pass
        params, buffers = self._bench.parts.collect()
        here = flat(params)
        draws = [min(_DRAWS, max(32, _DRAWN // size)) for size in sizes]
        found = surface.scatter(here, buffers, sizes, draws, seed=0)
        variance, gradient = surface.variance(here, buffers), surface.value_and_grad(here, buffers)[1]
        columns = {name: [getattr(s, name) for s in found] for name in ("std", "predicted", "cosine")}
        return {
            "sizes": list(sizes),
            **columns,
            "variance": variance,
            "gradient_sq": float(gradient @ gradient),
            "examples": surface.n,
            "at_size": fit["size"],
            "loss": level,
            "draws": max(draws),
        }

"""`fit(batch_size="auto")` against a grid of batch sizes: seconds of training to a fixed validation loss.

    python benchmarks/auto.py [--task digits] [--seeds 3]

Adam; every size has its learning rate tuned on one grid: all rates with the first seed, those that came within 1.5
times of the best with the other seeds, too. The validation loss is taken after 4, 5, … updates, 5 % more each time, and
counts as straight in between; the median of the updates to the target over seeds counts. These are counts, and do not
depend on the machine. They are multiplied with the seconds per update of `fit` itself, the least of many epochs, sizes
in turns: with validation after every epoch, which is what `auto` plans for here, and without. Compiling is not in them.
Fits are given up at LIMIT times the seconds of the best size so far. RESULTS-auto.md is written after every task, and
keeps what it says of others.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn import datasets

import epochal as keras
from epochal.models.planning import plan_for_fit
from epochal.study.bench import Bench

RESULTS = Path(__file__).parent / "RESULTS-auto.md"
SIZES = (32, 8, 16, 64, 128, 256, 512, 1024)  # what people take first comes first
RATES = (1e-3, 3e-3, 1e-2, 3e-2)
EPOCHS, MANY_EPOCHS = 50, 1_000_000  # of the fits whose batch size is planned
LIMIT, GROWTH, CLOSE = 4.0, 1.05, 1.5
ENOUGH, LEAST, SECONDS = 0.1, 0.2, 10.0  # that are timed; that a fit may take at least, and at most
ROUNDS = 4  # of timing
BY_HAND = "<!-- below this line: written by hand, and kept -->"

Layers = Callable[[], list[Any]]


class Task(NamedTuple):
    """A data set, the hidden layers of its network, the outputs, the part that is validated on and the target."""

    data: Callable[[], tuple[np.ndarray, np.ndarray]]
    hidden: Layers
    outputs: int
    split: float
    target: float


def _sklearn(load: Callable[..., Any], shape: tuple[int, ...] = ()) -> tuple[np.ndarray, np.ndarray]:
    x, y = load(return_X_y=True)
    x = (x - x.mean(0)) / np.maximum(x.std(0), 1e-6)
    y = y if y.dtype.kind == "i" else (y - y.mean()) / y.std()
    y = y.astype(np.int32 if y.dtype.kind == "i" else np.float32)
    return x.astype(np.float32).reshape(len(x), *shape or x.shape[1:]), y


def _synthetic(n: int = 50_000, d: int = 64, classes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Classes that a network of tanh units gives, with noise."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, d))
    logits = np.tanh(2 * x @ (rng.normal(size=(d, 32)) / 8)) @ rng.normal(size=(32, classes))
    return x.astype(np.float32), (logits + rng.gumbel(size=logits.shape)).argmax(1).astype(np.int32)


def _pixels() -> tuple[np.ndarray, np.ndarray]:
    """The colours of pixels of a photograph that comes with scikit-learn, from those of the 8 around each."""
    image = datasets.load_sample_image("flower.jpg").astype(np.float32) / 255 - 0.5
    windows = np.lib.stride_tricks.sliding_window_view(image, (3, 3), axis=(0, 1)).reshape(-1, 3, 9)
    return windows[:, :, [0, 1, 2, 3, 5, 6, 7, 8]].reshape(-1, 24).copy(), windows[:, :, 4].copy()


def _dense(*units: int) -> list[Any]:
    return [keras.layers.Dense(u, activation="relu") for u in units]


def _recurrent() -> list[Any]:
    return [keras.layers.LSTM(64)]


def _convolutions() -> list[Any]:
    layers = keras.layers
    first = [layers.Conv2D(f, 3, padding="same", activation="relu") for f in (16, 32)]
    return [*first, layers.MaxPooling2D(), layers.Flatten(), *_dense(64)]


TASKS = {
    "breast_cancer": Task(partial(_sklearn, datasets.load_breast_cancer), partial(_dense, 32), 2, 0.2, 0.06),
    "diabetes": Task(partial(_sklearn, datasets.load_diabetes), partial(_dense, 32), 1, 0.2, 0.55),
    "digits": Task(partial(_sklearn, datasets.load_digits), partial(_dense, 128, 64), 10, 0.2, 0.15),
    "digits_cnn": Task(partial(_sklearn, datasets.load_digits, (8, 8, 1)), _convolutions, 10, 0.2, 0.1),
    "synthetic": Task(_synthetic, partial(_dense, 256, 256), 10, 0.04, 1.35),
    # added later, so that the rule is judged by something that it was not made with
    "pixels": Task(_pixels, partial(_dense, 64, 64), 3, 0.04, 0.0004),
    "digits_lstm": Task(partial(_sklearn, datasets.load_digits, (8, 8)), _recurrent, 10, 0.2, 0.25),
    "digits_wide": Task(partial(_sklearn, datasets.load_digits), partial(_dense, 512), 10, 0.2, 0.15),
    "wine": Task(partial(_sklearn, datasets.load_wine), partial(_dense, 32), 3, 0.2, 0.1),
}


class Row(NamedTuple):
    """The best rate of a size: median updates to the target over seeds, seconds with validation and without."""

    size: int
    rate: float
    updates: float
    seconds: float
    alone: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    os.environ["EPOCHAL_CACHE"] = "off"  # planning counts with all that it compiles
    for name in options.task:
        began = time.perf_counter()
        found = measured(TASKS[name], options.seeds)
        load = f"load {os.getloadavg()[2]:.1f} on {os.cpu_count()} CPUs"
        found["run"] = f"{date.today()}, {options.seeds} seeds, {time.perf_counter() - began:.0f} s, {load}"
        write(name, found)


def measured(task: Task, seeds: int) -> dict[str, Any]:
    """The plans, and a row per size; JSON data."""
    x, y = task.data()
    order = np.random.default_rng(1).permutation(len(x))
    x, y = x[order], y[order]

    def build() -> Any:
        model = keras.Sequential([keras.Input(x.shape[1:]), *task.hidden(), keras.layers.Dense(task.outputs)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True) if y.dtype.kind == "i" else "mse"
        model.compile(keras.optimizers.Adam(RATES[0]), loss)
        return model

    keras.utils.set_random_seed(0)
    plan = plan_for_fit(build(), (x, y, None), None, task.split, EPOCHS)
    long = plan_for_fit(build(), (x, y, None), None, task.split, MANY_EPOCHS)
    assert plan is not None
    assert long is not None
    print(f"auto takes {plan.batch_size}\n{plan}\nfor many epochs {long.batch_size}\n{long}", flush=True)
    bench = Bench(build, (x, y, None), task.split, None, range(seeds), "loss")
    best, counts = math.inf, {}
    for size in dict.fromkeys((SIZES[0], plan.batch_size, long.batch_size, *SIZES[1:])):
        if size <= bench.examples.n:
            rate, updates, seconds = tuned(bench, size, seeds, task.target, min(max(LIMIT * best, LEAST), SECONDS))
            best, counts[size] = min(best, seconds), (rate, updates)
            print(f"{size}: rate {rate:g}, {updates:.0f} updates", flush=True)
    each = seconds_of_fits(build(), x, y, len(x) - bench.examples.n, list(counts))
    rows = [
        Row(size, rate, updates, updates * each[size, True], updates * each[size, False])
        for size, (rate, updates) in sorted(counts.items())
    ]
    return {
        "examples": bench.examples.n,
        "target": task.target,
        "auto": plan.batch_size,
        "long": long.batch_size,
        "optimum": plan.optimum,
        "planning": plan.measurements.measuring_seconds,
        "planning_long": long.measurements.measuring_seconds,
        "rows": [row._asdict() for row in rows],
    }


class Clock(keras.callbacks.Callback):
    """When epochs ended."""

    def on_train_begin(self, logs: Any = None) -> None:
        self.ends: list[float] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.ends.append(time.perf_counter())


def seconds_of_fits(model: Any, x: Any, y: Any, held: int, sizes: list[int]) -> dict[tuple[int, bool], float]:
    """(size, whether it validates) -> seconds per update of `fit`, of the fastest epoch in several rounds."""
    train, judged = (x[:-held], y[:-held]), (x[-held:], y[-held:])
    least: dict[tuple[int, bool], float] = {}
    for _ in range(ROUNDS):
        for size in sizes:
            for validates in (True, False):
                began, epochs, clock = time.perf_counter(), 4, Clock()
                while time.perf_counter() - began < ENOUGH:
                    validation = judged if validates else None
                    fit = {"validation_data": validation, "callbacks": [clock], "verbose": 0}
                    model.fit(*train, batch_size=size, epochs=epochs, **fit)
                    found = float(np.diff(clock.ends).min()) / -(-len(train[0]) // size)
                    least[size, validates] = min(least.get((size, validates), math.inf), found)
                    epochs = min(4 * epochs, 256)
    return least


def tuned(bench: Bench, size: int, seeds: int, target: float, limit: float) -> tuple[float, float, float]:
    """Its best rate, updates and about how many seconds; infinite for one that does not reach the target in `limit`."""
    next(bench.travel(size, RATES[0], 0, [1]))  # compiles
    each = seconds_per_update(bench, size)
    most = math.ceil(limit / each)
    first = {rate: updates_to(bench, size, rate, 0, target, most) for rate in RATES}
    least = min(first.values())
    medians = {}
    for rate, found in first.items():
        if math.isfinite(found) and found <= CLOSE * least:
            others = [updates_to(bench, size, rate, seed, target, most) for seed in range(1, seeds)]
            medians[rate] = statistics.median([found, *others])
    rate = min(medians, key=lambda r: medians[r], default=RATES[0])
    updates = medians.get(rate, math.inf)
    return rate, updates, each * updates


def seconds_per_update(bench: Bench, size: int) -> float:
    """With what epochs take beside their steps; the least of three runs of a tenth of a second or more."""
    updates, least = 64, 0.0
    while least < ENOUGH:
        updates *= 2
        least = min(unbroken(bench, size, updates) for _ in range(3))
    return least / updates


def unbroken(bench: Bench, size: int, updates: int) -> float:
    """Seconds of a fit of so many updates behind its first, which comes with the fit's start."""
    travelled = bench.travel(size, RATES[0], 0, [1, updates + 1])
    next(travelled)
    began = time.perf_counter()
    next(travelled)
    return time.perf_counter() - began


def updates_to(bench: Bench, size: int, rate: float, seed: int, target: float, most: int) -> float:
    """Updates until the validation loss is at the target; infinite if not within `most`."""
    marks, mark = [0], 4.0
    while marks[-1] < most:
        marks.append(max(round(mark), marks[-1] + 1))
        mark *= GROWTH
    before, last = 0, math.inf
    for done, _ in bench.travel(size, rate, seed, marks[1:]):
        loss = bench.evaluate()[1]["loss"]
        if not math.isfinite(loss):
            break
        if loss <= target:
            return done if math.isinf(last) else before + (last - target) / (last - loss) * (done - before)
        before, last = done, loss
    return math.inf


# -- the page


def write(name: str, found: dict[str, Any]) -> None:
    """The page with this task's figures new; the figures are kept in a comment at its end."""
    head, tail = "<!-- figures: ", " -->"
    text = RESULTS.read_text(encoding="utf-8") if RESULTS.is_file() else ""
    kept = json.loads(text.split(head)[1].split(tail)[0]) if head in text else {}
    by_hand = text.split(BY_HAND)[1].split(head)[0].strip() if BY_HAND in text else ""
    figures = {task: {**kept, name: found}[task] for task in TASKS if task in {**kept, name: found}}
    lines = [
        '# `fit(batch_size="auto")` against a grid of sizes',
        "",
        "Seconds of training to a fixed validation loss, Adam, learning rate tuned per size, median over seeds",
        "(`python benchmarks/auto.py`): updates to the target, which do not depend on the machine, times the seconds",
        "per update of `fit` with validation after every epoch, and without. No compiling is in them; `planning` is",
        f"what `auto` takes before a fit of {EPOCHS} epochs, with all that it compiles and nothing in the cache, and",
        f"`many` the size that it takes for {MANY_EPOCHS:,} epochs, for which it measures as long as it may. The best",
        "size is that of the grid 8, 16, …, 1024; sizes beside it are those that a plan took.",
        "",
        "| task | examples | auto | its time | best size | its time | 32's time | auto / best | auto / 32 "
        "| without validation: auto / best, auto / 32 | planning | many: size, / best | planning |",
        "|---" * 13 + "|",
        *(_summary(task, figures[task]) for task in figures),
        "",
        _verdict(list(figures.values())),
    ]
    for task, entry in figures.items():
        lines += ["", f"## {task}", f"Target: validation loss {entry['target']}. Run: {entry['run']}.", ""]
        lines += ["| batch size | learning rate | updates | epochs | seconds | without validation |", "|---" * 6 + "|"]
        lines += [_row(Row(**row), entry["examples"]) for row in entry["rows"]]
    lines += ["", BY_HAND, "", by_hand, "", head + json.dumps(figures) + tail, ""]
    RESULTS.write_text("\n".join(lines), encoding="utf-8")
    print(_summary(name, found), flush=True)


def _ratios(entry: dict[str, Any], choice: str, seconds: str) -> tuple[float, float]:
    """The time of the chosen size over that of the best one, and over that of 32."""
    rows = {row["size"]: row[seconds] for row in entry["rows"]}
    return rows[entry[choice]] / min(rows[size] for size in rows if size in SIZES), rows[entry[choice]] / rows[32]


def _summary(task: str, entry: dict[str, Any]) -> str:
    rows = {row["size"]: row["seconds"] for row in entry["rows"]}
    best = min(set(rows) & set(SIZES), key=lambda size: rows[size])
    times = (entry["auto"], _time(rows[entry["auto"]]), best, _time(rows[best]), _time(rows[32]))
    ratios = [f"{ratio:.2f}" for ratio in _ratios(entry, "auto", "seconds")]
    alone = ", ".join(f"{ratio:.2f}" for ratio in _ratios(entry, "auto", "alone"))
    many = f"{entry['long']}, {_ratios(entry, 'long', 'seconds')[0]:.2f}"
    planning = (f"{entry['planning']:.1f} s", many, f"{entry['planning_long']:.1f} s")
    return f"| {' | '.join(map(str, (task, entry['examples'], *times, *ratios, alone, *planning)))} |"


def _verdict(entries: list[dict[str, Any]]) -> str:
    ratios = [_ratios(entry, "auto", "seconds") for entry in entries]
    near = sum(best <= 1.25 for best, _ in ratios)
    better, equal = sum(other < 1 for _, other in ratios), sum(entry["auto"] == 32 for entry in entries)
    tie = f" and is 32 on {equal}" if equal else ""
    return f"Within 25 % of the best size on {near} of {len(ratios)} tasks; auto beats 32 on {better}{tie}."


def _row(row: Row, n: int) -> str:
    if not math.isfinite(row.seconds):
        return f"| {row.size} | | | | not within {LIMIT:g} times the best | |"
    epochs = row.updates / -(-n // row.size)
    cells = (row.size, f"{row.rate:g}", f"{row.updates:,.0f}", f"{epochs:.2f}", _time(row.seconds), _time(row.alone))
    return f"| {' | '.join(map(str, cells))} |"


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if math.isfinite(seconds) else "–"


if __name__ == "__main__":
    main()

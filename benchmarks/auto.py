"""`fit(batch_size="auto")` against a grid of batch sizes: seconds of training to a fixed validation loss.

    python benchmarks/auto.py [--task digits] [--seeds 3]

Adam; every size has its learning rate tuned on one grid: all rates with the first seed, those that came within 1.5
times of the best with the other seeds, too. The validation loss is taken after 4, 5, … updates, 5 % more each time, and
counts as straight in between; the median of the updates to the target over seeds counts, times the seconds per update
of a fit that is not interrupted: training alone, without compiling and validation. Fits are given up at LIMIT times
the seconds of the best size so far. RESULTS-auto.md is written after every task, and keeps what it says of others.
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
from epochal.planning import plan_for_fit
from epochal.study.bench import Bench

RESULTS = Path(__file__).parent / "RESULTS-auto.md"
SIZES = (32, 8, 16, 64, 128, 256, 512, 1024)  # what people take first comes first
RATES = (1e-3, 3e-3, 1e-2, 3e-2)
EPOCHS = 50  # of the fit whose batch size is planned
LIMIT, GROWTH, CLOSE = 4.0, 1.05, 1.5
ENOUGH, LEAST, SECONDS = 0.1, 0.2, 10.0  # that are timed; that a fit may take at least, and at most

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


def _dense(*units: int) -> list[Any]:
    return [keras.layers.Dense(u, activation="relu") for u in units]


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
}


class Row(NamedTuple):
    """The best rate of a size: median seconds and updates to the target over seeds."""

    size: int
    rate: float
    seconds: float
    updates: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    for name in options.task:
        began = time.perf_counter()
        found = measured(TASKS[name], options.seeds)
        found["run"] = f"{date.today()}, {options.seeds} seeds, {time.perf_counter() - began:.0f} s"
        write(name, found)


def measured(task: Task, seeds: int) -> dict[str, Any]:
    """The plan, and a row per size; JSON data."""
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
    assert plan is not None
    print(f"auto takes {plan.batch_size}\n{plan}", flush=True)
    bench = Bench(build, (x, y, None), task.split, None, range(seeds), "loss")
    rows: list[Row] = []
    for size in dict.fromkeys((SIZES[0], plan.batch_size, *SIZES[1:])):
        if size <= bench.examples.n:
            best = min((row.seconds for row in rows), default=math.inf)
            rows.append(tuned(bench, size, seeds, task.target, min(max(LIMIT * best, LEAST), SECONDS)))
            print(rows[-1], flush=True)
    return {
        "examples": bench.examples.n,
        "target": task.target,
        "auto": plan.batch_size,
        "optimum": plan.optimum,
        "planning": plan.measurements.measuring_seconds,
        "rows": [row._asdict() for row in sorted(rows)],
    }


def tuned(bench: Bench, size: int, seeds: int, target: float, limit: float) -> Row:
    """The size with its best rate; one that does not reach the target within the limit counts as infinite."""
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
    return Row(size, rate, each * updates, updates)


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
    figures = {task: {**kept, name: found}[task] for task in TASKS if task in {**kept, name: found}}
    lines = [
        '# `fit(batch_size="auto")` against a grid of sizes',
        "",
        "Seconds of training to a fixed validation loss, Adam, learning rate tuned per size, median over seeds",
        f"(`python benchmarks/auto.py`, {os.cpu_count()} CPUs). Planning, compiling included,",
        "is in none of these times.",
        "",
        "| task | examples | auto | its time | best size | its time | 32's time | auto / best | planning |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_summary(task, figures[task]) for task in figures),
    ]
    for task, entry in figures.items():
        lines += ["", f"## {task}", f"Target: validation loss {entry['target']}. Run: {entry['run']}.", ""]
        lines += ["| batch size | learning rate | updates | seconds | seconds / update |", "|---|---|---|---|---|"]
        lines += [_row(Row(**row)) for row in entry["rows"]]
    lines += ["", head + json.dumps(figures) + tail, ""]
    RESULTS.write_text("\n".join(lines), encoding="utf-8")
    print(_summary(name, found), flush=True)


def _summary(task: str, entry: dict[str, Any]) -> str:
    rows = {row["size"]: row["seconds"] for row in entry["rows"]}
    best, auto = min(rows, key=lambda size: rows[size]), rows[entry["auto"]]
    ratio = auto / rows[best] if math.isfinite(rows[best]) else math.nan
    times = (entry["auto"], _time(auto), best, _time(rows[best]), _time(rows[32]))
    cells = (task, entry["examples"], *times, f"{ratio:.2f}", f"{entry['planning']:.1f} s")
    return f"| {' | '.join(map(str, cells))} |"


def _row(row: Row) -> str:
    if not math.isfinite(row.seconds):
        return f"| {row.size} | | | not within {LIMIT:g} times the best | |"
    each = 1e3 * row.seconds / row.updates
    return f"| {row.size} | {row.rate:g} | {row.updates:,.0f} | {_time(row.seconds)} | {each:.3f} ms |"


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if math.isfinite(seconds) else "–"


if __name__ == "__main__":
    main()

"""What `BackupAndRestore` costs at its default frequency: wall time, processor time, and seconds of `fit`'s own thread.

    python benchmarks/backup_cost.py [--minutes 10]

Each fit with a backup runs beside the same one without, in turn and with the same compiled programs, the first of a
pair changing; pairs run until the time is up, at least two of each work. Wall time and processor time (user and system,
the writing threads included) are compared by the middle half of the pairs' ratios: single fits differ by several
percent whatever they do. In one more fit the seconds are counted that the thread that trains spends in the code that
keeps runs, waiting included. Written to RESULTS-backup.md.
"""

from __future__ import annotations

import argparse
import functools
import os
import resource
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from peers import machine
from sklearn.datasets import load_digits

import epochal as keras
from epochal.runs.keeper import Backup
from epochal.runs.store import Store

RESULTS = Path(__file__).parent / "RESULTS-backup.md"
inside = {"seconds": 0.0, "depth": 0, "written": 0}


def counted(owner: Any, name: str) -> None:
    """The seconds that the training thread spends in a method are added up; not twice where one calls another."""
    method: Callable = getattr(owner, name)

    @functools.wraps(method)
    def timed(*arguments: Any, **named: Any) -> Any:
        if threading.current_thread() is not threading.main_thread() or inside["depth"]:
            return method(*arguments, **named)
        inside["depth"], began = 1, time.perf_counter()
        try:
            return method(*arguments, **named)
        finally:
            inside["depth"] = 0
            inside["seconds"] += time.perf_counter() - began

    setattr(owner, name, timed)


def count_all() -> None:
    """From here on."""
    for owner, names in {
        Backup: ("steps_ahead", "count", "mark", "epoch_end", "now"),
        Store: ("lock", "newest", "write", "wait", "close", "delete"),
    }.items():
        for name in names:
            counted(owner, name)


write = Store._write


def noted(store: Store, *arguments: Any) -> Any:
    inside["written"] += 1
    return write(store, *arguments)


Store._write = noted


def digits_mlp() -> tuple[Any, dict[str, Any]]:
    """Epochs of some milliseconds: the worst case."""
    x, y = load_digits(return_X_y=True)
    hidden = keras.layers.Dense(64, "relu", input_shape=(64,))
    fit = {"x": (x / 16).astype(np.float32), "y": y, "batch_size": 32, "epochs": 8000}
    return keras.Sequential([hidden, keras.layers.Dense(10, "softmax")]), fit


def large_mlp() -> tuple[Any, dict[str, Any]]:
    """10 million weights: 120 MB with Adam's two moments."""
    draw = np.random.default_rng(0)
    hidden = [keras.layers.Dense(units, "relu") for units in (3000, 2500)]
    x, y = draw.normal(size=(2048, 784)).astype(np.float32), draw.integers(10, size=2048)
    model = keras.Sequential([keras.Input((784,)), *hidden, keras.layers.Dense(10, "softmax")])
    return model, {"x": x, "y": y, "batch_size": 128, "epochs": 60}


WORKS = {"MLP on digits": (digits_mlp, 0.75), "MLP of 10 M weights": (large_mlp, 0.25)}  # and their shares of the time


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def compiled(make: Callable) -> tuple[Any, dict[str, Any]]:
    """A model that has run, and what it is fitted with."""
    keras.utils.set_random_seed(0)
    model, fit = make()
    model.compile("adam", "sparse_categorical_crossentropy", ["accuracy"])
    with tempfile.TemporaryDirectory() as folder:  # Orbax is imported, and its threads are there
        model.fit(**{**fit, "epochs": 2}, verbose=0, callbacks=[keras.callbacks.BackupAndRestore(folder)])
    return model, fit


def measure(model: Any, fit: dict[str, Any], folder: str | None) -> dict[str, float]:
    """One fit, with a backup in the folder or without."""
    inside.update(seconds=0.0, written=0)
    callbacks = [] if folder is None else [keras.callbacks.BackupAndRestore(folder)]
    began, used = time.perf_counter(), cpu()
    model.fit(**fit, verbose=0, callbacks=callbacks)
    return {
        "seconds": time.perf_counter() - began,
        "cpu": cpu() - used,
        "inside": inside["seconds"],
        "written": inside["written"],
    }


def pairs_of(name: str, make: Callable, seconds: float) -> list[tuple[dict[str, float], dict[str, float]]]:
    """Fits with a backup beside fits without, for so many seconds, or two pairs."""
    pairs: list[tuple[dict[str, float], dict[str, float]]] = []
    model, fit = compiled(make)
    began = time.perf_counter()
    while len(pairs) < 2 or (time.perf_counter() - began) * (len(pairs) + 1) / len(pairs) < seconds:
        with tempfile.TemporaryDirectory() as folder:
            order = (None, folder) if len(pairs) % 2 else (folder, None)
            found = {place is not None: measure(model, fit, place) for place in order}
        pairs.append((found[True], found[False]))
        shown = [{k: round(v, 3) for k, v in found[kept].items()} for kept in (True, False)]
        print(name, "with", shown[0], "without", shown[1], flush=True)
    return pairs


def summary(ratios: list[float]) -> str:
    """Mean of the middle half, its standard error, and the range of all."""
    ordered = sorted(ratios)
    cut = len(ordered) // 4
    draw = np.random.default_rng(0)  # bootstrap
    means = [np.mean(np.sort(draw.choice(ordered, len(ordered)))[cut : len(ordered) - cut]) for _ in range(2000)]
    middle = np.mean(ordered[cut : len(ordered) - cut])
    return f"{middle:+.1%} ± {np.std(means):.1%} ({ordered[0]:+.1%} to {ordered[-1]:+.1%})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    minutes = parser.parse_args().minutes
    every = {name: (pairs_of(name, make, minutes * 57 * part)) for name, (make, part) in WORKS.items()}
    count_all()
    lines = [
        "| work | pairs | seconds of a fit | checkpoints | wall time | processor time | in the training thread |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, (make, _) in WORKS.items():
        pairs = every[name]
        wall, used = (summary([kept[k] / without[k] - 1 for kept, without in pairs]) for k in ("seconds", "cpu"))
        with tempfile.TemporaryDirectory() as folder:
            found = measure(*compiled(make), folder)
        share = found["inside"] / found["seconds"]
        seconds, written = (statistics.median(kept[k] for kept, _ in pairs) for k in ("seconds", "written"))
        lines.append(f"| {name} | {len(pairs)} | {seconds:.1f} | {written:.0f} | {wall} | {used} | {share:.2%} |")
    text = "\n".join(lines)
    print(text)
    RESULTS.write_text(
        f"""# What keeping a run costs

Written by `python benchmarks/backup_cost.py --minutes {minutes:g}`. {machine()}.
Load average of the last five minutes: {os.getloadavg()[1]:.1f} (1 is this script alone).
More than the same fit without a backup: the mean of the middle half of the pairs' ratios, its standard error by
resampling, and in brackets the least and the most.

{text}
"""
    )


if __name__ == "__main__":
    main()

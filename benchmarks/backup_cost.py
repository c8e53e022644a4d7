"""What `BackupAndRestore` costs at its default frequency, counted: seconds of `fit`'s own thread, and CPU seconds.

    python benchmarks/backup_cost.py [--rounds 5]

Wall time of whole fits is drowned in noise, so two things are counted directly. Of the thread that trains: the seconds
it spends in the code that keeps runs, waiting included. Of the process, its writing threads included: CPU seconds (user
and system), each fit with a backup beside one without, in turn; the median of their ratios. Written to
RESULTS-backup.md.
"""

from __future__ import annotations

import argparse
import functools
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
from epochal.checkpoint import Store
from epochal.resume import Backup

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
    fit = {"x": (x / 16).astype(np.float32), "y": y, "batch_size": 32, "epochs": 4000}
    return keras.Sequential([hidden, keras.layers.Dense(10, "softmax")]), fit


def large_mlp() -> tuple[Any, dict[str, Any]]:
    """10 million weights: 120 MB with Adam's two moments."""
    draw = np.random.default_rng(0)
    hidden = [keras.layers.Dense(units, "relu") for units in (3000, 2500)]
    x, y = draw.normal(size=(2048, 784)).astype(np.float32), draw.integers(10, size=2048)
    model = keras.Sequential([keras.Input((784,)), *hidden, keras.layers.Dense(10, "softmax")])
    return model, {"x": x, "y": y, "batch_size": 128, "epochs": 40}


WORKS = {"MLP on digits": digits_mlp, "MLP of 10 M weights": large_mlp}


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def measure(make: Callable, folder: str | None) -> dict[str, float]:
    """One fit behind one that compiles."""
    keras.utils.set_random_seed(0)
    model, fit = make()
    model.compile("adam", "sparse_categorical_crossentropy", ["accuracy"])
    model.fit(**{**fit, "epochs": 1}, verbose=0)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:  # Orbax is imported, and its threads are there
        measure(digits_mlp, folder)
    lines = [
        "| work | seconds of a fit | checkpoints | in the training thread | CPU time, to the same fit without |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, make in WORKS.items():
        pairs = []
        for i in range(rounds):
            with tempfile.TemporaryDirectory() as folder:
                order = (None, folder) if i % 2 else (folder, None)
                found = {place is not None: measure(make, place) for place in order}
            pairs.append((found[True], found[False]))
            print(
                name, {k: round(v, 3) for k, v in found[True].items()}, f"without {found[False]['cpu']:.2f}", flush=True
            )
        share = statistics.median(kept["inside"] / kept["seconds"] for kept, _ in pairs)
        ratio = statistics.median(kept["cpu"] / without["cpu"] - 1 for kept, without in pairs)
        seconds, written = (statistics.median(kept[k] for kept, _ in pairs) for k in ("seconds", "written"))
        lines.append(f"| {name} | {seconds:.1f} | {written:.0f} | {share:.2%} | {ratio:+.1%} |")
    text = "\n".join(lines)
    print(text)
    RESULTS.write_text(
        f"# What keeping a run costs\n\nWritten by `python benchmarks/backup_cost.py`. {machine()}.\n"
        f"Medians of {rounds} interleaved rounds, at the default `save_freq`.\n\n{text}\n"
    )


if __name__ == "__main__":
    main()

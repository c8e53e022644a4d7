"""Kills training runs with SIGKILL at random times until they have ended all the same, and compares what is left.

    python benchmarks/kill_test.py [--kills 100] [--seed 0]

Three runs on the digits (an MLP with dropout, a CNN with BatchNormalization, an LSTM on a PyDataset with workers), each
with Adam, EarlyStopping, ReduceLROnPlateau, CSVLogger and short last batches, are started again after each kill. The
sha256 of the weights, the optimizer's state, the History and the CSV file must be that of a run that was not killed.
Writes its table to benchmarks/RESULTS-kill.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RUNS = ("mlp", "cnn", "lstm")
RESULTS = Path(__file__).parent / "RESULTS-kill.md"


def train(kind: str, folder: Path) -> str:
    """One run, in this process; the sha256 of what is left of it."""
    import jax
    import numpy as np
    from sklearn.datasets import load_digits

    import epochal as keras
    from epochal import layers

    keras.utils.set_random_seed(7)
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)

    class Rows(keras.utils.PyDataset):
        """Rows of the images as time steps, in an order that changes between epochs."""

        def __init__(self, **named: Any):
            super().__init__(**named)
            self.random, self.order = np.random.default_rng(0), np.arange(1500)

        def __len__(self) -> int:
            return -(-1500 // 64)

        def __getitem__(self, index: int) -> Any:
            rows = self.order[index * 64 : (index + 1) * 64]
            return x[rows].reshape(-1, 8, 8), y[rows]

        def on_epoch_end(self) -> None:
            self.random.shuffle(self.order)

    classes = layers.Dense(10, activation="softmax")
    data: dict[str, Any] = {"x": x, "y": y, "batch_size": 32, "validation_split": 0.2}
    if kind == "mlp":
        inner = [layers.Dense(64, activation="relu", input_shape=(64,)), layers.Dropout(0.3)]
    elif kind == "cnn":
        inner = [
            layers.Reshape((8, 8, 1), input_shape=(64,)),
            layers.Conv2D(8, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.MaxPooling2D(2),
            layers.Flatten(),
        ]
    else:
        inner = [layers.LSTM(16, input_shape=(8, 8), dropout=0.1)]
        data = {"x": Rows(workers=2), "validation_data": (x[1500:].reshape(-1, 8, 8), y[1500:])}
    model = keras.Sequential([*inner, classes])
    model.compile("adam", "sparse_categorical_crossentropy", ["accuracy"])
    callbacks = [
        keras.callbacks.EarlyStopping(patience=30, restore_best_weights=True),
        keras.callbacks.ReduceLROnPlateau(patience=3, factor=0.7),
        keras.callbacks.CSVLogger(folder / "log.csv"),
        keras.callbacks.BackupAndRestore(folder / "backup", save_freq=25),
    ]
    history = model.fit(**data, epochs=40, verbose=0, callbacks=callbacks)
    digest = hashlib.sha256(json.dumps([history.history, history.epoch]).encode())
    for array in [*model.get_weights(), *jax.tree.leaves(model.optimizer.state)]:
        digest.update(np.asarray(array).tobytes())
    digest.update((folder / "log.csv").read_bytes())
    return digest.hexdigest()


def started(kind: str, folder: Path) -> subprocess.Popen:
    folder.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, __file__, "--run", kind, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()  # it is about to train
    return process


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", nargs=2)
    arguments = parser.parse_args()
    if arguments.run:
        print("begins", flush=True)
        print(train(arguments.run[0], Path(arguments.run[1])), flush=True)
        return
    draw = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as top:
        expected, seconds = {}, {}
        for kind in RUNS:
            began = time.perf_counter()
            expected[kind] = started(kind, Path(top) / "whole" / kind).communicate()[0].strip()
            seconds[kind] = time.perf_counter() - began
        counts = {kind: {"kills": 0, "in a save": 0, "runs": 0, "equal": 0} for kind in RUNS}
        while sum(c["kills"] for c in counts.values()) < arguments.kills:
            kind = min(RUNS, key=lambda k: counts[k]["kills"])
            folder = Path(top) / f"{kind}-{counts[kind]['runs']}"
            ended = None
            while ended is None:
                process = started(kind, folder)
                try:
                    ended = process.communicate(timeout=draw.uniform(0, 0.6 * seconds[kind]))[0].strip()
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.communicate()
                    counts[kind]["kills"] += 1
                    counts[kind]["in a save"] += any(".orbax" in p.name for p in (folder / "backup").glob("epoch-*"))
            counts[kind]["runs"] += 1
            counts[kind]["equal"] += ended == expected[kind]
            print(kind, counts[kind], "equal" if ended == expected[kind] else "DIFFERENT", flush=True)
            shutil.rmtree(folder)
    lines = [
        "# Killed runs",
        "",
        f"Written by `python benchmarks/kill_test.py --kills {arguments.kills} --seed {arguments.seed}`. "
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}.",
        "",
        "| run | kills | of these inside a save | runs that came to their end | with the sha256 of a run not killed |",
        "|---|---:|---:|---:|---:|",
        *(f"| {kind} | {c['kills']} | {c['in a save']} | {c['runs']} | {c['equal']} |" for kind, c in counts.items()),
    ]
    RESULTS.write_text("\n".join(lines) + "\n")
    print("\n".join(lines[4:]))
    if any(c["equal"] < c["runs"] for c in counts.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()

"""Kills training runs with SIGKILL at random times until they have ended all the same, and compares what is left.

    python benchmarks/kill_test.py [--kills 100] [--seed 0]

Three runs on the digits (an MLP with dropout, a CNN with BatchNormalization, an LSTM on a PyDataset with workers), each
with Adam, EarlyStopping, ReduceLROnPlateau, CSVLogger and short last batches, are started again after each kill. The
sha256 of the weights, the optimizer's state, the History and the CSV file must be that of a run that was not killed.
Prints each kill, and writes its table to benchmarks/RESULTS-kill.md after each run: breaking it off loses nothing.
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
COUNTED = ("kills", "in a save", "runs", "equal")
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
    callbacks.append(keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, _: print("epoch", epoch, flush=True)))
    history = model.fit(**data, epochs=40, verbose=0, callbacks=callbacks)
    digest = hashlib.sha256(json.dumps([history.history, history.epoch]).encode())
    for array in [*model.get_weights(), *jax.tree.leaves(model.optimizer.state)]:
        digest.update(np.asarray(array).tobytes())
    digest.update((folder / "log.csv").read_bytes())
    return digest.hexdigest()


def started(kind: str, folder: Path) -> subprocess.Popen:
    """The run as a process, which prints a line when it begins an epoch."""
    folder.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen([sys.executable, __file__, "--run", kind, str(folder)], stdout=subprocess.PIPE, text=True)


def kill_at_random(process: subprocess.Popen, draw: random.Random) -> str | None:
    """Kills a run some time in its next 12 epochs, or in one of ten while it starts; its last line if it ended before.

    Counted in epochs, so that a run comes forward however slow the machine is.
    """
    assert process.stdout is not None
    began, line, epochs = time.perf_counter(), "", draw.randint(1, 12)
    if draw.random() < 0.1:
        time.sleep(draw.uniform(0, 3))
    else:
        for _ in range(epochs):
            line, before = process.stdout.readline(), line
            if not line.startswith("epoch"):  # the run's end
                process.wait()
                return (line or before).strip()
            seconds, began = time.perf_counter() - began, time.perf_counter()
        time.sleep(draw.uniform(0, min(seconds, 1)))
    process.kill()
    rest = process.communicate()[0].split()
    return rest[-1] if rest and len(rest[-1]) == 64 else None


def until_ended(kind: str, folder: Path, count: dict[str, int], draw: random.Random) -> str:
    """Starts the run and kills it until it ends before its time; what it then says."""
    while True:
        ended = kill_at_random(started(kind, folder), draw)
        if ended is not None:
            return ended
        inside = any(".orbax" in p.name for p in (folder / "backup").glob("epoch-*"))
        count["kills"] += 1
        count["in a save"] += inside
        print(kind, "killed", "inside a save" if inside else "", flush=True)


def write(counts: dict[str, dict[str, int]], kills: int, seed: int) -> list[str]:
    lines = [
        "# Killed runs",
        "",
        f"Written by `python benchmarks/kill_test.py --kills {kills} --seed {seed}`. "
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}.",
        "",
        "| run | kills | of these inside a save | runs that came to their end | with the sha256 of a run not killed |",
        "|---|---:|---:|---:|---:|",
        *(f"| {kind} | {c['kills']} | {c['in a save']} | {c['runs']} | {c['equal']} |" for kind, c in counts.items()),
        f"| all | {' | '.join(str(sum(c[name] for c in counts.values())) for name in COUNTED)} |",
    ]
    RESULTS.write_text("\n".join(lines) + "\n")
    return lines[4:]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", nargs=2, help="one run, in this process: kind and folder")
    arguments = parser.parse_args()
    if arguments.run:
        print(train(arguments.run[0], Path(arguments.run[1])), flush=True)
        return
    draw = random.Random(arguments.seed)
    counts = {kind: dict.fromkeys(COUNTED, 0) for kind in RUNS}
    with tempfile.TemporaryDirectory() as top:
        expected = {}
        for kind in RUNS:
            expected[kind] = started(kind, Path(top) / "whole" / kind).communicate()[0].split()[-1]
            print(kind, expected[kind], flush=True)
        while sum(c["kills"] for c in counts.values()) < arguments.kills:
            kind = min(RUNS, key=lambda k: counts[k]["kills"])
            count, folder = counts[kind], Path(top) / f"{kind}-{counts[kind]['runs']}"
            ended = until_ended(kind, folder, count, draw)
            count["runs"] += 1
            count["equal"] += ended == expected[kind]
            print(kind, count, "equal" if ended == expected[kind] else f"DIFFERENT {ended}", flush=True)
            if ended == expected[kind]:
                shutil.rmtree(folder)
            write(counts, arguments.kills, arguments.seed)
    print("\n".join(write(counts, arguments.kills, arguments.seed)))
    if any(c["equal"] < c["runs"] for c in counts.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()

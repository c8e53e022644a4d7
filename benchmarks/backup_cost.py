"""What `BackupAndRestore` costs at its default frequency: whole fits with and without it, interleaved, best of rounds.

python benchmarks/backup_cost.py [--rounds 3] [--epochs 15]
"""

from __future__ import annotations

import argparse
import tempfile
import time

import numpy as np

import epochal as keras
from epochal import layers


def seconds(x: np.ndarray, y: np.ndarray, epochs: int, folder: str | None) -> float:
    """Of a fit outside of compiling, the last checkpoint written."""
    keras.utils.set_random_seed(0)
    hidden = [layers.Dense(512, activation="relu") for _ in range(2)]
    model = keras.Sequential([keras.Input((784,)), *hidden, layers.Dense(10, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", ["accuracy"])
    model.fit(x[:64], y[:64], batch_size=32, verbose=0)  # compiles
    callbacks = [] if folder is None else [keras.callbacks.BackupAndRestore(folder)]
    start = time.perf_counter()
    history = model.fit(x, y, batch_size=32, epochs=epochs, verbose=0, callbacks=callbacks)
    return time.perf_counter() - start - history.compile_seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=15)
    arguments = parser.parse_args()
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(32_768, 784)).astype(np.float32), draw.integers(10, size=32_768)
    without, kept = [], []
    for _ in range(arguments.rounds):
        without.append(seconds(x, y, arguments.epochs, None))
        with tempfile.TemporaryDirectory() as folder:
            kept.append(seconds(x, y, arguments.epochs, folder))
        print(f"without {without[-1]:.2f} s, with BackupAndRestore {kept[-1]:.2f} s", flush=True)
    print(f"best of {arguments.rounds}: {min(kept) / min(without) - 1:+.2%}")


if __name__ == "__main__":
    main()

"""What callbacks.NoiseScale costs: the share of the training time that it takes, at its default.

    python benchmarks/noise_cost.py

For each model, fits with and without the callback take turns; compiling is left out. "share" is the processor time
spent in the callback over that of the fit, "ratio" the processor time of the fits with it over that of those without it
(the least of each), which tells of what the program does beside, where batches are run in micro-batches; "factor" is
what an example's gradient by itself costs in multiples of its training, which `NoiseScale.COST` is to be at least.

One run, on two busy cores, where ratios vary by 5 % and more from run to run. Above 2 % is the share of epochs of 2 ms
in pieces of 8: that is Python, once per epoch, and its ratio was up to 1.10 in other runs (1.94 when all batches were
listened to).

| model | epochs | drawn | share | ratio | factor |
|---|---|---|---|---|---|
| MLP 64-64-10, n = 1,797 | 3 | none | 0.97 % | 0.866 | nan |
| MLP 64-64-10, n = 1,797 | 120 | 128 every 90 | 1.27 % | 0.978 | 20.4 |
| MLP 64-64-10, micro-batches of 8, n = 1,797 | 40 | one in 50 | 3.01 % | 1.012 | nan |
| MLP 64-64-10, micro-batches of 8, n = 20,000 | 10 | one in 50 | 0.67 % | 0.860 | nan |
| MLP 64-512-512-10, micro-batches of 32, n = 20,000 | 3 | one in 13 | 0.06 % | 0.971 | nan |
| MLP 64-64-10, n = 50,000 | 6 | 128 every 4 | 0.72 % | 0.998 | 16.6 |
| MLP 64-512-512-10, dropout, n = 20,000 | 6 | none | 0.01 % | 0.989 | nan |
| CNN 16-32, n = 1,797 | 40 | none | 0.20 % | 1.024 | nan |
| CNN 16-32, n = 20,000 | 3 | none | 0.02 % | 0.999 | nan |
| LSTM 32, n = 20,000 | 4 | none | 0.04 % | 0.988 | nan |
"""

from __future__ import annotations

import math
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from data import digits

import epochal as keras
from epochal import layers

TURNS = 4


class Timed(keras.callbacks.NoiseScale):
    """Counts the seconds it takes, and the examples whose gradients it took."""

    def on_train_begin(self, logs: Any = None) -> None:
        super().on_train_begin(logs)
        self.seconds, self.gradients = 0.0, 0

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        started = time.process_time()
        super().on_epoch_end(epoch, logs)
        self.seconds += time.process_time() - started

    def _measure(self, epoch: int, drawn: int) -> None:
        super()._measure(epoch, drawn)
        self.gradients += drawn


def mlp(n: int) -> tuple[Any, Any, Any, int]:
    x, y = (np.resize(a, (n, *a.shape[1:])) for a in digits())
    return keras.Sequential([layers.Dense(64, activation="relu"), layers.Dense(10, activation="softmax")]), x, y, 32


def wide(n: int) -> tuple[Any, Any, Any, int]:
    x, y = (np.resize(a, (n, *a.shape[1:])) for a in digits())
    hidden = [layers.Dense(512, activation="relu"), layers.Dropout(0.3), layers.Dense(512, activation="relu")]
    return keras.Sequential([*hidden, layers.Dense(10, activation="softmax")]), x, y, 128


def cnn(n: int) -> tuple[Any, Any, Any, int]:
    x, y = (np.resize(a, (n, *a.shape[1:])) for a in digits())
    convolutions = [layers.Conv2D(16, 3, activation="relu"), layers.Conv2D(32, 3, activation="relu")]
    model = keras.Sequential([*convolutions, layers.Flatten(), layers.Dense(10, activation="softmax")])
    return model, x.reshape(-1, 8, 8, 1), y, 32


def lstm(n: int) -> tuple[Any, Any, Any, int]:
    x, y = (np.resize(a, (n, *a.shape[1:])) for a in digits())
    return keras.Sequential([layers.LSTM(32), layers.Dense(10, activation="softmax")]), x.reshape(-1, 8, 8), y, 32


def measured(name: str, make: Any, n: int, epochs: int, micro_batch_size: Any = "auto") -> None:
    model, x, y, batch_size = make(n)
    model.compile("adam", "sparse_categorical_crossentropy", micro_batch_size=micro_batch_size)
    callback = Timed()

    def fit(callbacks: list[Any]) -> tuple[float, float]:
        began = time.process_time()
        model.fit(x, y, batch_size=batch_size, epochs=epochs, verbose=0, callbacks=callbacks)
        spent = time.process_time() - began
        return spent, spent

    warnings.filterwarnings("ignore", "NoiseScale measured nothing")  # in a short run
    fit([callback]), fit([])
    plain, watched, shares, factors = [], [], [], []
    for _ in range(TURNS):
        seconds, processor = fit([])
        plain.append(processor)
        with_it, processor = fit([callback])
        watched.append(processor)
        shares.append(callback.seconds / with_it)
        factors.append(
            callback.seconds / callback.gradients / (seconds / epochs / n) if callback.gradients else math.nan
        )
    drawn = f"{callback.drawn} every {callback.due_every(callback.drawn)}" if callback.gradients else "none"
    drawn = drawn if micro_batch_size == "auto" else f"one in {callback.one_in(micro_batch_size)}"
    share, ratio, factor = 100 * statistics.median(shares), min(watched) / min(plain), statistics.median(factors)
    print(f"| {name}, n = {n:,} | {epochs} | {drawn} | {share:.2f} % | {ratio:.3f} | {factor:.1f} |", flush=True)


if __name__ == "__main__":
    print("| model | epochs | drawn | share | ratio | factor |\n|---|---|---|---|---|---|")
    measured("MLP 64-64-10", mlp, 1797, 3)
    measured("MLP 64-64-10", mlp, 1797, 120)
    measured("MLP 64-64-10, micro-batches of 8", mlp, 1797, 40, 8)
    measured("MLP 64-64-10, micro-batches of 8", mlp, 20_000, 10, 8)
    measured("MLP 64-512-512-10, micro-batches of 32", wide, 20_000, 3, 32)
    measured("MLP 64-64-10", mlp, 50_000, 6)
    measured("MLP 64-512-512-10, dropout", wide, 20_000, 6)
    measured("CNN 16-32", cnn, 1797, 40)
    measured("CNN 16-32", cnn, 20_000, 3)
    measured("LSTM 32", lstm, 20_000, 4)

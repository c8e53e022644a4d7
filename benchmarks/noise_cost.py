"""What callbacks.NoiseScale costs: the share of the training time that it takes, at its default.

    python benchmarks/noise_cost.py

For each model, fits with and without the callback take turns; compiling is left out. "share" is the processor time
spent in the callback over that of the fit; "wall" and "processor" are the medians of the pairs' ratios of time and of
processor time, with it over without, which tell of what the program does beside, where batches are run in
micro-batches; "factor" is what an example's gradient by itself costs in multiples of its training, which
`NoiseScale.COST` is to be at least.

One run on a quiet machine of two cores:

| model | epochs | drawn | share | wall | processor | factor |
|---|---|---|---|---|---|---|
| MLP 64-64-10, n = 180 | 1000 of 0.6 ms | 128 every 889 | 1.66 % | 1.015 | 1.020 | 2.3 |
| MLP 64-64-10, n = 1,797 | 180 of 1.2 ms | 128 every 90 | 1.38 % | 1.017 | 1.014 | 9.7 |
| MLP 64-64-10, n = 50,000 | 8 of 28.1 ms | 128 every 4 | 0.75 % | 1.016 | 1.008 | 10.8 |
| MLP 64-512-512-10, dropout, n = 20,000 | 8 of 157.5 ms | 128 every 8 | 0.31 % | 1.006 | 1.006 | 3.8 |
| CNN 16-32, n = 1,797 | 90 of 13.5 ms | 128 every 90 | 0.33 % | 1.025 | 1.000 | 2.1 |
| CNN 16-32, n = 20,000 | 8 of 162.1 ms | 128 every 8 | 0.21 % | 1.001 | 0.997 | 2.3 |
| LSTM 32, n = 20,000 | 8 of 81.1 ms | 128 every 8 | 0.32 % | 1.009 | 1.001 | 3.4 |
| MLP 64-64-10, micro-batches of 8, n = 20,000 | 10 of 26.8 ms | one in 500 | 0.24 % | 1.017 | 1.007 | – |
| MLP 64-512-512-10, dropout, micro-batches of 32, n = 20,000 | 3 of 251.1 ms | one in 13 | 0.05 % | 1.007 | 1.004 | – |

For epochs of few steps in pieces of 8 that run said 1.047 (0.6 ms) and 1.043 (2.3 ms): of sums that rode along in each
epoch, which is why they do in few epochs since. Then, on a busy machine, the least processor time of 50 to 80 fits said
1.031 (0.58 ms; 166 epochs) and 1.019 (2.25 ms; 16 epochs); a callback that does nothing 1.002 and 0.999.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from support.data import digits

import epochal as keras
from epochal import layers

SECONDS = 16  # that a row takes, or a little more
TURNS = 3  # at least


class Timed(keras.callbacks.NoiseScale):
    """Counts the seconds it takes, and the examples whose gradients it took."""

    def on_train_begin(self, logs: Any = None) -> None:
        super().on_train_begin(logs)
        self.seconds, self.measuring, self.gradients = 0.0, 0.0, 0

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        started = time.process_time()
        super().on_epoch_end(epoch, logs)
        self.seconds += time.process_time() - started

    def hear(self, width: Any, noise: Any) -> None:
        started = time.process_time()
        super().hear(width, noise)
        self.seconds += time.process_time() - started

    def _measure(self, epoch: int, drawn: int) -> None:
        started = time.process_time()
        super()._measure(epoch, drawn)
        self.measuring += time.process_time() - started
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
        began, processor = time.perf_counter(), time.process_time()
        model.fit(x, y, batch_size=batch_size, epochs=epochs, verbose=0, callbacks=callbacks)
        return time.perf_counter() - began, time.process_time() - processor

    fit([callback]), fit([])
    seconds, shares, ratios, factors = fit([])[0], [], [], []
    for turn in range(max(TURNS, min(40, round(SECONDS / 2 / seconds)))):
        pair = [fit([]), fit([callback])] if turn % 2 else [fit([callback]), fit([])][::-1]
        (plain, plain_processor), (watched, watched_processor) = pair
        shares.append(callback.seconds / watched_processor)
        ratios.append((watched / plain, watched_processor / plain_processor))
        factors.append(callback.measuring / max(callback.gradients, 1) / (plain_processor / epochs / n))
    drawn = f"{callback.drawn} every {callback.due_every(callback.pause)}"
    factor = f"{statistics.median(factors):.1f}"
    if micro_batch_size != "auto":
        drawn, factor = f"one in {callback.rarity(micro_batch_size)}", "–"
    assert callback.estimate is not None
    wall, processor = (statistics.median(values) for values in zip(*ratios, strict=True))
    about = f"{name}, n = {n:,} | {epochs} of {1e3 * seconds / epochs:.1f} ms"
    share = f"{100 * statistics.median(shares):.2f} %"
    print(f"| {about} | {drawn} | {share} | {wall:.3f} | {processor:.3f} | {factor} |", flush=True)


if __name__ == "__main__":
    print("| model | epochs | drawn | share | wall | processor | factor |\n|---|---|---|---|---|---|---|")
    measured("MLP 64-64-10", mlp, 180, 1000)
    measured("MLP 64-64-10", mlp, 1797, 180)
    measured("MLP 64-64-10", mlp, 50_000, 8)
    measured("MLP 64-512-512-10, dropout", wide, 20_000, 8)
    measured("CNN 16-32", cnn, 1797, 90)
    measured("CNN 16-32", cnn, 20_000, 8)
    measured("LSTM 32", lstm, 20_000, 8)
    measured("MLP 64-64-10, micro-batches of 8", mlp, 180, 400, 8)
    measured("MLP 64-64-10, micro-batches of 8", mlp, 1797, 100, 8)
    measured("MLP 64-64-10, micro-batches of 8", mlp, 20_000, 10, 8)
    measured("MLP 64-512-512-10, dropout, micro-batches of 32", wide, 20_000, 3, 32)

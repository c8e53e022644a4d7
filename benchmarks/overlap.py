"""Whether a slow source of data and the computation overlap: seconds of a fit against n·max(s, c) and n·(s + c).

    python benchmarks/overlap.py [--steps 60]

A generator sleeps s seconds per batch; a step of the model computes c seconds, measured beforehand with data that is
there at once. `share` is what a fit took of n·max(s, c): 1 is perfect, (s + c) / max(s, c) is no overlap at all.
The last columns say what `History.data_wait` told, and what it should have: 1 - c / max(s, c).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

import epochal

ROWS, FEATURES, WIDTH = 256, 512, 1024


def made() -> tuple[Any, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, FEATURES)).astype(np.float32)
    hidden = [epochal.layers.Dense(WIDTH, "relu") for _ in range(2)]
    model = epochal.Sequential([epochal.layers.Input((FEATURES,)), *hidden, epochal.layers.Dense(10, "softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model, x, rng.integers(0, 10, ROWS).astype(np.int32)


def batches(x: np.ndarray, y: np.ndarray, seconds: float) -> Iterator[Any]:
    while True:
        time.sleep(seconds)
        yield x, y


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    n = parser.parse_args().steps
    model, x, y = made()
    model.fit(batches(x, y, 0.0), steps_per_epoch=n, verbose=0)

    def run(seconds: float) -> tuple[float, float]:
        history = model.fit(batches(x, y, seconds), steps_per_epoch=n, verbose=0)
        return history.seconds / n, history.data_wait

    print("| s / c | c (ms) | s (ms) | fit per step (ms) | max(s, c) | s + c | share | data_wait | expected |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for ratio in (0.1, 0.5, 1.0, 2.0, 5.0, 20.0):
        c = min(run(0.0)[0] for _ in range(2))
        s = ratio * c
        took, waited = run(s)
        longer = max(s, c)
        numbers = [c, s, took, longer, s + c]
        shown = " | ".join(f"{1e3 * number:.1f}" for number in numbers)
        print(f"| {ratio} | {shown} | {took / longer:.2f} | {waited:.2f} | {1 - c / longer:.2f} |")


if __name__ == "__main__":
    main()

"""Seconds from a fresh process to the end of the first `fit`, beside Keras on JAX; and what `import epochal` takes.

    python benchmarks/startup.py [--rounds 5]

Every round starts one process for each row of the table, in turn; the median of the rounds counts. The first start has
an empty folder for compiled programs, the second the one that the first has filled. Written to RESULTS-startup.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from peers import machine

RESULTS = Path(__file__).parent / "RESULTS-startup.md"
IMPORT = {"import jax, flax": "import jax, flax.nnx", "import epochal": "import epochal"}
FIT = """
import {library} as k
import numpy as np
x = np.linspace(-1, 1, 2100, dtype="float32")[:, None]
y = (x[:, 0] > 0).astype("int32")
hidden = [k.layers.Dense(units, activation="relu") for units in (16, 32)]
model = k.Sequential([k.Input((1,)), *hidden, k.layers.Dense(2, activation="softmax")])
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(x, y, batch_size=10, epochs=1, verbose=0)
"""
KERAS, OFF, FIRST, SECOND = (
    "Keras on JAX",
    "epochal, without the cache",
    "epochal, first start",
    "epochal, second start",
)


def seconds(code: str, **variables: str) -> float:
    """Of a process that runs this."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, **variables}, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def measure(rounds: int) -> dict[str, list[float]]:
    """Seconds of every row in every round."""
    ours, theirs = FIT.format(library="epochal"), FIT.format(library="keras")
    found: dict[str, list[float]] = {name: [] for name in [*IMPORT, KERAS, OFF, FIRST, SECOND]}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            for name, code in IMPORT.items():
                found[name].append(seconds(code))
            found[KERAS].append(seconds(theirs, KERAS_BACKEND="jax"))
            found[OFF].append(seconds(ours, EPOCHAL_CACHE="off"))
            found[FIRST].append(seconds(ours, EPOCHAL_CACHE=folder))
            found[SECOND].append(seconds(ours, EPOCHAL_CACHE=folder))
        print({name: round(times[-1], 2) for name, times in found.items()}, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    found = measure(rounds)
    lines = ["| process | median seconds | to Keras in the same round (median) |", "|---|---:|---:|"]
    for name, times in found.items():
        ratio = statistics.median(a / b for a, b in zip(times, found[KERAS], strict=True))
        lines.append(f"| {name} | {statistics.median(times):.2f} | {ratio:.2f} |")
    extra = statistics.median(a - b for a, b in zip(found["import epochal"], found["import jax, flax"], strict=True))
    text = "\n".join([*lines, "", f"`import epochal` takes {extra:.2f} s more than `import jax, flax.nnx`."])
    print(text)
    RESULTS.write_text(
        "# From a fresh process to the end of the first fit\n\n"
        f"Written by `python benchmarks/startup.py`. {machine()}.\n"
        f"Median of {rounds} rounds; a `fit` is one epoch of 210 steps of an MLP 1-16-32-2.\n\n{text}\n"
    )


if __name__ == "__main__":
    main()

"""Predicted bytes of a training step against the least address space that it runs in; writes RESULTS-memory.md.

    python benchmarks/memory.py [--families mlp lstm] [--size 2048]

Every try is a process of its own: it builds and compiles the step, then sets RLIMIT_AS to what it has plus a share of
what the step is predicted to need beyond its arguments, and runs it. The least share that suffices is bisected.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "RESULTS-memory.md"
FAMILIES = ("mlp", "cnn", "batchnorm_cnn", "lstm", "transformer", "embedding")
STEPS, LEAST, MOST = 5, 0.85, 1.15  # of the bisection: to within 1 % of what is predicted
FAILED = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES)
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--share", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.share is not None:
        run(options.families[0], options.size, options.share)
        return
    rows = ["| step | predicted | least that it ran in | predicted / needed |", "|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as cache:
        for family in options.families:
            predicted, least = bisected(family, options.size, cache)
            rows.append(f"| {family} | {predicted / 1e6:.1f} MB | {least / 1e6:.1f} MB | {predicted / least:.3f} |")
            print(rows[-1], flush=True)
            text = "\n".join(rows)
            RESULTS.write_text(f"# Memory of a training step, batches of {options.size}, Adam\n\n{text}\n")


def bisected(family: str, size: int, cache: str) -> tuple[int, int]:
    """Bytes that the step is predicted to need, and the least in which it ran."""
    low, high = LEAST, MOST
    predicted = arguments = 0
    for _ in range(STEPS):
        share = (low + high) / 2
        command = [sys.executable, __file__, "--families", family, "--size", str(size), "--share", str(share)]
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache}
        ended = subprocess.run(command, capture_output=True, text=True, env=environment)
        if ended.returncode not in (0, FAILED):
            raise RuntimeError(ended.stderr)
        predicted, arguments = map(int, ended.stdout.split()[-2:])
        low, high = (low, share) if ended.returncode == 0 else (share, high)
    return predicted, arguments + int(high * (predicted - arguments))


def run(family: str, size: int, share: float) -> None:
    """Two steps in a limited address space; prints the predicted bytes and those of the arguments."""
    import jax
    import numpy as np

    import epochal as keras
    from epochal.memory import program_bytes
    from epochal.step import TrainRunner
    from epochal.training import Way

    rng = np.random.default_rng(0)
    model, inputs = network(keras, family)
    model.compile("adam", "sparse_categorical_crossentropy")
    x, y = inputs(rng, 2 * size), rng.integers(0, 10, 2 * size).astype(np.int32)
    model.fit(x[:64], y[:64], batch_size=32, verbose=0)  # threads have their stacks and heaps from here on
    training = model._training
    with contextlib.ExitStack() as closing:
        data, _ = training.fit_data((x, y, None), None, Way(size, True), 0, None, Way(), closing)
        steps = training.steps(data.first, training.recipe)
        feed = data.feed(steps)
        runner = TrainRunner(steps, feed.padded, 0, 0)
        ((block, _, _),) = feed.epoch(0)
        tally = runner.start(block)
        executable = runner.program.executable(*runner.arguments(block, tally))
        predicted = program_bytes(executable.function)
        arguments = executable.function.memory_analysis().argument_size_in_bytes
        print(predicted, arguments, flush=True)
        executable.proven = True  # without a copy of the state on the host
        jax.block_until_ready(block)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + int(share * (predicted - arguments))
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        try:
            jax.block_until_ready(runner.run(executable, block, tally, 0, 2))
        except (jax.errors.JaxRuntimeError, MemoryError):
            os._exit(FAILED)
        os._exit(0)


def network(keras: Any, family: str) -> tuple[Any, Callable[[Any, int], Any]]:
    """A model, and a function that draws n inputs for it."""
    layers = keras.layers
    end = layers.Dense(10, activation="softmax")
    shape: tuple[int, ...] = {"mlp": (784,), "cnn": (28, 28, 1), "batchnorm_cnn": (28, 28, 1)}.get(family, (32, 64))
    middle: list[Any] = []
    if family == "mlp":
        middle = [layers.Dense(1024, activation="relu"), layers.Dense(1024, activation="relu")]
    elif family == "cnn":
        for filters in (32, 64):
            middle += [layers.Conv2D(filters, 3, padding="same", activation="relu"), layers.MaxPooling2D()]
        middle += [layers.Flatten(), layers.Dense(128, activation="relu")]
    elif family == "batchnorm_cnn":
        for filters in (32, 64):
            middle += [layers.Conv2D(filters, 3, padding="same"), layers.BatchNormalization(), layers.ReLU()]
        middle += [layers.GlobalAveragePooling2D()]
    elif family == "lstm":
        middle = [layers.LSTM(128)]
    elif family == "embedding":
        middle = [layers.Embedding(20_000, 64), layers.GlobalAveragePooling1D(), layers.Dense(64, activation="relu")]
        return keras.Sequential([*middle, end]), lambda rng, n: rng.integers(0, 20_000, (n, 100)).astype("int32")
    else:
        inputs = h = keras.Input(shape)
        for _ in range(2):
            h = layers.LayerNormalization()(h + layers.MultiHeadAttention(4, 16)(h, h))
            h = layers.LayerNormalization()(h + layers.Dense(64)(layers.Dense(256, activation="gelu")(h)))
        return keras.Model(inputs, end(layers.GlobalAveragePooling1D()(h))), lambda rng, n: _normal(rng, n, shape)
    return keras.Sequential([*middle, end]), lambda rng, n: _normal(rng, n, shape)


def _normal(rng: Any, n: int, shape: tuple[int, ...]) -> Any:
    return rng.normal(size=(n, *shape)).astype("float32")


if __name__ == "__main__":
    main()

"""Milliseconds per call of the methods that take one batch, against a bare jit call and Keras/JAX, in one run.

    python benchmarks/calls.py [--rounds 7] [--calls 500] [--profile train_on_batch]

The model is the tiny one: MLP 1-16-32-2. All systems run the same number of calls in every round, one after the other;
the best round counts. `--profile` shows where a method's time goes instead.
"""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import argparse
import cProfile
import importlib.util
import itertools
import pstats
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

SIZES, BATCH = (1, 16, 32, 2), 10
Call = Callable[[], Any]


def data(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, SIZES[0])).astype(np.float32), rng.integers(0, SIZES[-1], n).astype(np.int32)


def keras_like(k: Any) -> dict[str, Call]:
    """The calls of epochal or Keras, by name."""
    hidden = [k.layers.Dense(size, activation="relu") for size in SIZES[1:-1]]
    model = k.Sequential([k.Input((SIZES[0],)), *hidden, k.layers.Dense(SIZES[-1], activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    (row, _), (x, y) = data(1), data(BATCH)
    model.fit(x, y, batch_size=BATCH, verbose=0)
    return {
        "predict_on_batch, 1 row": lambda: model.predict_on_batch(row),
        "predict, 1 row": lambda: model.predict(row, verbose=0),
        "train_on_batch, 10 rows": lambda: model.train_on_batch(x, y),
        "test_on_batch, 10 rows": lambda: model.test_on_batch(x, y),
        "evaluate, 10 rows": lambda: model.evaluate(x, y, verbose=0),
    }


def bare() -> dict[str, Call]:
    """The same work as one hand-written jit call each, from NumPy to NumPy."""
    keys = jax.random.split(jax.random.key(0), len(SIZES))
    shapes = list(itertools.pairwise(SIZES))
    params = [(jax.nn.initializers.glorot_uniform()(k, s), jnp.zeros(s[1])) for k, s in zip(keys, shapes, strict=False)]
    optimizer = optax.adam(1e-3, eps=1e-7)
    (row, _), (x, y) = data(1), data(BATCH)

    def logits_of(params: Any, x: Any) -> Any:
        for w, b in params[:-1]:
            x = jax.nn.relu(x @ w + b)
        return x @ params[-1][0] + params[-1][1]

    def loss_of(params: Any, x: Any, y: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(logits_of(params, x), y).mean()

    def step(state: Any, x: Any, y: Any) -> Any:
        loss, gradients = jax.value_and_grad(loss_of)(state[0], x, y)
        updates, opt = optimizer.update(gradients, state[1], state[0])
        return (optax.apply_updates(state[0], updates), opt), loss

    predict = jax.jit(lambda p, x: jax.nn.softmax(logits_of(p, x)))
    train, test = jax.jit(step, donate_argnums=0), jax.jit(loss_of)
    held = {"state": (jax.tree.map(jnp.copy, params), optimizer.init(params))}

    def train_on_batch() -> float:
        held["state"], loss = train(held["state"], x, y)
        return float(loss)

    def test_on_batch() -> float:
        return float(test(params, x, y))

    def predict_on_batch() -> np.ndarray:
        return np.asarray(predict(params, row))

    return {
        "predict_on_batch, 1 row": predict_on_batch,
        "predict, 1 row": predict_on_batch,
        "train_on_batch, 10 rows": train_on_batch,
        "test_on_batch, 10 rows": test_on_batch,
        "evaluate, 10 rows": test_on_batch,
    }


def systems() -> dict[str, dict[str, Call]]:
    import epochal

    found = {"epochal": keras_like(epochal), "bare jit": bare()}
    if importlib.util.find_spec("keras"):
        import keras

        found["Keras/JAX"] = keras_like(keras)
    return found


def measure(rounds: int, calls: int) -> dict[str, dict[str, float]]:
    """Best seconds per call, by method and system."""
    made = systems()
    best: dict[str, dict[str, float]] = {name: {} for name in made["epochal"]}
    for round_ in range(rounds + 1):  # the first one compiles
        for name in best:
            for system, functions in made.items():
                count = 3 if round_ == 0 else calls if system != "Keras/JAX" else max(calls // 10, 1)
                start = time.perf_counter()
                for _ in range(count):
                    functions[name]()
                seconds = (time.perf_counter() - start) / count
                if round_:
                    best[name][system] = min(best[name].get(system, seconds), seconds)
    return best


def table(best: dict[str, dict[str, float]]) -> str:
    """As Markdown: milliseconds per call, and the ratio to epochal's."""
    lines = ["| call | system | ms per call | times epochal |", "|---|---|---:|---:|"]
    for name, by_system in best.items():
        for system, seconds in by_system.items():
            lines.append(f"| {name} | {system} | {seconds * 1e3:.4f} | {seconds / by_system['epochal']:.2f} |")
    return "\n".join(lines)


def profile(wanted: str, calls: int) -> None:
    function = next(f for name, f in systems()["epochal"].items() if name.startswith(wanted))
    for _ in range(3):
        function()
    profiler = cProfile.Profile()
    profiler.enable()
    for _ in range(calls):
        function()
    profiler.disable()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=500)
    parser.add_argument("--profile", metavar="METHOD", help="predict_on_batch, predict,, train_on_batch, …")
    arguments = parser.parse_args()
    if arguments.profile:
        profile(arguments.profile, arguments.calls)
    else:
        print(table(measure(arguments.rounds, arguments.calls)))


if __name__ == "__main__":
    main()

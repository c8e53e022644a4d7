"""Seconds per training step of epochal and its peers on the same work, interleaved in one run; writes RESULTS.md.

    python benchmarks/peers.py [--work tiny mlp_32 mlp_128] [--rounds 5]

A system is timed over whole `fit` calls of several epochs, after a warm-up call that compiles; the best of the rounds
counts. Absolute times mean little on another machine; the ratios within one run do. A peer that is not installed is
named in the table as such.
"""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import argparse
import importlib.util
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

RESULTS = Path(__file__).parent / "RESULTS.md"


@dataclass(frozen=True)
class Work:
    """An MLP on random data: layer sizes from input to output, n examples, batch size m, epochs per timed call."""

    sizes: tuple[int, ...]
    n: int
    m: int
    epochs: int

    @property
    def steps(self) -> int:
        return -(-self.n // self.m) * self.epochs

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(0)
        x = rng.normal(size=(self.n, self.sizes[0])).astype(np.float32)
        return x, rng.integers(0, self.sizes[-1], self.n).astype(np.int32)


WORKS = {
    "tiny": Work((1, 16, 32, 2), 2100, 10, 20),
    "mlp_32": Work((784, 512, 512, 10), 4096, 32, 3),
    "mlp_128": Work((784, 512, 512, 10), 4096, 128, 4),
}

Run = Callable[[], None]


def epochal_system(work: Work) -> Run:
    import epochal

    return _keras_like(epochal, work, {})


def keras_jax(work: Work, steps_per_execution: int = 1) -> Run:
    import keras

    assert keras.backend.backend() == "jax"
    return _keras_like(keras, work, {"steps_per_execution": steps_per_execution})


def keras_jax_many(work: Work) -> Run:
    return keras_jax(work, 32)


def _keras_like(k, work: Work, compile_arguments: dict) -> Run:
    x, y = work.data()
    hidden = [k.layers.Dense(s, activation="relu") for s in work.sizes[1:-1]]
    model = k.Sequential([k.Input((work.sizes[0],)), *hidden, k.layers.Dense(work.sizes[-1], activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], **compile_arguments)
    return lambda: model.fit(x, y, batch_size=work.m, epochs=work.epochs, verbose=0) and None


def bare_jax(work: Work) -> Run:
    """The hand-written limit: one compiled loop over an epoch's steps, loss and accuracy summed on the device."""
    x, y = (jnp.asarray(a) for a in work.data())
    keys = jax.random.split(jax.random.key(0), len(work.sizes))
    shapes = list(zip(work.sizes[:-1], work.sizes[1:], strict=True))
    params = [(jax.nn.initializers.glorot_uniform()(k, s), jnp.zeros(s[1])) for k, s in zip(keys, shapes, strict=False)]
    optimizer = optax.adam(1e-3, eps=1e-7)

    def logits_of(params, x):
        for w, b in params[:-1]:
            x = jax.nn.relu(x @ w + b)
        return x @ params[-1][0] + params[-1][1]

    def loss_of(params, x, y, mask):
        logits = logits_of(params, x)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y) * mask
        return losses.sum() / mask.sum(), (losses.sum(), ((logits.argmax(-1) == y) * mask).sum())

    def run(carry, order, sizes):
        def body(i, carry):
            params, opt, sums = carry
            rows, mask = order[i], (jnp.arange(work.m) < sizes[i]).astype(jnp.float32)
            gradient, (loss, hits) = jax.grad(loss_of, has_aux=True)(params, x[rows], y[rows], mask)
            updates, opt = optimizer.update(gradient, opt, params)
            return optax.apply_updates(params, updates), opt, sums + jnp.stack([loss, hits])

        return jax.lax.fori_loop(0, order.shape[0], body, carry)

    compiled = jax.jit(run, donate_argnums=0)
    steps = -(-work.n // work.m)
    rng = np.random.default_rng(0)
    held = {"state": (params, optimizer.init(params))}

    def fit() -> None:
        for _ in range(work.epochs):
            order = np.resize(rng.permutation(work.n), steps * work.m).reshape(steps, work.m)
            sizes = np.full(steps, work.m)
            sizes[-1] = work.n - (steps - 1) * work.m
            params, opt, sums = compiled((*held["state"], jnp.zeros(2)), jnp.asarray(order), jnp.asarray(sizes))
            held["state"] = (params, opt)
            np.asarray(sums)

    return fit


SYSTEMS: dict[str, tuple[str, Callable[[Work], Run]]] = {
    "epochal": ("epochal", epochal_system),
    "bare JAX loop": ("jax", bare_jax),
    "Keras/JAX, 1 step per execution": ("keras", keras_jax),
    "Keras/JAX, 32 steps per execution": ("keras", keras_jax_many),
}


def measure(work: Work, rounds: int) -> dict[str, float | None]:
    """Best seconds per step of every system; None for a peer that is not installed."""
    runs = {
        name: make(work) if importlib.util.find_spec(package) else None for name, (package, make) in SYSTEMS.items()
    }
    for run in runs.values():
        if run is not None:
            run()  # compiles
    best: dict[str, float | None] = dict.fromkeys(runs)
    for _ in range(rounds):
        for name, run in runs.items():
            if run is None:
                continue
            start = time.perf_counter()
            run()
            seconds = (time.perf_counter() - start) / work.steps
            best[name] = min(best[name] or seconds, seconds)
    return best


def table(results: dict[str, dict[str, float | None]]) -> str:
    """The measurements as Markdown: microseconds per step, and the ratio to epochal."""
    lines = ["| work | system | µs per step | times epochal |", "|---|---|---:|---:|"]
    for name, best in results.items():
        ours = best["epochal"]
        assert ours is not None
        for system, seconds in best.items():
            cells = "not installed | " if seconds is None else f"{seconds * 1e6:.1f} | {seconds / ours:.2f}"
            lines.append(f"| {name} | {system} | {cells} |")
    return "\n".join(lines)


def machine() -> str:
    """Where and with what this was measured."""
    packages = [p for p in ("jax", "flax", "optax", "keras", "numpy") if importlib.util.find_spec(p)]
    versions = ", ".join(f"{p} {version(p)}" for p in packages)
    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, {versions}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", nargs="+", choices=list(WORKS), default=list(WORKS))
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    results = {name: measure(WORKS[name], arguments.rounds) for name in arguments.work}
    text = table(results)
    print(text)
    works = "\n".join(
        f"- `{name}`: MLP {'-'.join(map(str, w.sizes))}, n = {w.n}, batch {w.m}, Adam, shuffled, accuracy reported"
        for name, w in WORKS.items()
    )
    RESULTS.write_text(
        f"# Seconds per training step\n\nWritten by `python benchmarks/peers.py`. {machine()}.\n"
        f"Best of {arguments.rounds} interleaved rounds of whole `fit` calls after a warm-up; read the ratios.\n\n"
        f"{text}\n\n{works}\n"
    )


if __name__ == "__main__":
    main()

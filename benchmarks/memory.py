"""What a training step needs in memory, predicted and true, under RLIMIT_AS; writes RESULTS-memory.md.

    python benchmarks/memory.py [--families mlp lstm] [--tables needed limits]

Every try is a process of its own that has trained a little before its address space is limited, so that threads have
their stacks and heaps and the programs' code is loaded.

needed: the step is built and compiled, then RLIMIT_AS is set to what the process has plus a share of what the step is
predicted to need beyond its arguments, and it runs. The least share that suffices is bisected.

limits: RLIMIT_AS is set to what the process has plus 600 MB. The planner finds `max_batch_size` (steps are compiled,
not timed). A process of its own with as much trains with it, by `fit(micro_batch_size=None)`, so that nothing is cut.
1.3 times as much is to be refused there before it runs; and to fail in a third one, where the prediction is set aside
(EPOCHAL_MEMORY_LIMIT=1TB) and the reserve is not there: it has 0.9 times the space (`memory.SHARE`).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "RESULTS-memory.md"
FAMILIES = ("mlp", "cnn", "batchnorm_cnn", "lstm", "transformer", "embedding")
STEPS, LEAST, MOST = 6, 0.7, 1.3  # of the bisection: to within 1 % of what is predicted
SIZES = {"mlp": 2048, "embedding": 4096}  # of the batches that are bisected; 1024 for the others
LIMIT = 600 * 10**6
# Examples for the second table: a little more than 1.3 times the batch that fits.
ROWS = {"mlp": 36_000, "cnn": 4000, "batchnorm_cnn": 800, "lstm": 2600, "transformer": 1800, "embedding": 34_000}
FAILED = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES)
    parser.add_argument("--tables", nargs="+", choices=("needed", "limits"), default=("needed", "limits"))
    options = parser.parse_args()
    tables: list[str] = []
    with tempfile.TemporaryDirectory() as cache:
        if "needed" in options.tables:
            tables.append(needed_table(options.families, cache))
        if "limits" in options.tables:
            tables.append(limits_table(options.families, cache))
    RESULTS.write_text("# Memory of a training step, Adam\n\n" + "\n".join(tables))


def needed_table(families: Any, cache: str) -> str:
    """Predicted bytes against the least that a step ran in."""
    rows = ["| step | batch | predicted | least that it ran in | predicted / needed |", "|---|---|---|---|---|"]
    for family in families:
        predicted, least = bisected(family, cache)
        sizes = f"{predicted / 1e6:.1f} MB | {least / 1e6:.1f} MB | {predicted / least:.3f}"
        rows.append(f"| {family} | {SIZES.get(family, 1024)} | {sizes} |")
        print(rows[-1], flush=True)
    text = """\
Predicted bytes (`memory.program_bytes`) against the least address space beyond what the process has that the step
runs in, bisected to within 1 %. Smaller steps may need less, since the process holds some free memory (an embedding
with batches of 1024: 0.83 of what is predicted).
"""
    return "\n".join([text, *rows, ""])


def limits_table(families: Any, cache: str) -> str:
    """Whether the largest batch that is said to fit trains, and 1.3 times as much does not."""
    rows = ["| model | max_batch_size | trains | 1.3 times | is refused | fails |", "|---|---|---|---|---|---|"]
    for family in families:
        found = limits(family, cache)
        words = ["yes" if found[name] else "NO" for name in ("trains", "refused", "fails")]
        rows.append(f"| {family} | {found['most']} | {words[0]} | {found['more']} | {words[1]} | {words[2]} |")
        print(rows[-1], flush=True)
    text = f"""\
`max_batch_size` under {LIMIT // 10**6} MB of address space beyond what the process has, and 1.3 times as much, not
cut: whether the former trains; whether the latter is refused; and whether it fails where it is tried all the same, in
0.9 times the space.

What is said to fit has slack on purpose: the planner keeps a tenth (`memory.SHARE`), predicts up to 15 % too much,
and what compiling took is not free. With all of the space 1.3 times its answer still ran in an earlier run of all
six, so for a user "does not fit" means: fit refuses it.
"""
    return "\n".join([text, *rows, ""])


def limits(family: str, cache: str, limit: int = LIMIT) -> dict[str, Any]:
    """`most`: the planner's `max_batch_size`, and whether it `trains`; `more`: 1.3 times that, whether it is `refused`
    before it runs, and whether it `fails` where it is tried all the same."""
    most = int(child(cache, "plan", family, limit)[1][0])
    more = -(-13 * most // 10)
    refused, told = child(cache, "fit", family, limit, more, 0)
    return {
        "most": most,
        "trains": child(cache, "fit", family, limit, most, 0)[0] == 0,
        "more": more,
        "refused": refused == FAILED and told == ["refused"],
        "fails": child(cache, "fit", family, int(0.9 * limit), more, 1)[0] == FAILED,
    }


def child(cache: str, *arguments: Any) -> tuple[int, list[str]]:
    """Exit code and printed words of this script as a process of its own."""
    command = [sys.executable, __file__, "--child", *map(str, arguments)]
    environment = {**os.environ, "EPOCHAL_CACHE": cache}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    print(*arguments, "→", ended.returncode, *ended.stderr.split("\n")[-2:-1], file=sys.stderr)
    if ended.returncode == -signal.SIGABRT and "std::bad_alloc" in ended.stderr:  # a small block found no room
        return FAILED, ended.stdout.split()
    if ended.returncode not in (0, FAILED):
        raise RuntimeError(f"{arguments}: {ended.returncode}\n{ended.stderr}")
    return ended.returncode, ended.stdout.split()


def warmed(family: str, n: int) -> tuple[Any, Any, Any]:
    """A model that has trained a little, and n examples for it."""
    import numpy as np

    import epochal as keras

    rng = np.random.default_rng(0)
    model, inputs = network(keras, family)
    model.compile("adam", "sparse_categorical_crossentropy", micro_batch_size=None)
    x, y = inputs(rng, n), rng.integers(0, 10, n).astype(np.int32)
    model.fit(x[:64], y[:64], batch_size=32, verbose=0)
    return model, x, y


def limit_address_space(more: int) -> None:
    """Leaves the process so many bytes more than it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, resource.RLIM_INFINITY))


def run_plan(family: str, limit: int) -> None:
    """Prints the largest batch that is said to fit into so many bytes more than the process has."""
    from epochal import sources
    from epochal import trial as trials
    from epochal.batch_plan import max_batch_size

    model, x, y = warmed(family, ROWS[family])
    limit_address_space(limit)
    trial = trials.Trial(model._training, sources.as_examples(x, y, method="plan"), None, 0, time.perf_counter)
    trial._time = lambda sizes, seconds: None
    trial._seconds = {1: 1.0}  # this is about memory
    trial.time_sizes(None, None, 300, None)
    most = max_batch_size(trial.measurements(None))
    if 1.3 * most > len(x):
        raise RuntimeError(f"{most} of {len(x)} examples fit: take more of them.")
    print(most)


def run_fit(family: str, limit: int, batch_size: int, aside: int) -> None:
    """One step with a batch size, in so many bytes more than the process has; with the prediction set aside or not."""
    model, x, y = warmed(family, ROWS[family])
    limit_address_space(limit)
    if aside:
        os.environ["EPOCHAL_MEMORY_LIMIT"] = "1TB"
    try:
        model.fit(x, y, batch_size=batch_size, steps_per_epoch=1, verbose=0)
    except MemoryError as error:
        print("refused" if "forbids to cut it. A batch of" in str(error) else "failed", flush=True)
        os._exit(FAILED)
    os._exit(0)


def bisected(family: str, cache: str) -> tuple[int, int]:
    """Bytes that the step is predicted to need, and the least in which it ran."""
    low, high = LEAST, MOST
    predicted = arguments = 0
    for _ in range(STEPS):
        share = (low + high) / 2
        code, words = child(cache, "needed", family, share)
        predicted, arguments = map(int, words)
        low, high = (low, share) if code == 0 else (share, high)
    return predicted, arguments + int(high * (predicted - arguments))


def run_step(family: str, share: float) -> None:
    """Two steps in a limited address space; prints the predicted bytes and those of the arguments."""
    import jax

    from epochal.memory import program_bytes
    from epochal.runners import TrainRunner
    from epochal.training import Way

    size = SIZES.get(family, 1024)
    model, x, y = warmed(family, 2 * size)
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
        executable.keeps = False  # as fit has it near the limit
        jax.block_until_ready(block)
        limit_address_space(int(share * (predicted - arguments)))
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
    if sys.argv[1:3] == ["--child", "needed"]:
        run_step(sys.argv[3], float(sys.argv[4]))
    elif sys.argv[1:3] == ["--child", "plan"]:
        run_plan(sys.argv[3], int(sys.argv[4]))
    elif sys.argv[1:3] == ["--child", "fit"]:
        run_fit(sys.argv[3], *map(int, sys.argv[4:]))
    else:
        main()

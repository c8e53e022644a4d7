"""What a training step needs in memory, predicted and true, under RLIMIT_AS; writes RESULTS-memory.md.

    python benchmarks/memory.py [--families mlp lstm] [--tables needed limits]

Every try is a process of its own that has trained a little before its address space is limited, so that threads have
their stacks and heaps and the programs' code is loaded.

needed: the step is built and compiled, then RLIMIT_AS is set to what the process has plus a share of what the step is
predicted to need beyond its arguments, and it runs. The least share that suffices is bisected.

limits: RLIMIT_AS is set to what the process has plus 600 MB. The planner finds `max_batch_size` (steps are compiled,
not timed), and the process trains with it, by `fit(micro_batch_size=None)`, so that nothing is cut. Then 1.3 times as
much: it is to be refused before it runs; and to run out of memory where it is tried all the same, with the prediction
set aside (EPOCHAL_MEMORY_LIMIT=1TB). Both batches are also tried in processes of their own, which have as much space
and have not planned.

A row that is not run again stays in RESULTS-memory.md, and so does what is written there after the tables.
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
HEADS = {
    "needed": "| step | batch | predicted | least that it ran in | predicted / needed |",
    "limits": "| model | max_batch_size | trains | and alone | 1.3 times | is refused | fails | alone it |",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES)
    parser.add_argument("--tables", nargs="+", choices=("needed", "limits"), default=("needed", "limits"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        for table in options.tables:
            for family in options.families:
                row = {"needed": needed_row, "limits": limits_row}[table](family, cache)
                print(row, flush=True)
                write_row(HEADS[table], family, row)


def write_row(head: str, family: str, row: str) -> None:
    """Puts a family's row into the table with this head, in place of the one that it had."""
    lines = RESULTS.read_text().split("\n")
    start = lines.index(head) + 2
    end = next(i for i in range(start, len(lines)) if not lines[i].startswith("|"))
    rows = {line.split(" | ")[0].strip("| "): line for line in lines[start:end]} | {family: row}
    lines[start:end] = [rows[name] for name in FAMILIES if name in rows]
    RESULTS.write_text("\n".join(lines))


def needed_row(family: str, cache: str) -> str:
    """Predicted bytes against the least that a step ran in."""
    predicted, least = bisected(family, cache)
    sizes = f"{predicted / 1e6:.1f} MB | {least / 1e6:.1f} MB | {predicted / least:.3f}"
    return f"| {family} | {SIZES.get(family, 1024)} | {sizes} |"


def limits_row(family: str, cache: str) -> str:
    """Whether the largest batch that is said to fit trains, and 1.3 times as much does not."""
    found = limits(family, cache)
    words = ["yes" if found[name] else "NO" for name in ("trains", "trains alone", "refused", "fails")]
    sizes = f"{found['most']} | {words[0]} | {words[1]} | {found['more']} | {words[2]} | {words[3]}"
    return f"| {family} | {sizes} | {found['alone']} |"


def limits(family: str, cache: str, limit: int = LIMIT) -> dict[str, Any]:
    """`most`: the planner's `max_batch_size`; whether it `trains` in the process that planned, and `trains alone`, in
    one of its own; `more`: 1.3 times that, whether it is `refused` before it runs, whether it `fails` where it is tried
    all the same, and what it does `alone`: it is refused, runs out of memory, or trains."""
    code, words = child(cache, "limits", family, limit)
    most, more = int(words[0]), int(words[1])
    return {
        "most": most,
        "more": more,
        "trains": words[2:3] == ["trains"],
        "refused": words[3:4] == ["refused"],
        "fails": words[4:5] == ["fails"] or (code == FAILED and len(words) == 4),
        "trains alone": child(cache, "fit", family, limit, most)[1] == ["trains"],
        "alone": " ".join(child(cache, "fit", family, limit, more)[1]) or "fails",
    }


def child(cache: str, *arguments: Any) -> tuple[int, list[str]]:
    """Exit code and printed words of this script as a process of its own."""
    command = [sys.executable, __file__, "--child", *map(str, arguments)]
    environment = {**os.environ, "EPOCHAL_CACHE": cache}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    words = ended.stdout.split()
    print(*arguments, "→", ended.returncode, *words, *ended.stderr.split("\n")[-2:-1], file=sys.stderr)
    if ended.returncode == -signal.SIGABRT and "std::bad_alloc" in ended.stderr:  # a small block found no room
        return FAILED, words
    if ended.returncode not in (0, FAILED):
        raise RuntimeError(f"{arguments}: {ended.returncode}\n{ended.stderr}")
    return ended.returncode, words


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


def planned(model: Any, x: Any, y: Any) -> int:
    """The largest batch that is said to fit."""

    from epochal.models.input_data import Traversal, prepare
    from epochal.plans import step_times
    from epochal.plans.choice import max_batch_size
    from epochal.plans.measurements import Measurements
    from epochal.plans.trial_model import Prepared, Stopwatch, TrialModel

    step_times.SIZES = (32, 128, 512, 1024)  # about as many as a plan of a minute compiles
    training = model._training
    watch, compiled = Stopwatch(time.perf_counter), training.ready_to("plan")
    with contextlib.ExitStack() as closing:
        first = prepare(training, "plan", (x, y, None), Traversal(), closing).first
    steps = training.steps(first, compiled)
    training.start_optimizer(steps.parts)
    times = step_times.StepTimes(
        TrialModel(Prepared(steps, compiled.optimizer, first, first.n), 0), watch, memory_limit=None
    )
    times.compile(None, 3600, None)
    most = max_batch_size(Measurements(first.n, {}, 0.0, times.bytes, times.limit, None))  # this is about memory
    if 1.3 * most > len(x):
        raise RuntimeError(f"{most} of {len(x)} examples fit: take more of them.")
    return most


def tried(model: Any, x: Any, y: Any, batch_size: int) -> str:
    """What a fit of an epoch does: it "trains", is "refused", or "fails" for want of memory."""
    try:
        model.fit(x, y, batch_size=batch_size, verbose=0)
    except MemoryError as error:
        return "refused" if "forbids to cut it. A batch of" in str(error) else "fails"
    return "trains"


def run_limits(family: str, limit: int) -> None:
    """Plans in so many bytes more than the process has, and tries what is said to fit and 1.3 times as much."""
    model, x, y = warmed(family, ROWS[family])
    limit_address_space(limit)
    most = planned(model, x, y)
    more = -(-13 * most // 10)
    print(most, more, flush=True)
    for batch_size in (most, more):
        print(tried(model, x, y, batch_size), flush=True)
        time.sleep(2)  # what a run has worked in goes back to the kernel a moment after its end
    os.environ["EPOCHAL_MEMORY_LIMIT"] = "1TB"
    print(tried(model, x, y, more), flush=True)
    os._exit(0)


def run_fit(family: str, limit: int, batch_size: int) -> None:
    """One epoch with a batch size, in so many bytes more than the process has."""
    model, x, y = warmed(family, ROWS[family])
    limit_address_space(limit)
    print(tried(model, x, y, batch_size), flush=True)
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

    from epochal.engine.runners import TrainRunner
    from epochal.models.input_data import Traversal, prepare
    from epochal.runtime.memory import program_bytes

    size = SIZES.get(family, 1024)
    model, x, y = warmed(family, 2 * size)
    training = model._training
    with contextlib.ExitStack() as closing:
        data = prepare(training, "fit", (x, y, None), Traversal(shuffle=True), closing)
        steps = training.steps(data.first, training.ready_to("fit"))
        feed = data.in_batches(size).feed(steps)
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
    elif sys.argv[1:3] == ["--child", "limits"]:
        run_limits(sys.argv[3], int(sys.argv[4]))
    elif sys.argv[1:3] == ["--child", "fit"]:
        run_fit(sys.argv[3], *map(int, sys.argv[4:]))
    else:
        main()

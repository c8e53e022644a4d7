"""Counts what a reader meets between `fit` and the compiled step: frames, functions, lines and calls of ours.

    python benchmarks/frames.py [--json]

Counted is a warm `fit` of one Dense layer on 640 rows in batches of 32, one step per execution: all programs are
compiled, and the model has not seen its data nor its callback, nor was its last fit of this size. The rules:

- ours: code whose file is in epochal's folder (that of whichever epochal is imported, so the path decides whose
  figures these are). JAX's and this file's frames do not count, nor do methods that dataclasses generate.
- frames: ours on the stack when `jax.stages.Compiled.__call__` is entered, generators and lambdas among them; the
  most of all executions.
- functions: different functions with a name that are entered; apart from them also with lambdas, comprehensions and
  generator expressions.
- lines: source lines of the functions with a name that hold code (those that the line tables of the compiled functions
  list, the `def` line among them). Docstrings, comments and blank lines hold none; functions inside functions count
  for themselves.
- calls: entries of our functions of any kind per execution: an epoch of 40 steps less one of 20, by 20. A generator is
  entered whenever it is resumed. Counted with nobody who watches, and with a callback that observes every batch.
- lines run: line by line, per execution as calls are, and what is left for the rest of a fit.
- packages: different names directly below `epochal` that the functions belong to, files that lie there among them.

Whether an execution has ended when it is looked at is a matter of time, so everything is counted several times: the
union of functions, the median of calls and lines run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import jax
import numpy as np

import epochal

HERE = str(Path(epochal.__file__).parent)
ENTRY, COMPILING = jax.stages.Compiled.__call__.__code__, jax.stages.Lowered.compile.__code__
BATCH, STEPS, REPEATS = 32, 20, 5


@dataclass
class Count:
    """What was seen while it watched.

    Attributes:
        entered: our functions -> how often they were entered.
        modules: our functions -> the module that they are in.
        stacks: for each execution our frames, outermost first.
        compiled: programs that were compiled.
    """

    entered: Counter[CodeType] = field(default_factory=Counter)
    modules: dict[CodeType, str] = field(default_factory=dict)
    stacks: list[list[str]] = field(default_factory=list)
    compiled: int = 0

    def see(self, frame: FrameType, event: str, _: Any) -> None:
        """Takes one event of `sys.setprofile`."""
        if event != "call":
            return
        code = frame.f_code
        if is_ours(code):
            self.entered[code] += 1
            self.modules[code] = frame.f_globals["__name__"]
        elif code is ENTRY:
            self.stacks.append([name_of(f.f_code) for f in reversed(list(outward(frame))) if is_ours(f.f_code)])
        elif code is COMPILING:
            self.compiled += 1

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Counts what happens inside, in this thread."""
        sys.setprofile(self.see)
        try:
            yield
        finally:
            sys.setprofile(None)


def is_ours(code: CodeType) -> bool:
    return code.co_filename.startswith(HERE)


def name_of(code: CodeType) -> str:
    return f"{Path(code.co_filename).relative_to(HERE)}: {code.co_qualname}"


def outward(frame: FrameType | None) -> Iterator[FrameType]:
    """A frame and those that called it."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def has_name(code: CodeType) -> bool:
    """Whether it is no lambda, comprehension, generator expression or module."""
    return not code.co_name.startswith("<")


def lines_of(code: CodeType) -> int:
    """Source lines of a function that hold code."""
    return len({line for _, _, line in code.co_lines() if line})


def compiled_model() -> epochal.Model:
    """One layer, whose programs are small: the way to them is what counts."""
    model = epochal.Sequential([epochal.layers.Dense(2, input_shape=(8,))])
    model.compile("adam", epochal.losses.SparseCategoricalCrossentropy(from_logits=True), steps_per_execution=1)
    return model


def data(steps: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (n, 8) and their classes (n,) for so many batches."""
    random, n = np.random.default_rng(seed), steps * BATCH
    return random.normal(size=(n, 8)).astype(np.float32), random.integers(0, 2, n).astype(np.int32)


def of_epochs() -> epochal.callbacks.Callback:
    """A callback of a class that no model has met, for epochs."""

    class Observer(epochal.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            pass

    return Observer()


def of_batches() -> epochal.callbacks.Callback:
    """A callback of a class that no model has met, for batches."""

    class Observer(epochal.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            pass

    return Observer()


def warm_fit(seed: int) -> Count:
    """Counts one warm fit."""
    model, count = compiled_model(), Count()
    for steps in (STEPS, STEPS // 2):
        model.fit(*data(steps, 0), batch_size=BATCH, verbose=0)
    x, y = data(STEPS, seed)
    callback = of_epochs()
    with count.watching():
        model.fit(x, y, batch_size=BATCH, epochs=2, verbose=0, callbacks=[callback])
    if count.compiled or len(count.stacks) != 2 * STEPS:
        raise RuntimeError(
            f"Expected a fit that enters jax.stages.Compiled.__call__ {2 * STEPS} times and compiles nothing, got "
            f"{len(count.stacks)} times and {count.compiled} programs compiled."
        )
    return count


def per_execution(counted: Callable[[Callable[[], Any]], int], callbacks: list[Any]) -> tuple[float, float]:
    """How much an execution takes, and how much is left for the rest of a fit of one epoch.

    Args:
        counted: runs what it is given, and counts in it.
        callbacks: of the fits.
    """
    model, found = compiled_model(), []
    for steps in (2 * STEPS, STEPS):
        model.fit(*data(steps, 0), batch_size=BATCH, verbose=0)
    for steps in (STEPS, 2 * STEPS):
        x, y = data(steps, steps)
        found.append(counted(lambda x=x, y=y: model.fit(x, y, batch_size=BATCH, verbose=0, callbacks=callbacks)))
    each = (found[1] - found[0]) / STEPS
    return each, found[0] - STEPS * each


def calls_in(run: Callable[[], Any]) -> int:
    """How often functions of ours are entered."""
    count = Count()
    with count.watching():
        run()
    return count.entered.total()


def lines_run_in(run: Callable[[], Any]) -> int:
    """How many lines of ours run, one by one."""
    lines = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal lines
        lines += event == "line"
        return trace if is_ours(frame.f_code) else None

    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(None)
    return lines


def measure() -> dict[str, Any]:
    """All figures."""
    counts = [warm_fit(seed) for seed in range(1, REPEATS + 1)]
    modules = {code: module for count in counts for code, module in count.modules.items()}
    named = {code for code in modules if has_name(code)}
    stack = max((stack for count in counts for stack in count.stacks), key=len)
    calls = [per_execution(calls_in, [])[0] for _ in range(REPEATS)]
    watched = [per_execution(calls_in, [of_batches()])[0] for _ in range(REPEATS)]
    lines = [per_execution(lines_run_in, []) for _ in range(REPEATS)]
    # a name directly below `epochal`, or `epochal` itself for what its own file holds
    packages = sorted({[*module.split("."), ""][1] or "epochal" for module in modules.values()})
    return {
        "frames": len(stack),
        "functions": len(named),
        "functions, unnamed ones too": len(modules),
        "lines": sum(map(lines_of, named)),
        "calls per execution": statistics.median(calls),
        "calls per execution, each batch observed": statistics.median(watched),
        "lines run per execution": statistics.median(each for each, _ in lines),
        "lines run besides": statistics.median(rest for _, rest in lines),
        "packages": len(packages),
        "files": len({code.co_filename for code in modules}),
        "stack": stack,
        "package names": packages,
        "entered": sorted([name_of(code), code.co_firstlineno, lines_of(code)] for code in modules),
        "source": HERE,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="everything, with the list of functions, as JSON")
    as_json = parser.parse_args().json
    found = measure()
    if as_json:
        print(json.dumps(found, indent=1))
        return
    print("| a warm fit | ours |\n|---|---:|")
    for name, value in found.items():
        if isinstance(value, int | float):
            print(f"| {name} | {value:,.0f} |")
    print(f"\npackages: {', '.join(found['package names'])}\nframes:")
    for frame in found["stack"]:
        print(f"  {frame}")


if __name__ == "__main__":
    main()

"""Times the formulations of single convolutions inside a loop, for the rule by which `epochal` chooses one.

    python benchmarks/convolution_forms.py [--only 32,32 "t 8" …] [--rounds 9] [--type float32]

A case is one line of `CASES`: what ("c" a convolution, "f" one that is a network's first, so without a gradient of its
input, "t" a transposed one, "g" one with groups), rows, space, channels, filters, window, stride, dilation, groups;
padding is "same". Each formulation runs forward and both gradients in a loop on the device, in turns with the others;
the least time counts. Written are ratios to the formulation that the rule takes: below 1 it missed the best.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

sys.path.insert(0, str(Path(__file__).parent.parent / "src"))

from epochal.ops.kernels import convolution

# Shapes of ResNet-14, a U-Net and single ones, on which the first rule was found, and others (after the empty line).
CASES = """
c 32 32,32 16 16 3,3 1
c 32 16,16 32 32 3,3 1
c 32 8,8 64 64 3,3 1
f 32 32,32 3 16 3,3 1
c 32 32,32 16 32 3,3 2
c 32 16,16 32 64 3,3 2
f 16 48,48 1 16 3,3 1
c 16 24,24 16 32 3,3 1
c 16 12,12 32 64 3,3 1
c 16 24,24 96 32 3,3 1
c 16 48,48 48 16 3,3 1
c 32 28,28 16 32 5,5 1
c 32 1000 32 64 3 1
c 32 1000 32 64 9 1
c 8 64,64 64 64 3,3 1
c 1 32,32 16 16 3,3 1

c 8 32,32 16 16 3,3 1
c 128 32,32 16 16 3,3 1
c 8 24,24 16 16 3,3 1
c 8 16,16 32 32 3,3 1
c 8 8,8 64 64 3,3 1
c 128 8,8 64 64 3,3 1
c 1 32,32 64 64 3,3 1
f 128 32,32 3 16 3,3 1
f 128 28,28 1 32 3,3 1
f 32 64,64 3 32 3,3 1
f 128 48,48 1 16 3,3 1
f 128 32,32 3 64 5,5 1
f 8 112,112 3 64 7,7 2
f 8 112,112 3 32 3,3 2
c 32 28,28 1 32 5,5 1
c 32 14,14 32 64 5,5 1
c 8 14,14 32 64 5,5 1
c 1 16,16 64 128 3,3 2
c 8 16,16 64 128 3,3 2
c 32 16,16 64 128 3,3 2
c 128 16,16 32 64 3,3 2
c 32 32,32 64 64 3,3 2
c 32 8,8 256 256 3,3 2
c 32 64,64 16 32 5,5 2
c 32 1000 16 32 9 2
c 32 1000 8 32 3 1
c 1 1000 32 64 9 1
c 8 1000 32 64 9 1
c 32 1000 32 64 3 1 4
c 16 32,32 32 32 3,3 1 2
c 2 16,16,16 16 16 3,3,3 1
c 1 16,16,16 32 32 3,3,3 1
c 4 16,16,16 8 16 3,3,3 2
t 32 7,7 64 32 3,3 2
t 32 14,14 32 16 3,3 2
t 32 8,8 64 64 4,4 2
t 32 8,8 64 32 2,2 2
t 32 14,14 32 32 3,3 1
t 1 14,14 32 16 3,3 2
t 32 250 32 16 5 2
t 1 250 32 16 5 2
t 2 8,8,8 32 16 2,2,2 2
g 32 16,16 64 64 3,3 1 1 2
g 32 16,16 64 64 3,3 1 1 16
g 32 16,16 64 64 3,3 2 1 4
g 1 16,16 64 64 3,3 1 1 4
g 32 500 32 64 5 1 1 4
"""
TRIED = {
    "c": ("canonical", "patches", "planes"),
    "f": ("canonical", "patches"),
    "t": ("canonical", "patches", "planes"),
    "g": ("split", "patches"),
}


@dataclass(frozen=True)
class Case:
    """A convolution, see above."""

    kind: str
    rows: int
    space: tuple[int, ...]
    channels: int
    filters: int
    window: tuple[int, ...]
    stride: int
    dilation: int = 1
    groups: int = 1

    @classmethod
    def of(cls, line: str) -> Case:
        """A line of `CASES`."""
        kind, rows, space, channels, filters, window, *rest = line.split()
        axes = [tuple(map(int, sizes.split(","))) for sizes in (space, window)]
        return cls(kind, int(rows), axes[0], int(channels), int(filters), axes[1], *map(int, rest))

    def arrays(self, dtype: str) -> tuple[Array, Array]:
        """Inputs and kernel."""
        part = self.channels // self.groups
        ends = (self.filters, part) if self.kind == "t" else (part, self.filters)
        key = jax.random.key(0)
        x = jax.random.normal(key, (self.rows, *self.space, self.channels), jnp.float32)
        kernel = 0.05 * jax.random.normal(key, (*self.window, *ends), jnp.float32)
        return x.astype(dtype), kernel.astype(dtype)

    def run(self, x: Array, kernel: Array) -> Array:
        """The convolution as epochal does it."""
        strides, dilation = (self.stride,) * len(self.space), (self.dilation,) * len(self.space)
        if self.kind == "t":
            return convolution.convolve_transposed(x, kernel, strides, "same", dilation)
        return convolution.convolve(x, kernel, strides, "same", dilation, self.groups)

    def patches(self) -> int:
        """Bytes of its patches in float32."""
        out, channels = self.space, self.filters
        if self.kind != "t":
            out, channels = tuple(-(-n // self.stride) for n in self.space), self.channels
        return 4 * self.rows * math.prod(out) * math.prod(self.window) * channels


def step_of(case: Case) -> Callable[[Array, Array], tuple[Array, Array]]:
    """(inputs, kernel) -> their gradients; of a first layer, the inputs and the kernel's gradient."""

    def loss(x: Array, kernel: Array) -> Array:
        return 0.5 * jnp.square(case.run(x, kernel).astype(jnp.float32)).sum()

    if case.kind == "f":
        return lambda x, kernel: (jnp.zeros_like(x), jax.grad(loss, 1)(x, kernel))
    return jax.grad(loss, (0, 1))


def compiled(case: Case, form: str | None, dtype: str) -> tuple[Callable[[int], Any], list[str]]:
    """steps -> the loop over so many; and what was taken for the case itself and within. `form`: what is tried."""
    chosen, taken = convolution.formulation, []

    def formulation(*args: Any, **options: Any) -> Any:
        found = chosen(*args, **options)
        taken.append(form if form and not taken else found)
        return taken[-1]

    def loop(x: Array, kernel: Array, steps: int) -> Any:
        step = step_of(case)

        def body(_: Any, arrays: Any) -> Any:
            return tuple(a - (1e-9 * b).astype(a.dtype) for a, b in zip(arrays, step(*arrays), strict=True))

        return lax.fori_loop(0, steps, body, (x, kernel))

    convolution.formulation = formulation
    try:
        x, kernel = case.arrays(dtype)
        program = jax.jit(loop).lower(x, kernel, 1).compile()
    finally:
        convolution.formulation = chosen
    return lambda steps: jax.block_until_ready(program(x, kernel, steps)), taken


def seconds(run: Callable[[int], Any], steps: int) -> float:
    """Seconds per step."""
    start = time.perf_counter()
    run(steps)
    return (time.perf_counter() - start) / steps


def measure(line: str, rounds: int, dtype: str) -> str:
    """A row of the table."""
    case = Case.of(line)
    _, (rule, *_) = compiled(case, None, dtype)
    forms = [f for f in TRIED[case.kind] if f == rule or f != "planes"]
    programs = {form: compiled(case, form, dtype)[0] for form in dict.fromkeys([rule, *forms])}
    steps = {form: max(1, min(20, int(0.03 / seconds(run, 1)))) for form, run in programs.items() if run(1)}
    times: dict[str, list[float]] = {form: [] for form in programs}
    for _ in range(rounds):
        for form, run in programs.items():
            times[form].append(seconds(run, steps[form]))
    least = min(times[rule])
    ratios = [
        f"{min(times[f]) / least:.2f} ({statistics.median(times[f]) / statistics.median(times[rule]):.2f})"
        if f in times
        else "–"
        for f in ("canonical", "patches", "planes", "split")
    ]
    best = min(min(t) for t in times.values())
    cells = [line, f"{case.patches() / 2**20:.2f}", rule, f"{1e3 * least:.2f}", *ratios, f"{least / best:.2f}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[""], help="parts of lines of CASES")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--type", default="float32", choices=["float32", "bfloat16", "float16"])
    given = parser.parse_args()
    head = ["case", "patches, MiB", "rule", "ms", "canonical", "patches", "planes", "split", "rule / best"]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}", flush=True)
    for line in CASES.strip().splitlines():
        if line and any(part in line for part in given.only):
            print(measure(line, given.rounds, given.type), flush=True)


if __name__ == "__main__":
    main()

"""Memory kept between executions. The allocator belongs to the process, so each case is a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from epochal.runtime import heap

SCRIPT = """
import gc, resource
import jax, numpy as np
import epochal as keras

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def resident():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * resource.getpagesize()

keras.utils.set_random_seed(0)
x = np.random.default_rng(0).normal(size=(8192, 64)).astype(np.float32)
model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(2048, activation="tanh"), keras.layers.Dense(1)])
model.compile("sgd", lambda y, p: (p * p).mean(-1), steps_per_execution=1)
fit = lambda: model.fit(x, x[:, :1], batch_size=4096, epochs=3, verbose=0)
fit()
counts = [faults()]
for _ in range(4):  # two executions may overlap, for whose memory the heap grows once
    fit()
    counts.append(faults())
most = resident()
print(min(np.diff(counts)) // 6, most, *[float(abs(w).sum()) for w in model.get_weights()], sep="\\n")
del model, fit
gc.collect()
print(resident())
"""


def _run(setting: str) -> list[float]:
    environment = {**os.environ, "EPOCHAL_HEAP": setting, "EPOCHAL_CACHE": "off"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
    return [float(line) for line in done.stdout.split()]


@pytest.mark.skipif(heap._library is None, reason="a C library that is not GNU's has no such heap")
def test_pages_of_large_steps_are_mapped_once_and_given_back_when_the_program_is_gone():
    page_faults, most, *weights, least = _run("")
    without, _, *same, _ = _run("off")
    work = 4096 * 2048 * 4  # bytes, of the hidden layer's output: what a step works in at the least
    assert without > work / 4096 > 16 * page_faults
    assert most - least > work
    assert weights == same

"""The machine's own matmul rate: the best of NumPy, JAX and (where installed) PyTorch on square float32 matrices."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

SIZE = 2048


def rates(rounds: int) -> dict[str, float]:
    """Library -> floating-point operations per second, best of the rounds."""
    a = np.random.default_rng(0).normal(size=(SIZE, SIZE)).astype(np.float32)
    b, product = jnp.asarray(a), jax.jit(jnp.matmul)
    runs: dict[str, Callable[[], Any]] = {
        "NumPy": lambda: a @ a,
        "JAX": lambda: product(b, b).block_until_ready(),
    }
    if importlib.util.find_spec("torch"):
        import torch

        torch.set_num_threads(len(os.sched_getaffinity(0)))
        c = torch.from_numpy(a)
        runs["PyTorch"] = lambda: c @ c
    best = dict.fromkeys(runs, 0.0)
    for _ in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            best[name] = max(best[name], 2 * SIZE**3 / (time.perf_counter() - start))
    return best


if __name__ == "__main__":
    import json
    import sys

    print(json.dumps(rates(int(sys.argv[1]))))

"""One epoch over a memory-mapped file, against the same model on data in memory: examples per second, memory.

    python systems/large.py SYSTEM FOLDER memmap|memory

FOLDER holds x.npy and y.npy (see `write`). Prints one line of JSON: examples/s, the largest anonymous and file-backed
resident memory while training, in bytes. The kernel may drop file-backed pages at any time; anonymous ones it may not.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from systems.work import WORKS

WORK, IN_MEMORY = WORKS["mlp_128"], 65536  # the examples of the run in memory


def write(folder: Path, size: float) -> int:
    """Writes `size` bytes of examples, if they are not there; returns their number."""
    n = int(size / (4 * WORK.sizes[0])) // WORK.m * WORK.m
    path = folder / "x.npy"
    if not path.exists() or np.load(path, mmap_mode="r").shape[0] != n:
        rng = np.random.default_rng(0)
        x = np.lib.format.open_memmap(path, "w+", np.float32, (n, WORK.sizes[0]))
        part = rng.normal(size=(2**14, WORK.sizes[0])).astype(np.float32)
        for start in range(0, n, len(part)):
            x[start : start + len(part)] = part[: n - start]
        x.flush()
        np.save(folder / "y.npy", rng.integers(0, WORK.sizes[-1], n).astype(np.int32))
    return n


def resident() -> tuple[int, int]:
    """Anonymous and file-backed resident memory of this process, in bytes."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    anonymous, file = (int(lines[key].split()[0]) * 1024 for key in ("RssAnon", "RssFile"))
    return anonymous, file


def watched(run: Any) -> tuple[float, int, int]:
    """Seconds, and the largest anonymous and file-backed memory meanwhile."""
    most, over = [0, 0], threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            most[:] = map(max, most, resident())

    thread = threading.Thread(target=watch)
    thread.start()
    start = time.perf_counter()
    run()
    seconds = time.perf_counter() - start
    over.set()
    thread.join()
    return seconds, most[0], most[1]


def fit_of(system: str) -> Any:
    """fit(x, y): one epoch."""
    if system == "torch":
        import torch

        from systems.torch_like import loss_of, module_of

        torch.set_num_threads(len(__import__("os").sched_getaffinity(0)))
        model = module_of(WORK)
        optimizer = torch.optim.Adam(model.parameters(), fused=True)

        def fit(x: Any, y: Any) -> None:
            for rows in np.array_split(np.random.default_rng(0).permutation(len(x)), -(-len(x) // WORK.m)):
                optimizer.zero_grad(set_to_none=True)
                loss_of(model(torch.from_numpy(x[rows])), torch.from_numpy(y[rows].astype(np.int64))).backward()
                optimizer.step()

        return fit
    import importlib

    from systems.keras_like import limit_threads, model_of

    k = importlib.import_module("epochal" if system == "epochal" else "keras")
    limit_threads()
    model = model_of(k, WORK)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return lambda x, y: model.fit(x, y, batch_size=WORK.m, verbose=0)


def main() -> None:
    system, folder, kind = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    fit, y = fit_of(system), np.load(folder / "y.npy")
    x: Any = np.load(folder / "x.npy", mmap_mode="r")
    if kind == "memory":
        x, y = np.array(x[:IN_MEMORY]), y[:IN_MEMORY]
    fit(x[: 2 * WORK.m], y[: 2 * WORK.m])
    if kind == "memory":
        fit(x, y)
    seconds, anonymous, file = watched(lambda: fit(x, y))
    print(json.dumps({"rate": len(x) / seconds, "anonymous": anonymous, "file": file}))


if __name__ == "__main__":
    main()

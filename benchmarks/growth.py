"""How time and memory of `fit` grow with examples, epochs, callbacks and batch size; writes growth.png and a table.

    python benchmarks/growth.py [--quick] [--rounds 3]

Each point is a process of its own, in turn with the others, after a first `fit` that compiles. The least seconds of the
rounds count, and the most memory: that of the process but for file pages (an array on disk is mapped, not held), above
what it had before the second `fit`. Written to RESULTS-growth.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from peers import machine

HERE = Path(__file__).parent
FEATURES, BASE = 8, {"n": 10_000, "epochs": 1, "callbacks": 0, "batch": 100, "disk": False}
SERIES: dict[str, list[dict[str, Any]]] = {
    "examples in memory": [{"n": n} for n in (1_000, 10_000, 100_000, 1_000_000)],
    "examples on disk": [{"n": n, "disk": True} for n in (10_000, 100_000, 1_000_000, 10_000_000)],
    "epochs": [{"n": 1_000, "epochs": e} for e in (1, 10, 100, 1_000)],
    "callbacks": [{"n": 1_000, "epochs": 200, "callbacks": c} for c in (0, 1, 3, 10)],
    "batch size": [{"n": 20_000, "epochs": 5, "batch": m} for m in (1, 10, 100, 1_000, 20_000)],
}
AXES = {"examples in memory": "n", "examples on disk": "n", "epochs": "epochs", "callbacks": "callbacks"}
AXES["batch size"] = "batch"


class Memory(threading.Thread):
    """Looks at the process's memory every 20 ms, in MiB: anonymous pages, which are those that are really taken."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.start_mib, self.most, self.ended = self.now(), 0.0, threading.Event()

    @staticmethod
    def now() -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024

    def run(self) -> None:
        while not self.ended.wait(0.02):
            self.most = max(self.most, self.now())


def measure(point: dict[str, Any], folder: Path) -> dict[str, float]:
    """One fit, in this process."""
    import epochal as keras

    class Looks(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.last = logs["loss"]

    n = point["n"]
    if point["disk"]:
        x, y = (np.load(folder / f"{name}-{n}.npy", mmap_mode="r") for name in "xy")
    else:
        x = np.random.default_rng(0).normal(size=(n, FEATURES)).astype(np.float32)
        y = x.sum(-1)
    model = keras.Sequential([keras.layers.Dense(16, "relu", input_shape=(FEATURES,)), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    model.fit(x, y, point["batch"], verbose=0)  # compiles
    memory = Memory()
    memory.start()
    began = time.perf_counter()
    callbacks = [Looks() for _ in range(point["callbacks"])]
    model.fit(x, y, point["batch"], epochs=point["epochs"], callbacks=callbacks, verbose=0)
    seconds = time.perf_counter() - began
    memory.ended.set()
    return {"seconds": seconds, "mib": max(memory.most, memory.now()) - memory.start_mib}


def on_disk(folder: Path, n: int) -> None:
    """Rows in files, written piece by piece."""
    draw = np.random.default_rng(0)
    x = np.lib.format.open_memmap(folder / f"x-{n}.npy", "w+", np.float32, (n, FEATURES))
    y = np.lib.format.open_memmap(folder / f"y-{n}.npy", "w+", np.float32, (n,))
    for start in range(0, n, 100_000):
        rows = draw.normal(size=(min(100_000, n - start), FEATURES))
        x[start : start + len(rows)], y[start : start + len(rows)] = rows, rows.sum(-1)


def in_processes(series: dict[str, list[dict[str, Any]]], rounds: int, folder: Path) -> dict[str, list[Any]]:
    """For each series its points as (value, seconds, MiB)."""
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    for _ in range(rounds):
        for name, points in series.items():
            for i, point in enumerate(points):
                code = [sys.executable, __file__, "--point", json.dumps({**BASE, **point}), str(folder)]
                result = json.loads(subprocess.run(code, check=True, stdout=subprocess.PIPE).stdout)
                found.setdefault((name, i), []).append(result)
                print(name, point, {k: round(v, 3) for k, v in result.items()}, flush=True)
    return {
        name: [
            (p[AXES[name]], min(r["seconds"] for r in found[name, i]), max(r["mib"] for r in found[name, i]))
            for i, p in enumerate(points)
        ]
        for name, points in series.items()
    }


def draw(results: dict[str, list[Any]]) -> None:
    """Seconds above, memory below; a dotted line where time is proportional."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, len(results), figsize=(3.1 * len(results), 5.6), layout="constrained", sharey="row")
    for (name, points), (above, below) in zip(results.items(), axes.T, strict=True):
        values, seconds, mib = (np.array(column, float) for column in zip(*points, strict=True))
        above.loglog(values + (name == "callbacks"), seconds, "o-")
        if name in ("examples in memory", "examples on disk", "epochs"):
            above.loglog(values, seconds[-1] * values / values[-1], ":", color="gray", label="proportional")
            above.legend(frameon=False)
        below.semilogx(values + (name == "callbacks"), mib, "o-", color="tab:red")
        above.set_title(name)
        below.set_xlabel(name + (" + 1" if name == "callbacks" else ""))
        for axis in (above, below):
            axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("seconds of fit")
    axes[1, 0].set_ylabel("MiB above the start")
    figure.savefig(HERE / "growth.png", dpi=110)


def table(results: dict[str, list[Any]]) -> str:
    lines = ["| what grows | to | seconds | MiB above the start |", "|---|---:|---:|---:|"]
    for name, points in results.items():
        lines += [f"| {name} | {value:,} | {seconds:.3f} | {mib:.0f} |" for value, seconds, mib in points]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="without the largest point of each series, one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--point", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.point:
        print(json.dumps(measure(json.loads(arguments.point[0]), Path(arguments.point[1]))))
        return
    series = {name: points[:-1] for name, points in SERIES.items()} if arguments.quick else SERIES
    rounds = 1 if arguments.quick else arguments.rounds
    with tempfile.TemporaryDirectory() as top:
        for point in series["examples on disk"]:
            on_disk(Path(top), point["n"])
        results = in_processes(series, rounds, Path(top))
    draw(results)
    text = table(results)
    print(text)
    settings = f"MLP {FEATURES}-16-1, Adam, shuffled, batch {BASE['batch']} and one epoch where nothing else is said"
    (HERE / "RESULTS-growth.md").write_text(
        f"# How fit grows\n\nWritten by `python benchmarks/growth.py`. {machine()}.\n{settings}; callbacks: 200 epochs "
        f"of 1,000 examples; batch size: 5 epochs of 20,000. Best of {rounds}.\n\n![growth](growth.png)\n\n{text}\n"
    )


if __name__ == "__main__":
    main()

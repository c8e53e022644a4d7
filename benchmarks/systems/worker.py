"""One system in a process of its own, told over a pipe what to do: `load`, `prepare WORK`, `choose`, `round`.

    python systems/worker.py SYSTEM SECONDS

SECONDS is about how long a round is. Reads one command a line, answers with one line of JSON. What libraries print goes
to standard error.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time
import traceback
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from systems.work import WORKS, Candidates, NoSuchCall, Run

# system -> the module that makes its runs, the packages that it needs
SYSTEMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "epochal": ("keras_like", ("jax", "flax")),
    "bare": ("bare", ("jax", "optax")),
    "keras-jax": ("keras_like", ("keras", "jax")),
    "keras-tensorflow": ("keras_like", ("keras", "tensorflow")),
    "keras-torch": ("keras_like", ("keras", "torch")),
    "torch": ("torch_like", ("torch",)),
    "lightning": ("torch_like", ("lightning", "torch")),
    "skorch": ("torch_like", ("skorch", "torch")),
    "scikit-learn": ("scikit", ("scikit-learn",)),
}


class Worker:
    """The state between two words: candidates, the one that was chosen, how many epochs or calls a round takes."""

    def __init__(self, system: str, seconds: float):
        self.system, self.seconds = system, seconds
        self.candidates: Candidates = {}
        self.run: Run | None = None
        self.steps = self.count = 1

    def load(self) -> dict[str, Any]:
        """Imports the system; its versions."""
        module, packages = SYSTEMS[self.system]
        try:
            found = {package: installed(package) for package in packages}
            importlib.import_module(f"systems.{module}")
        except ImportError as error:
            return {"skipped": f"not installed: {error.name or error}"}
        return {"versions": found}

    def prepare(self, name: str) -> dict[str, Any]:
        """Builds every candidate for a work and runs it once, so that everything is compiled."""
        work, self.candidates, self.run = WORKS[name], {}, None
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # the peak of memory is counted anew
        try:
            self.candidates = importlib.import_module(f"systems.{SYSTEMS[self.system][0]}").make(self.system, work)
        except NoSuchCall as error:
            return {"skipped": f"has nothing like it: {error}"}
        self.steps = work.steps
        for run in self.candidates.values():
            run(1)
        return {}

    def choose(self) -> dict[str, Any]:
        """Finds the fastest candidate, and how often to run it to fill a round."""
        fastest = None
        for name, run in self.candidates.items():
            count = 1
            while (seconds := timed(run, count)) < self.seconds / 4:
                count = max(2 * count, int(count * self.seconds / 4 / max(seconds, 1e-6)))
            if fastest is None or seconds / count < fastest[0]:
                fastest = seconds / count, name, run
        assert fastest is not None
        self.count, self.run = max(1, round(self.seconds / fastest[0])), fastest[2]
        return {"choice": fastest[1], "count": self.count}

    def round(self) -> dict[str, Any]:
        """Seconds per step or call, of the clock and of the processor, which counts all threads; and the most memory
        this process has held since `prepare`, in bytes."""
        assert self.run is not None
        before, times = time.process_time(), self.count * self.steps
        seconds = timed(self.run, self.count) / times
        return {"seconds": seconds, "processor": (time.process_time() - before) / times, "memory": peak_memory()}


def installed(package: str) -> str:
    """A package's version; of TensorFlow, that for CPUs only, too."""
    for name in (package, f"{package}-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            pass
    raise ImportError(name=package)


def timed(run: Run, count: int) -> float:
    """Seconds that `count` epochs or calls take."""
    start = time.perf_counter()
    run(count)
    return time.perf_counter() - start


def peak_memory() -> int:
    """The most resident memory of this process so far, or since it was last counted anew, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def main() -> None:
    pipe = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print must not come in between
    worker = Worker(sys.argv[1], float(sys.argv[2]))
    for line in sys.stdin:
        try:
            word, *arguments = line.split()
            answer = getattr(worker, word)(*arguments)
        except Exception as error:  # noqa: BLE001 - whatever a peer raises is reported in the table
            traceback.print_exc()
            answer = {"skipped": f"{type(error).__name__}: {str(error).splitlines()[0][:120] if str(error) else ''}"}
        print(json.dumps(answer), file=pipe)


if __name__ == "__main__":
    main()

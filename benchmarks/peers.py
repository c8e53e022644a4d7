"""Times epochal and its peers on the same work, interleaved in one run; writes RESULTS.md after every row.

    python benchmarks/peers.py [--work cnn lstm …] [--rounds 3] [--quick] [--environments FOLDER]

Every system is a process of its own, in its own environment where there is one (`environments.sh` makes them). It is
warmed up, and then told "run a round" in turn with the others; the best of the rounds counts. A system that is not
installed is named in the table as skipped. Rows that are not measured again stay as they were.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from systems import large, table
from systems.work import WORKS, dense_flops
from systems.worker import SYSTEMS

HERE = Path(__file__).parent
# system -> the folder of its virtual environment among the environments
ENVIRONMENTS = {"keras-tensorflow": "tensorflow"} | dict.fromkeys(
    ("keras-torch", "torch", "lightning", "skorch", "scikit-learn"), "torch"
)
STARTS = ("epochal", "bare", "keras-jax", "keras-tensorflow", "keras-torch", "torch", "lightning", "skorch")
LARGE = ("epochal", "keras-jax", "keras-tensorflow", "torch")


class Machine:
    """How processes of the systems are started.

    Args:
        environments: the folder that `environments.sh` made, or one virtual environment for all systems.
    """

    def __init__(self, environments: Path):
        self.environments = environments

    def python(self, system: str) -> str:
        """The interpreter for a system; this one when there is no environment."""
        folder = ENVIRONMENTS.get(system, "jax")
        for path in (self.environments / folder / "bin" / "python", self.environments / "bin" / "python"):
            if path.exists():
                return str(path)
        return sys.executable

    def start(self, system: str, script: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """A process that runs a script of `systems/`."""
        cores = str(len(os.sched_getaffinity(0)))
        backend = system.split("-")[1] if system.startswith("keras-") else "jax"
        source = os.pathsep.join(filter(None, [str(HERE.parent / "src"), os.environ.get("PYTHONPATH", "")]))
        settings = {"PYTHONPATH": source, "KERAS_BACKEND": backend, "OMP_NUM_THREADS": cores, "MKL_NUM_THREADS": cores}
        settings |= {"TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "-1"}
        return subprocess.Popen(
            [self.python(system), str(HERE / "systems" / script), *arguments],
            env={**os.environ, **settings, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if os.environ.get("BENCHMARK_DEBUG") else subprocess.DEVNULL,
            text=True,
            bufsize=1,
        )

    def line(self, system: str, script: str, *arguments: str) -> dict[str, Any]:
        """What a script prints as JSON in its last line; why not, if it fails."""
        process = self.start(system, script, *arguments)
        printed = process.communicate()[0].strip().splitlines()
        return json.loads(printed[-1]) if not process.returncode and printed else {"skipped": "not installed"}


class Team:
    """The systems' processes, which stay for all rows, and why those that are missing are.

    Args:
        machine: how they are started.
        systems: which.
        seconds: about how long a round is.
    """

    def __init__(self, machine: Machine, systems: list[str], seconds: float):
        self._processes = {s: machine.start(s, "worker.py", s, str(seconds)) for s in systems}
        for system in systems:
            self._tell(system, "load")  # all at once: importing is not timed here
        self.known = {system: self._answer(system) for system in systems}
        for system in systems:
            self._signal(system, signal.SIGSTOP)

    def ask(self, system: str, command: str) -> dict[str, Any]:
        """What a system's process answers to a command; all others stand still, as idle threads of some spin."""
        self._signal(system, signal.SIGCONT)
        self._tell(system, command)
        answer = self._answer(system)
        self._signal(system, signal.SIGSTOP)
        return answer

    def _signal(self, system: str, number: int) -> None:
        process = self._processes[system]
        if process.poll() is None:
            process.send_signal(number)

    def _tell(self, system: str, command: str) -> None:
        pipe, process = self._processes[system].stdin, self._processes[system]
        if pipe is not None and process.poll() is None:
            pipe.write(command + "\n")
            pipe.flush()

    def _answer(self, system: str) -> dict[str, Any]:
        pipe, process = self._processes[system].stdout, self._processes[system]
        line = pipe.readline() if pipe is not None else ""
        return json.loads(line) if line else {"skipped": f"its process ended with code {process.wait()}"}

    def leave(self) -> None:
        """Ends the processes."""
        for process in self._processes.values():
            process.kill()
            process.wait()


def measure(team: Team, name: str, rounds: int) -> dict[str, Any]:
    """A row: system -> best seconds and peak memory, or why it was skipped."""
    row = {system: dict(known) for system, known in team.known.items()}
    for word in [f"prepare {name}", "choose", *["round"] * rounds]:
        for system, found in row.items():
            if "skipped" in found:
                continue
            said = team.ask(system, word)
            for kind in ("seconds", "processor"):
                if kind in said:
                    said[kind] = min(said[kind], found.get(kind, said[kind]))
            found |= said
        print(f"{name}: {word}", file=sys.stderr)
    return row


def measure_start(machine: Machine, systems: list[str], rounds: int) -> dict[str, dict[str, Any]]:
    """Seconds from the start of a process to the end of its first epoch: two rows, without and with a filled cache."""
    rows: dict[str, dict[str, Any]] = {"start_cold": {}, "start_cached": {}}
    caches = {s: tempfile.TemporaryDirectory() for s in systems}
    for number in range(rounds + 1):  # the first one fills the caches, and the operating system's
        for system in systems:
            for name, row in rows.items():
                if "skipped" in row.get(system, {}) or (name == "start_cached" and not uses_jax(system)):
                    continue
                with tempfile.TemporaryDirectory() as empty:
                    folder = empty if name == "start_cold" else caches[system].name
                    said = start_once(machine, system, folder, cached=name == "start_cached")
                if number or "skipped" in said:
                    before = row.get(system, said)
                    row[system] = {**said, "seconds": min(said.get("seconds", 0), before.get("seconds", 0))}
    for cache in caches.values():
        cache.cleanup()
    return rows


def uses_jax(system: str) -> bool:
    """Whether JAX's persistent compilation cache can serve the system."""
    return system in ("epochal", "bare", "keras-jax")


def start_once(machine: Machine, system: str, folder: str, cached: bool) -> dict[str, Any]:
    settings = {"XDG_CACHE_HOME": folder}
    if cached:
        settings |= {
            "JAX_COMPILATION_CACHE_DIR": folder,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
    start = time.perf_counter()
    process = machine.start(system, "startup.py", system, **settings)
    assert process.stdout is not None
    line = next((line for line in process.stdout if line.startswith("done ")), "")
    seconds = time.perf_counter() - start
    process.communicate()
    return {"seconds": seconds, "memory": int(line.split()[1])} if line else {"skipped": "not installed"}


def measure_large(machine: Machine, systems: list[str], gigabytes: float, folder: Path) -> dict[str, Any]:
    """A row: system -> examples per second from a memory-mapped file and from memory, memory meanwhile."""
    n = large.write(folder, gigabytes * 1e9)
    row: dict[str, Any] = {"gigabytes": gigabytes, "n": n}
    for system in systems:
        found = {kind: machine.line(system, "large.py", system, str(folder), kind) for kind in ("memory", "memmap")}
        skipped = next((said for said in found.values() if "skipped" in said), None)
        row[system] = skipped or found
    return row


def measure_dense(team: Team, machine: Machine, rounds: int) -> dict[str, Any]:
    """The row of large dense work, with the machine's own matmul rate."""
    before = machine.line("torch", "matmul.py", str(2 * rounds))
    row = measure(team, "dense", rounds)
    after = machine.line("bare", "matmul.py", str(2 * rounds))
    rates = [rate for found in (before, after) for rate in found.values() if not isinstance(rate, str)]
    return row | {"flops": dense_flops(WORKS["dense"]), "matmul": max(rates)}


def rows_of(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measures what was asked for, row by row: name -> systems' measurements."""
    machine = Machine(given.environments)
    works = [name for name in given.work if name in WORKS]
    if works:
        team = Team(machine, given.systems, given.seconds)
        try:
            for name in works:
                if name == "dense":
                    yield {name: measure_dense(team, machine, given.rounds)}
                else:
                    yield {name: measure(team, name, given.rounds)}
        finally:
            team.leave()
    if "start" in given.work:
        yield measure_start(machine, [s for s in given.systems if s in STARTS], given.rounds)
    if "memmap" in given.work:
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            chosen = [s for s in given.systems if s in LARGE]
            yield {"memmap": measure_large(machine, chosen, given.gigabytes, Path(folder))}


def machine() -> str:
    """What is measured on."""
    return f"{len(os.sched_getaffinity(0))} cores, {platform.machine()}, {table.processor()}"


def main() -> None:
    rows = [*WORKS, "start", "memmap"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", nargs="+", choices=rows, default=rows, help="the rows to measure")
    parser.add_argument("--systems", nargs="+", choices=list(SYSTEMS), default=list(SYSTEMS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="how long a round of a system is")
    parser.add_argument("--quick", action="store_true", help="one short round of each, to see that it works")
    parser.add_argument(
        "--gigabytes", type=float, default=1.0, help="size of the memory-mapped file; 8 is the full one"
    )
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where that file goes")
    parser.add_argument("--environments", type=Path, default=HERE / ".environments")
    parser.add_argument("--results", type=Path, default=HERE / "RESULTS.md")
    given = parser.parse_args()
    if given.quick:
        given.rounds, given.seconds, given.gigabytes = 1, 0.2, min(given.gigabytes, 0.2)
    began = time.perf_counter()
    for found in rows_of(given):
        about = {
            "rounds": given.rounds,
            "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
            "load": round(os.getloadavg()[0], 1),
            "took": round(time.perf_counter() - began),
            "machine": machine(),
            "python": platform.python_version(),
        }
        print(table.keep(given.results, {key: {"systems": row, **about} for key, row in found.items()}), flush=True)
        began = time.perf_counter()


if __name__ == "__main__":
    main()

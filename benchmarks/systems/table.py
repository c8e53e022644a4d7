"""RESULTS.md: the measurements as tables. They are kept beside it as JSON, so that rows can be measured one by one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from systems.work import WORKS, Work

NAMES = {
    "bare": "bare JAX loop",
    "keras-jax": "Keras/JAX",
    "keras-tensorflow": "Keras/TF",
    "keras-torch": "Keras/torch",
    "torch": "PyTorch loop",
    "lightning": "Lightning",
    "skorch": "skorch",
    "scikit-learn": "scikit-learn",
}
# What stands behind this line is written by hand and kept.
BY_HAND = "<!-- written by hand from here on; peers.py keeps it -->"
Row = dict[str, Any]


def keep(path: Path, found: dict[str, Row]) -> str:
    """Puts rows into the JSON beside `path`, writes `path` anew, and returns the new lines."""
    store = path.with_suffix(".json")
    rows = json.loads(store.read_text()) if store.exists() else {}
    rows |= found
    store.write_text(json.dumps(rows, indent=1) + "\n")
    by_hand = path.read_text().partition(BY_HAND)[2] if path.exists() else ""
    path.write_text(text(rows) + BY_HAND + (by_hand or "\n"))
    return "\n".join([line for name in found for line in lines(name, rows[name])])


def text(rows: dict[str, Row]) -> str:
    """Everything that is written by the script."""
    fits = [name for name in (*WORKS, "start_cold", "start_cached") if name in rows]
    head = ["work", "epochal", *NAMES.values(), "to reach", "reached"]
    parts = [
        "# Speed\n",
        "Written by `python benchmarks/peers.py`, row by row. Each system is a process of its own; rounds are "
        "interleaved, after a warm-up, and the best counts. The column *epochal* is its time per step (or call, or "
        "start); the others say **how many times epochal's time they take**. Read the ratios: times mean little on "
        "another machine. Keras has the better of 1 and 32 steps per execution where its backend can.\n",
        _table(head, [line for name in fits for line in lines(name, rows[name])]),
        _skipped({name: rows[name] for name in fits}),
        "## Processor time\n\nOf all threads together; again as multiples of epochal's.\n",
        _table(["work", "epochal", *NAMES.values()], [_processor(n, rows[n]["systems"]) for n in fits if n in WORKS]),
        "## Resident memory\n\nThe most each process held, in MB: a row's model, its data and the libraries.\n",
        _table(["work", "epochal", *NAMES.values()], [_memory(name, rows[name]["systems"]) for name in fits]),
    ]
    if "memmap" in rows:
        parts += ["## Data larger than memory\n", _large(rows["memmap"])]
    parts += ["## The work\n", _works(), "## When and where\n", _about(rows)]
    return "\n".join(parts) + "\n"


def lines(name: str, row: Row) -> list[str]:
    """A row of measurements as lines of a table."""
    systems = row["systems"]
    if name == "memmap":
        return [_large(row)]
    ours = systems.get("epochal", {}).get("seconds")
    ratios = {s: systems[s]["seconds"] / ours for s in NAMES if ours and "seconds" in systems.get(s, {})}
    cells = [f"{ratios[s]:.2f}" if s in ratios else "–" for s in NAMES]
    work = WORKS.get(name)
    target, reached = _start_aims(name, ratios) if work is None else _aims(work, ours, ratios, systems)
    return [f"| {name} | {_time(ours)} | {' | '.join(cells)} | {target} | {reached} |"]


def _aims(work: Work, ours: float | None, ratios: dict[str, float], systems: Row) -> tuple[str, str]:
    if ours is None:
        return work.target, "not measured"
    checks = []
    if work.bare is not None and "bare" in ratios:
        checks.append((1 / ratios["bare"] <= work.bare, f"{1 / ratios['bare']:.2f}× bare"))
    peers = {s: r for s, r in ratios.items() if s != "bare"}
    if work.peers is not None and peers:
        nearest = min(peers, key=lambda s: peers[s])
        checks.append((peers[nearest] >= work.peers, f"{peers[nearest]:.2f}× {NAMES[nearest]}"))
    keras = {s: r for s, r in ratios.items() if s.startswith("keras-")}
    if work.keras is not None and keras:
        nearest = min(keras, key=lambda s: keras[s])
        checks.append((keras[nearest] >= work.keras, f"{keras[nearest]:.2f}× {NAMES[nearest]}"))
    if work.seconds is not None:
        checks.append((ours <= work.seconds, _time(ours)))
    if "matmul" in systems:
        share = systems["flops"] / ours / systems["matmul"]
        rate = f"{share:.0%} of {systems['matmul'] / 1e9:.0f} GFLOP/s"
        checks.append((share >= 0.8, rate))
    return work.target, _verdict(checks)


def _start_aims(name: str, ratios: dict[str, float]) -> tuple[str, str]:
    most, peer = (0.6 if name == "start_cold" else 0.4), ratios.get("keras-jax")
    target = f"≤ {most}× Keras/JAX" + (" with its cache" if name == "start_cached" else "")
    return target, _verdict([(1 / peer <= most, f"{1 / peer:.2f}×")]) if peer else "not measured"


def _verdict(checks: list[tuple[bool, str]]) -> str:
    return "; ".join(f"{'yes' if good else '**no**'}: {what}" for good, what in checks) or "–"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    scale, unit = next((s, u) for s, u in ((1, "s"), (1e3, "ms"), (1e6, "µs")) if seconds * s >= 1 or u == "µs")
    return f"{seconds * scale:.3g} {unit}"


def _memory(name: str, systems: Row) -> str:
    cells = [
        f"{systems[s]['memory'] / 1e6:.0f}" if "memory" in systems.get(s, {}) else "–" for s in ("epochal", *NAMES)
    ]
    return f"| {name} | {' | '.join(cells)} |"


def _processor(name: str, systems: Row) -> str:
    ours = systems.get("epochal", {}).get("processor")
    cells = [
        f"{systems[s]['processor'] / ours:.2f}" if ours and "processor" in systems.get(s, {}) else "–" for s in NAMES
    ]
    return f"| {name} | {_time(ours)} | {' | '.join(cells)} |"


def _large(row: Row) -> str:
    systems = row["systems"]
    head = ["system", "examples/s in memory", "from the file", "ratio", "anonymous memory", "of that in memory"]
    body = []
    for s, found in systems.items():
        if not isinstance(found, dict):
            continue
        title = NAMES.get(s, s)
        if "skipped" in found:
            body.append(f"| {title} | skipped: {found['skipped']} | | | | |")
            continue
        memory, file = found["memory"], found["memmap"]
        ratio = file["rate"] / memory["rate"]
        cells = [f"{memory['rate']:.0f}", f"{file['rate']:.0f}", f"{ratio:.2f}"]
        cells += [f"{kind['anonymous'] / 1e6:.0f} MB" for kind in (file, memory)]
        body.append(f"| {title} | {' | '.join(cells)} |")
    intro = (
        f"One shuffled epoch of `mlp_128` over {systems['n']} examples, a file of {systems['gigabytes']} GB, and over "
        f"65,536 examples in memory. To reach: a ratio ≥ 0.9, and memory that does not grow with the file.\n"
    )
    return intro + "\n" + _table(head, body)


def _skipped(rows: dict[str, Row]) -> str:
    why: dict[str, list[str]] = {}
    for name, row in rows.items():
        for s, found in row["systems"].items():
            if isinstance(found, dict) and "skipped" in found:
                why.setdefault(f"{NAMES.get(s, s)}: {found['skipped']}", []).append(name)
    listed = [f"- {reason} ({', '.join(names)})" for reason, names in why.items()]
    return "Skipped:\n\n" + "\n".join(listed) + "\n" if listed else ""


def _works() -> str:
    listed = [
        f"- `{name}`: {w.describe}; "
        + (f"n = {w.n}, batch {w.m}, Adam, shuffled, accuracy reported" if w.task == "fit" else f"`{w.task}` in a loop")
        for name, w in WORKS.items()
    ]
    listed += [
        "- `start_cold`, `start_cached`: import, build, compile and first epoch of `tiny` in a fresh process, without "
        "and with a filled compilation cache (JAX's)"
    ]
    return "\n".join(listed) + "\n"


def _about(rows: dict[str, Row]) -> str:
    versions = sorted(
        {
            f"{package} {v}"
            for row in rows.values()
            for found in row["systems"].values()
            if isinstance(found, dict)
            for package, v in found.get("versions", {}).items()
        }
    )
    head = ["row", "when (UTC)", "rounds", "load before the end", "seconds", "machine"]
    body = [
        f"| {name} | {r['date']} | {r['rounds']} | {r['load']} | {r['took']} | {r['machine']}, Python {r['python']} |"
        for name, r in rows.items()
    ]
    return f"{', '.join(versions)}.\n\n{_table(head, body)}"


def _table(head: list[str], body: list[str]) -> str:
    return "\n".join([f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *body]) + "\n"


def processor() -> str:
    """The processor's name, where the system tells."""
    path = Path("/proc/cpuinfo")
    found = [line for line in path.read_text().splitlines() if "model name" in line] if path.exists() else []
    return found[0].partition(":")[2].strip() if found else "unknown processor"

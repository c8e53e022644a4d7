"""Import, build, compile and the first epoch of the tiny MLP in a fresh process; says when that is done.

python systems/startup.py SYSTEM
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from systems.work import WORKS
from systems.worker import SYSTEMS, peak_memory


def main() -> None:
    system = sys.argv[1]
    candidates = importlib.import_module(f"systems.{SYSTEMS[system][0]}").make(system, WORKS["tiny"])
    next(iter(candidates.values()))(1)
    print(f"done {peak_memory()}", flush=True)


if __name__ == "__main__":
    main()

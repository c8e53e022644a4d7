"""Counts what lies between `fit` and the compiled step: frames and files of our own, and lines run per execution.

python benchmarks/frames.py
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

import epochal
from epochal.runtime.program import Executable

HERE = str(Path(epochal.__file__).parent)


def main() -> None:
    x, y = np.random.default_rng(0).normal(size=(640, 8)).astype(np.float32), np.zeros(640, np.int32)
    model = epochal.Sequential([epochal.layers.Dense(2, input_shape=(8,))])
    model.compile("adam", epochal.losses.SparseCategoricalCrossentropy(from_logits=True), steps_per_execution=1)
    model.fit(x, y, verbose=0)
    stacks, lines = [], [0]
    original = Executable.__call__

    def watched(self: Executable, *given: Any) -> Any:
        frame, stack = sys._getframe(1), []
        while frame is not None:
            if frame.f_code.co_filename.startswith(HERE):
                stack.append((Path(frame.f_code.co_filename).name, frame.f_code.co_name))
            frame = frame.f_back
        stacks.append(stack)
        return original(self, *given)

    def trace(frame: Any, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(HERE):
            return None
        lines[0] += event == "line"
        return trace

    Executable.__call__ = watched  # type: ignore[method-assign]
    for epochs in (1, 2):
        lines[0] = 0
        sys.settrace(trace)
        model.fit(x, y, epochs=epochs, verbose=0)
        sys.settrace(None)
        print(f"{epochs} epoch(s) of 20 executions: {lines[0]} lines of our own")
    print(f"{len(stacks[-1])} frames in {len({f for f, _ in stacks[-1]})} files:", stacks[-1][::-1])


if __name__ == "__main__":
    main()

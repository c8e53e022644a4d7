"""A batch of 65536 whose step needs 1 GB, under a limit of 600 MB: `python benchmarks/large_batch.py`.

The MLP is trained three times, each in a process of its own: without a limit; with EPOCHAL_MEMORY_LIMIT, so that
batches are cut before they run; and with RLIMIT_AS so much above what the process holds already, and prediction set
aside, so that XLA's RESOURCE_EXHAUSTED is met. Printed is the greatest difference to the first, relative to each
array's largest weight: 1.6e-5 on two cores, in single weights (float32 sums over 65536 examples, rounded in another
order); of arrays as a whole it was 3e-8 in norm.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

LIMIT = 600 * 10**6
N, WIDTH, EPOCHS = 65536, 1024, 3


def train(kind: str, out: Path) -> None:
    import resource

    import epochal as keras

    generator = np.random.default_rng(0)
    x = generator.normal(size=(N, 64)).astype(np.float32)
    y = np.argmax(x @ generator.normal(size=(64, 10)), axis=1).astype(np.int32)
    keras.utils.set_random_seed(0)
    layers = keras.layers
    hidden = [layers.Dense(WIDTH, activation="relu") for _ in range(2)]
    model = keras.Sequential([layers.Input((64,)), *hidden, layers.Dense(10, activation="softmax")])
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "ce", ["accuracy"])
    model.fit(x[:32], y[:32], batch_size=32, verbose=0)  # JAX's threads and their stacks are there then
    if kind == "RLIMIT_AS":
        os.environ["EPOCHAL_MEMORY_LIMIT"] = "1 TB"
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + LIMIT, held + LIMIT))
    elif kind == "EPOCHAL_MEMORY_LIMIT":
        os.environ["EPOCHAL_MEMORY_LIMIT"] = str(LIMIT)
    history = model.fit(x, y, batch_size=N, epochs=EPOCHS, verbose=2, shuffle=False)
    np.savez(out, *model.get_weights(), loss=history.history["loss"])


def main() -> None:
    if len(sys.argv) == 3:
        train(sys.argv[1], Path(sys.argv[2]))
        return
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for kind in ("no limit", "EPOCHAL_MEMORY_LIMIT", "RLIMIT_AS"):
            out = Path(folder, "weights.npz")
            print(f"\n{kind}", flush=True)
            subprocess.run([sys.executable, __file__, kind, str(out)], check=True)
            with np.load(out) as file:
                found[kind] = dict(file)
    whole = found.pop("no limit")
    print()
    for kind, arrays in found.items():
        apart = max(np.abs(arrays[k] - whole[k]).max() / np.abs(whole[k]).max() for k in whole)
        print(f"{kind}: weights and losses differ by {apart:.1e}")


if __name__ == "__main__":
    main()

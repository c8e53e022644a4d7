"""Data much larger than the memory (rule E1): what a training from disk holds at once is a few batches.

What is shown, each in a process of its own, on sparse files (they take no room on the disk):

- h5py: a process whose address space is limited (`RLIMIT_AS`) trains on, evaluates and predicts an array four times as
  large as all of that limit. It could not map the array, let alone hold it.
- `np.memmap`: who makes one maps the whole file, so its address space cannot be smaller. What is limited instead is the
  memory of the process's own (`RLIMIT_DATA`): to a quarter of the array; and that memory stays flat. The file's pages
  are the operating system's to drop.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

HEAD = """
    import resource, sys
    import h5py
    import numpy as np
    import epochal as keras

    FEATURES = 4096  # 16 kB a row

    def status(name):
        lines = open("/proc/self/status").read().splitlines()
        return next(1024 * int(text.split()[1]) for text in lines if text.startswith(name + ":"))

    model = keras.Sequential([keras.layers.Input((FEATURES,)), keras.layers.Dense(1, use_bias=False)])
    model.compile(keras.optimizers.SGD(0.5), "mse")

    def use(x, y, **steps):
        first = {name.replace("_per_epoch", ""): count for name, count in steps.items()}
        given = {"batch_size": 64, "verbose": 0}
        history = model.fit(x, y, shuffle=SHUFFLE, **steps, **given)
        score = model.evaluate(x, y, **first, **given)
        return history.history["loss"][0], score, model.predict(x, **first, **given)

    SHUFFLE, whole = eval(sys.argv[2]), eval(sys.argv[3])
    steps = {} if whole else {"steps_per_epoch": 12}
    small = np.zeros((64 * 12, FEATURES), "float32")
    use(small, small[:, 0], steps_per_epoch=12)  # everything is compiled
"""

# The targets are ones everywhere; the inputs are zeros, but for the first feature of the last row.
HDF5 = (
    HEAD
    + """
    limit = status("VmSize") + 400 * 2**20
    n = -(-4 * limit // (4 * FEATURES))
    with h5py.File(sys.argv[1], "w") as file:
        space = h5py.h5s.create_simple((n, FEATURES))
        settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        settings.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        settings.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        h5py.h5d.create(file.id, b"x", h5py.h5t.IEEE_F32LE, space, settings)
        file["x"][n - 1, 0] = 1.0
        file["y"] = np.ones(n, "float32")
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    file = h5py.File(sys.argv[1])
    try:
        np.empty((n // 4, FEATURES), "float32")
        print("room")
    except MemoryError:
        print("no room for a quarter")
    print(file["x"].size * 4 >= 4 * limit, file["x"].id.get_storage_size() >= 4 * limit)
    loss, score, outputs = use(file["x"], file["y"], **steps)
    print(loss, score, float(outputs[:-1].max()), float(outputs[-1, 0]), len(outputs) == (n if whole else 64 * 12))
"""
)

MEMMAP = (
    HEAD
    + """
    n = 2**31 // (4 * FEATURES) * 2  # 4 GB
    open(sys.argv[1], "wb").truncate(n * 4 * FEATURES)
    x = np.memmap(sys.argv[1], "float32", "r+", shape=(n, FEATURES))
    x[n - 1, 0] = 1.0
    x = np.memmap(sys.argv[1], "float32", "r", shape=(n, FEATURES))
    limit = x.nbytes // 4
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    try:
        np.empty((n // 4, FEATURES), "float32")
        print("room")
    except MemoryError:
        print("no room for a quarter")
    before = status("RssAnon")
    print(status("VmData") < limit, x.nbytes >= 4 * limit)
    loss, score, outputs = use(x, np.ones(n, "float32"), **steps)
    print(loss, score, float(outputs[:-1].max()), float(outputs[-1, 0]), len(outputs) == (n if whole else 64 * 12))
    print((status("RssAnon") - before) // 2**20)
"""
)


def run(code: str, file: Path, shuffle: object, whole: bool) -> list[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), str(file), repr(shuffle), repr(whole)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert file.stat().st_blocks * 512 < 64 * 2**20  # a sparse file
    said, sizes, results, *more = done.stdout.splitlines()
    assert (said, sizes) == ("no room for a quarter", "True True")
    loss, score, others, last, complete = results.split()
    assert complete == "True"
    if whole:  # the kernel's first weight has learned from the last row alone, and from all its batches mates nothing
        assert float(others) == 0.0
        assert float(last) != 0.0
        assert float(loss) == pytest.approx(1.0, rel=1e-3)
        assert float(score) < 1.0
    else:
        assert (float(loss), float(score)) == (1.0, 1.0)
    return more


def test_E1_an_array_four_times_the_address_space_trains(tmp_path: Path) -> None:
    """A few batches of random rows from all over the array."""
    run(HDF5, tmp_path / "x.h5", True, whole=False)


def test_E1_a_memmap_four_times_the_memory_of_the_processes_own_trains(tmp_path: Path) -> None:
    (grown,) = run(MEMMAP, tmp_path / "x", True, whole=False)
    assert int(grown) < 100  # MB; with JAX's own that is a few batches of 1 MB


@pytest.mark.slow
@pytest.mark.parametrize("shuffle", [True, "batch", False])
def test_E1_all_of_an_array_four_times_the_address_space_trains(shuffle: object, tmp_path: Path) -> None:
    run(HDF5, tmp_path / "x.h5", shuffle, whole=True)


@pytest.mark.slow
@pytest.mark.parametrize("shuffle", [True, "batch", False])
def test_E1_all_of_a_memmap_four_times_the_memory_of_the_processes_own_trains(shuffle: object, tmp_path: Path) -> None:
    (grown,) = run(MEMMAP, tmp_path / "x", shuffle, whole=True)
    assert int(grown) < 100

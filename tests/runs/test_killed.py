"""A run whose process is killed, or told to end by a signal."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.broken_off import N, sha256_of

from epochal.runs.checkpoint_file import read

SCRIPT = """
import sys, pathlib
sys.path.insert(0, {tests!r})
from support.broken_off import run, sha256_of
print("ready", flush=True)
print("end", sha256_of(run({kind!r}, pathlib.Path({folder!r}), every={every!r})), flush=True)
"""


def start(kind: str, folder: Path, every: Any) -> subprocess.Popen:
    """The run as a process of its own."""
    script = SCRIPT.format(tests=str(Path(__file__).parents[1]), kind=kind, folder=str(folder), every=every)
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)


def ending(process: subprocess.Popen) -> str:
    return process.communicate()[0].split("end ")[-1].strip()


def test_a_run_that_is_killed_five_times_ends_with_the_same_sha256(whole_run: Any, tmp_path: Path) -> None:
    """`benchmarks/kill_test.py` does it a hundred times, with more kinds of runs."""
    whole = sha256_of(whole_run("arrays"))
    random = np.random.default_rng(0)
    kills = 0
    while kills < 5:
        process = start("arrays", tmp_path / "killed", 2)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        kept = tmp_path / "killed" / "backup"
        before = set(kept.glob("epoch-*")) if kept.exists() else set()
        while process.poll() is None and not (kept.exists() and set(kept.glob("epoch-*")) - before):
            time.sleep(0.005)  # until there is something new, finished or not
        time.sleep(random.uniform(0, 0.1))
        process.kill()
        process.communicate()
        kills += 1
        if len(list(kept.glob("epoch-*"))) == 0:  # it had come to its end
            shutil.rmtree(tmp_path / "killed")
    assert ending(start("arrays", tmp_path / "killed", 2)) == whole
    assert len(whole) == 64


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 1)])
def test_a_signal_keeps_the_run_once_more_before_it_ends(number: int, code: int, tmp_path: Path) -> None:
    script = textwrap.dedent(
        f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parents[1])!r})
        import time
        from epochal.callbacks import BackupAndRestore, Callback
        from support.broken_off import N, dense, digits
        class Tell(Callback):
            def on_train_batch_end(self, batch, logs=None):
                print("batch", flush=True)
                time.sleep(0.05)
        model = dense()
        x, y = digits(N)
        model.fit(x, y, epochs=1000, verbose=0, callbacks=[Tell(), BackupAndRestore({str(tmp_path)!r}, 10**9)])
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    for _ in range(6):
        assert process.stdout.readline() == "batch\n"
    process.send_signal(number)
    shown = 6 + process.communicate()[0].count("batch")
    assert process.returncode in (code, -number)
    (kept,) = tmp_path.glob("epoch-*")
    content = read(kept)
    assert content["epoch"] * -(-N // 32) + content["batch"] == shown  # where it ended, not where it was last due

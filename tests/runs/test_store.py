"""A folder of checkpoints: what is broken, of others, or another run's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.broken_off import N, assert_weights, checkpoints, dense
from support.data import digits

from epochal.callbacks import BackupAndRestore
from epochal.runs.checkpoint_file import read, write
from epochal.runs.store import Store


def largest_file(folder: Path) -> Path:
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


BREAKS: dict[str, Callable[[Path], Any]] = {
    "cut short": lambda path: os.truncate(largest_file(path), largest_file(path).stat().st_size // 2),
    "emptied": lambda path: os.truncate(largest_file(path), 0),
    "a file is missing": lambda path: largest_file(path).unlink(),
    "all files are missing": lambda path: [shutil.rmtree(p) for p in path.iterdir() if p.is_dir()],
    "a number is another": lambda path: _changed(path / "data" / "metadata"),
    "no JSON": lambda path: (path / "data" / "metadata").write_text("{"),
    "another program's": lambda path: _written_by_another(path),
}


def _written_by_another(path: Path) -> None:
    """A whole checkpoint of Orbax, with nothing of ours in it."""
    shutil.rmtree(path)
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.CompositeCheckpointHandler(data=ocp.JsonCheckpointHandler())) as writer:
        writer.save(path, args=ocp.args.Composite(data=ocp.args.JsonSave({"step": 3})))


def _changed(path: Path) -> None:
    text = path.read_text()
    assert '"seed"' in text
    path.write_text(text.replace('"batch", ', '"batch",  ').replace('"trained", false', '"trained", true'))


@pytest.mark.parametrize("damage", BREAKS)
def test_a_broken_newest_checkpoint_is_skipped_for_the_one_before(damage: str, tmp_path: Path) -> None:
    for number in range(2):
        write(tmp_path / f"epoch-{number:06d}-batch-{0:09d}", content(number))
    store = Store(tmp_path)
    old, new = checkpoints(tmp_path)
    intact = store.newest()
    assert intact is not None
    assert (intact.path, str(intact.content)) == (new, str(content(1)))
    BREAKS[damage](new)
    with pytest.warns(UserWarning, match=f"{new.name} .* is broken .*going on from {old.name}"):
        found = store.newest()
    assert found is not None
    assert found.path == old
    BREAKS[damage](old)
    with pytest.raises(ValueError, match=r"No checkpoint in .* can be read"):
        store.newest()


def content(number: int) -> dict[str, Any]:
    return {
        "trained": False,
        "seed": number,
        "a": [np.arange(10_000.0) + number],
        "batch": {(1, "b"): b"\x00", "c": 2.5},
    }


def test_what_is_written_is_read(tmp_path: Path) -> None:
    values = {
        "numbers": [1, -2.5e-300, float("inf"), True, None, "ä"],
        "tuple": (1, (2, [])),
        "arrays": {
            "f": np.array(1.5, np.float32),
            "b": np.array([True]),
            "u": np.zeros(3, np.uint32),
            "e": np.zeros((0, 2)),
        },
        3: b"\xff",
    }
    write(tmp_path / "epoch-000000-batch-000000000", values)
    found = read(tmp_path / "epoch-000000-batch-000000000")
    assert str(found) == str(values)
    assert found["arrays"]["u"].dtype == np.uint32
    with pytest.raises(TypeError, match="got a set"):
        write(tmp_path / "other", {"a": {1, 2}})


def test_a_newer_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "epoch-000000-batch-000000000"
    monkeypatch.setattr("epochal.runs.checkpoint_file.FORMAT", 2)
    write(path, content(1))
    monkeypatch.setattr("epochal.runs.checkpoint_file.FORMAT", 1)
    message = f"Checkpoint {path} has format 2, this epochal reads up to 1: update epochal"
    model = dense()
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        model.fit(*digits(N), verbose=0, callbacks=[BackupAndRestore(tmp_path)])
    assert_weights(model, before)


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    x, y = digits(N)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "epoch-notes").mkdir()
    dense().fit(x, y, verbose=0, callbacks=[BackupAndRestore(tmp_path, 1)])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["epoch-notes", "notes.txt", "run.lock"]


def test_two_runs_do_not_write_to_one_folder(tmp_path: Path) -> None:
    holder = (
        f"import time; from epochal.runs.store import Store; store = Store({str(tmp_path)!r}); store.lock(); "
        "print(1, flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "1\n"
    x, y = digits(N)
    with pytest.raises(RuntimeError, match=rf"Another run writes to .*process {process.pid} on "):
        dense().fit(x, y, verbose=0, callbacks=[BackupAndRestore(tmp_path)])
    process.kill()  # and a killed one holds it no more
    process.communicate()
    dense().fit(x, y, verbose=0, callbacks=[BackupAndRestore(tmp_path)])


def test_a_full_disk_ends_no_training_and_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    write(tmp_path / f"epoch-{0:06d}-batch-{0:09d}", content(0))
    store = Store(tmp_path)
    assert store.newest() is not None
    script = f"""
import resource, signal, warnings
import numpy as np
from epochal.runs.store import Store
store = Store({str(tmp_path)!r})
assert store.newest() is not None
store.write(1, 0, {{"a": np.random.default_rng(0).normal(size=1000)}})
store.wait()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # a disk that takes no more than that in one file
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    store.write(2, 0, {{"a": np.random.default_rng(0).normal(size=1_000_000)}})
    store.wait()
print(caught[0].message)
"""
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "could not be written" in shown
    assert "the last good checkpoint is epoch-000001-batch-000000000" in shown
    assert [p.name for p in checkpoints(tmp_path)] == ["epoch-000000-batch-000000000", "epoch-000001-batch-000000000"]


def test_a_folder_that_cannot_be_written_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    x, y = digits(N)
    with pytest.raises(OSError, match=r"BackupAndRestore cannot write to .*file/backup: .*Choose another backup_dir"):
        dense().fit(x, y, verbose=0, callbacks=[BackupAndRestore(tmp_path / "file" / "backup")])

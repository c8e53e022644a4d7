"""Disks that are full or read-only."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.broken_off import N, dense
from support.data import digits
from support.same import same

from epochal.callbacks import BackupAndRestore


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[bool]:
    """A small file system of its own in a folder, where that is permitted; yields whether it is."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    permitted = shutil.which("mount") is not None and subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield permitted
    finally:
        if permitted:
            subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """`test_a_full_disk_…` shows the same where nothing may be mounted."""
    folder = tmp_path / "disk"
    with mounted(folder, "size=1m") as permitted:
        if not permitted:
            return
        # In a process of its own: Orbax leaves threads behind that complain of its event loop when they fail in turn.
        script = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r}); "
        script += "from pathlib import Path; from support.broken_off import trains_on_a_full_disk; "
        script += f"trains_on_a_full_disk(Path({str(folder)!r})); print('whole')"
        ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert ended.stdout == "whole\n", ended.stderr[-3000:]


def test_a_disk_that_is_read_only_is_refused_before_training(tmp_path: Path) -> None:
    x, y = digits(N)
    model = dense()
    before = model.get_weights()
    with mounted(tmp_path / "disk", "ro") as permitted:
        folder = tmp_path / "disk" if permitted else Path("/proc")  # where nobody can make a folder either
        with pytest.raises(OSError, match=f"BackupAndRestore cannot write to {folder}/backup: .*another backup_dir"):
            model.fit(x, y, verbose=0, callbacks=[BackupAndRestore(folder / "backup")])
    assert same(before, model.get_weights())

"""The command line as a program, and with Ctrl-C."""

import contextlib
import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
import time

import pyte
import pytest
from support.command_line import FIXED, PROGRAM, read_json

from epochal.models import load_model
from epochal.runs import run_folder
from epochal.tables import prepare, read_source


def test_program_says_one_sentence_and_exits_with_2(tmp_path):
    ended = subprocess.run([*PROGRAM, "fit", "absent.csv"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "epochal: There is no file 'absent.csv'.\n"
    assert list(tmp_path.iterdir()) == []


class InTerminal:
    """The program in a terminal of its own, as a shell starts it, in the folder `tmp_path`."""

    SHELL = (
        "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.executable, sys.argv[1:])"
    )

    def __init__(self, folder, arguments):
        self._master, self._slave = pty.openpty()
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 100, 0, 0))
        self.before = termios.tcgetattr(self._slave)
        environment = {k: v for k, v in os.environ.items() if k not in ("CI", "NO_COLOR")}
        ends = dict.fromkeys(("stdin", "stdout", "stderr"), self._slave)
        started = [sys.executable, "-c", self.SHELL, *PROGRAM, *arguments]
        more = {"cwd": folder, "env": {**environment, "TERM": "xterm"}, "start_new_session": True}
        self.process = subprocess.Popen(started, **ends, **more)
        self.raw = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        with contextlib.suppress(OSError):  # the other side is closed
            while piece := os.read(self._master, 4096):
                self.raw += piece

    def type(self, keys):
        os.write(self._master, keys)

    def end(self):
        """Waits for the program's end: its code, the terminal's settings, and what one sees."""
        try:
            code = self.process.wait(60)
        finally:
            self.process.kill()
            self.process.wait()
            settings = termios.tcgetattr(self._slave)
            os.close(self._slave)
            self._reader.join()
            os.close(self._master)
        screen = pyte.Screen(100, 50)
        pyte.ByteStream(screen).feed(self.raw)
        return code, settings, screen


@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM"])
def test_a_run_that_is_broken_off_is_kept_and_leaves_the_terminal_as_it_was(how, tmp_path):
    forever = ["fit", "iris", "--epochs", "100000", "--patience", "100000", "--run-dir", "r", *FIXED]
    terminal = InTerminal(tmp_path, forever)
    log, deadline = tmp_path / "r" / "log.jsonl", time.monotonic() + 60
    try:
        while not (log.exists() and log.read_text().count("\n") > 4):
            assert time.monotonic() < deadline, terminal.raw
            assert terminal.process.poll() is None, terminal.raw
            time.sleep(0.05)
        terminal.type(b"\x03") if how == "Ctrl-C" else terminal.process.terminate()
    finally:
        code, settings, screen = terminal.end()
    said = "\n".join(line.rstrip() for line in screen.display).rstrip()
    for changed in (b"\x1b[?25l", b"\x1b[32m"):  # the cursor was hidden, and there were colours
        assert changed in terminal.raw
    assert not screen.cursor.hidden
    assert screen.cursor.attrs == pyte.Screen(1, 1).cursor.attrs
    assert (screen.cursor.x, screen.cursor.y) == (0, said.count("\n") + 1)
    assert screen.mode == pyte.Screen(1, 1).mode
    assert b"\x1b[?1049" not in terminal.raw  # the alternate screen
    assert settings == terminal.before
    assert settings[3] & termios.ECHO
    assert "Traceback" not in said
    if how == "SIGTERM":
        assert code == 143
        assert said.splitlines()[-1] == "epochal: terminated; go on with: epochal fit --resume r"
        assert list((tmp_path / "r" / "backup").glob("epoch-*"))
        return
    assert code == 130
    assert "interrupted" in said
    summary = read_json(tmp_path / "r" / "summary.json")
    assert summary["status"] == "interrupted"
    assert json.loads(log.read_text().splitlines()[-1])["reason"] == "interrupted"
    model = load_model(tmp_path / "r" / "model")
    prepared = prepare(read_source("iris"))
    values = model.evaluate(prepared.x_validation, prepared.y_validation, verbose=0, return_dict=True)
    assert values["loss"] == pytest.approx(summary["metrics"]["val_loss"], rel=1e-5)


def test_runs_of_the_same_second_have_folders_of_their_own(tmp_path):
    made = [run_folder.make_folder(tmp_path / "runs" / "now-iris", exact=False) for _ in range(3)]
    assert [folder.name for folder in made] == ["now-iris", "now-iris-2", "now-iris-3"]
    assert run_folder.make_folder(made[0], exact=True) == made[0]


def test_a_reader_that_goes_away_does_not_end_the_run(tmp_path):
    folder = tmp_path / "run"
    command = (
        f"{sys.executable} -m epochal fit iris --epochs 3 --batch-size 32 --no-plot --run-dir {folder} | head -n 2"
    )
    subprocess.run(["bash", "-c", command], check=True, capture_output=True, timeout=120)
    for _ in range(200):
        if (folder / "summary.json").exists():
            break
        time.sleep(0.1)
    assert read_json(folder / "summary.json")["epochs"] == 3

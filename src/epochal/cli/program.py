"""The command line: `epochal fit`, `epochal replay`, `epochal evaluate`, `epochal predict`, `epochal plan` and `study`.

What the user can put right ends in one sentence on stderr and exit code 2; Ctrl-C in 130. Whatever else goes wrong is a
bug, and shows its traceback.
"""

from __future__ import annotations

import importlib
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import version

import tyro

from epochal.cli.options import Command, Evaluate, Fit, Plan, Predict, Replay, Study
from epochal.support.errors import InputError

# What carries out a command. It is imported when it is asked for: `--help` and a wrong option need no JAX.
_CARRIED_OUT_BY: dict[type[Command], str] = {
    Fit: "epochal.cli.fit:fit",
    Replay: "epochal.cli.replay:replay",
    Evaluate: "epochal.cli.predict:evaluate",
    Predict: "epochal.cli.predict:predict",
    Plan: "epochal.cli.plan:plan",
    Study: "epochal.cli.study:study",
}

_DESCRIPTION = """Train a network on a table, look at the result, use it.

  epochal fit digits                            a bundled data set: digits, diabetes, breast_cancer, iris, wine
  epochal fit houses.csv --target price         your own: .csv, .parquet, .npz
  epochal fit --resume runs/20260101-120000-houses    one that was killed or interrupted goes on where it was
  epochal replay runs/20260101-120000-houses --epoch 3 --batch 17      one step of it, made again to be looked at
  epochal plan digits                           which batch size to take, measured
  epochal evaluate runs/20260101-120000-houses new.csv
  epochal predict runs/20260101-120000-houses new.csv -o prices.csv
  epochal study digits                          which batch size is good for what, on one page
  epochal --version

Everything a fit leaves behind is in its run folder: model/, curves.png, history.csv, summary.json, log.jsonl."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: without the program's name; None: those the program was started with.

    Returns:
        the exit code: 0, 2 for what the user can put right, 130 after Ctrl-C.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given in (["--version"], ["-V"]):
        print(f"epochal {version('epochal')}")
        return 0
    try:
        return _carried_out(tyro.cli(Command, prog="epochal", description=_DESCRIPTION, args=given), given)
    except SystemExit as end:  # tyro: 0 after --help, 2 after a wrong option
        return end.code if isinstance(end.code, int) else 2
    except (InputError, OSError) as error:
        print(f"epochal: {_sentence(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("epochal: interrupted.", file=sys.stderr)
        return 130


def _carried_out(command: Command, given: Sequence[str]) -> int:
    """Does what the options say; the exit code."""
    module, _, name = _CARRIED_OUT_BY[type(command)].partition(":")
    function = getattr(importlib.import_module(module), name)
    return function(command, shlex.join(["epochal", *given])) if isinstance(command, Fit) else function(command)


def _sentence(error: Exception) -> str:
    """An error's message on one line; a failed system call as "what: which file"."""
    if isinstance(error, OSError) and error.strerror:
        where = f": {str(error.filename)!r}" if error.filename else ""
        return f"{error.strerror}{where}."
    return " ".join(str(error).split())

"""What the program needs before it knows what to do: nothing of JAX, so that it answers at once."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from epochal.cli import main, program

STARTED = """
import sys
import epochal
from epochal.cli import main
code = main({arguments!r})
print(code, *(name for name in {heavy!r} if name in sys.modules), file=sys.stderr)
"""
HEAVY = ["flax", "jax", "jaxlib", "jaxtyping", "matplotlib", "numpy", "optax", "polars", "scipy"]


def started(code: str) -> tuple[str, str]:
    """What a fresh process wrote to its two streams."""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return process.stdout, process.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--help"], 0, "epochal predict"),
        (["fit", "--help"], 0, "--validation-split"),
        (["--version"], 0, "epochal 0."),
        (["fit", "digits", "--epoch", "3"], 2, "--epoch"),
        (["train"], 2, "train"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_help_version_and_a_wrong_option_load_nothing_heavy(arguments: list[str], code: int, told: str) -> None:
    output, errors = started(STARTED.format(arguments=arguments, heavy=HEAVY))
    assert told in output + errors
    assert errors.splitlines()[-1] == str(code)  # and no module


def test_import_epochal_alone_starts_no_jax_and_settles_the_heap_before_its_threads() -> None:
    code = """
import sys
from epochal.runtime import heap
seen = [name for name in ("jax", "jaxlib", "flax", "numpy") if name in sys.modules]
library = heap._library
import epochal
print(seen, library is heap._library, "jax" in sys.modules)
epochal.Model
print("jax" in sys.modules)
"""
    assert started(code)[0].splitlines() == ["[] True False", "True"]


def test_every_command_is_carried_out_by_a_function_that_is_there(monkeypatch: Any) -> None:
    called = []
    for options, path in program._CARRIED_OUT_BY.items():
        monkeypatch.setattr(path.replace(":", "."), lambda *given, kind=options: called.append((kind, given)) or 7)
    lines = ["fit digits", "replay run --epoch 1 --batch 1", "evaluate run digits", "predict run digits -o x.csv"]
    for line in [*lines, "plan digits", "study digits"]:
        assert main(line.split()) == 7
    assert [kind for kind, _ in called] == list(program._CARRIED_OUT_BY)
    assert called[0][1][1] == "epochal fit digits"

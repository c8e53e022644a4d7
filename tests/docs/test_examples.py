"""The scripts in `examples/` run, and those written for Keras print the same facts when Keras runs them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
OURS = "epochal"
FOR_KERAS = ["two_inputs_two_outputs", "subclass", "callback", "generator"]
# What a network that learned nothing does not reach: accuracies, losses in units of the first epoch's.
LEARNED = {"accuracy": 0.8, "loss": 0.8}


def printed(name: str, library: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What the script prints with this library for its import."""
    text = (EXAMPLES / f"{name}.py").read_text()
    text, changed = re.subn(r"^(import|from) epochal\b", rf"\1 {library}", text, flags=re.MULTILINE)
    assert changed
    capsys.readouterr()
    exec(compile(text, f"{name}.py", "exec"), {"__name__": "__main__"})
    return capsys.readouterr().out.splitlines()


def facts(lines: list[str]) -> list[str]:
    """The lines that do not depend on the first weights."""
    return [line for line in lines if not line.startswith(("accuracy", "loss", "both outputs"))]


def learned(lines: list[str]) -> None:
    """Asserts that the last printed loss or accuracy is that of a model that has learned."""
    results = [line for line in lines if line.startswith(("accuracy", "loss"))]
    assert results
    for line in results:
        values = [float(value) for value in re.findall(r"\d+\.\d+", line)]
        if line.startswith("accuracy"):
            assert values[-1] > LEARNED["accuracy"], line
        else:
            assert values[-1] < LEARNED["loss"] * values[0], line


@pytest.mark.filterwarnings("ignore:Explicitly requested dtype:UserWarning")  # Keras, with newer JAX
@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed:UserWarning:keras")  # Keras warns of its own default
@pytest.mark.parametrize("name", FOR_KERAS)
def test_a_script_for_keras_runs_unchanged(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    ours = printed(name, OURS, capsys)
    theirs = printed(name, "keras", capsys)
    assert facts(ours) == facts(theirs)
    assert len(ours) == len(theirs)
    learned(ours)
    learned(theirs)


def test_a_flax_module_is_trained(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed("flax_module", OURS, capsys)
    assert "`net` is what was trained: True" in lines
    learned(lines)


def test_every_example_is_run() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*FOR_KERAS, "flax_module"}

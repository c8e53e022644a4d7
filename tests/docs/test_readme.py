"""The README's Python runs as written, from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"


def test_every_python_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(blocks) >= 3
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    assert (tmp_path / "digits-model" / "config.json").exists()
    assert (tmp_path / "curves.png").exists()


def test_the_two_commands_are_those_of_the_continuous_integration() -> None:
    text = README.read_text()
    assert 'pip install -e ".[all]" && epochal fit digits' in text
    command = 'pip install -e ".[test]" && pytest'
    assert command in text
    assert command in (README.parent / ".ci" / "run").read_text()

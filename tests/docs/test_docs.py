"""The Python of docs/batch-size.md runs as written, from top to bottom, and makes its picture."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from epochal.plans import step_times

DOCS = Path(__file__).parents[2] / "docs"


def test_every_python_block_of_the_batch_size_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(step_times, "ROUNDS", 1)  # how often a plan times each size, where the page shows one
    text = (DOCS / "batch-size.md").read_text(encoding="utf-8")
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        exec(compile(block, "docs/batch-size.md", "exec"), names)
    pictures = re.findall(r"!\[[^\]]{20,}\]\(([^)]+)\)", text)
    assert pictures == ["batch-size/study.png"]
    for picture in pictures:
        assert (DOCS / picture).exists()
        assert (tmp_path / picture).exists()

"""The map fits on a page or two, and so does every decision; the index has them all by their titles."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DECISIONS = ROOT / "docs" / "decisions"
PAGES = sorted(DECISIONS.glob("[0-9]*.md"))


def test_the_map_has_at_most_80_lines() -> None:
    assert len((ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").splitlines()) <= 80


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_decision_has_its_number_a_status_and_at_most_45_lines(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith(f"# {page.stem[:3]}. ")
    assert lines[1].startswith("Status: ")
    assert len(lines) <= 45


def test_the_index_has_every_decision_once_by_its_title() -> None:
    index = (DECISIONS / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^- \[(\d+)\]\(([^)]+)\) (.+)$", index, flags=re.MULTILINE)
    titles = [(page.stem[:3], page.name, page.read_text(encoding="utf-8").splitlines()[0][7:]) for page in PAGES]
    assert sorted(listed) == titles
    assert [number for number, _, _ in titles] == [f"{i:03}" for i in range(1, len(PAGES) + 1)]

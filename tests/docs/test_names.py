"""What stands in backticks on a page is there: files, names of epochal, and tests."""

from __future__ import annotations

import functools
import importlib
import pkgutil
import re
from pathlib import Path
from typing import Any

import pytest

import epochal

ROOT = Path(__file__).parents[2]
PLACES = [ROOT, ROOT / "src" / "epochal", ROOT / "tests"]
PAGES = [ROOT / name for name in ("ARCHITECTURE.md", "CONTRIBUTING.md", "README.md")] + sorted(
    ROOT.glob("docs/**/*.md")
)
ROOMS = {module.name for module in pkgutil.iter_modules(epochal.__path__)} - {"__main__"}
FOLDERS = {path.name for place in PLACES for path in place.iterdir() if path.is_dir()} - {"runs", "data", "__pycache__"}

FILE = re.compile(r"[\w*./-]+\.(?:py|md|toml)|[\w*./-]+/")
NAME = re.compile(r"((?:\w+\.)+\w+)(?:\(.*\))?")
TEST = re.compile(r"(?:[\w/]+\.py::)?(test_\w+)(?:\[.*\])?")


def ticked(page: Path) -> list[str]:
    """What stands in backticks, outside of blocks of code."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"`([^`\n]+)`", text)


def is_there(path: str) -> bool:
    """Whether it is a file or folder of the repository, or a pattern of some; or of what a user has, like runs/."""
    first = path.partition("/")[0]
    if path.endswith("/") and first not in FOLDERS:
        return True  # a folder that a run writes
    return any(list(place.glob(path.rstrip("/"))) for place in PLACES)


def resolves(name: str) -> bool:
    """Whether `name`, from `epochal` on or from one of its rooms on, can be imported or is an attribute."""
    parts = name.removeprefix("epochal.").split(".")
    found: Any = epochal
    for i, part in enumerate(parts):
        if not hasattr(found, part):
            path = ".".join(["epochal", *parts[: i + 1]])
            try:
                importlib.import_module(path)
            except ModuleNotFoundError:
                return False
        found = getattr(found, part)
    return True


@functools.cache
def known_tests() -> set[str]:
    """The names of all tests and of their files."""
    files = list((ROOT / "tests").rglob("*.py"))
    return {file.stem for file in files} | {n for f in files for n in re.findall(r"def (test_\w+)", f.read_text())}


def is_right(word: str) -> bool:
    if FILE.fullmatch(word):
        return is_there(word)
    if test := TEST.fullmatch(word):
        return test[1] in known_tests()
    name = NAME.fullmatch(word)
    return name is None or name[1].partition(".")[0] not in {"epochal", *ROOMS} or resolves(name[1])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_and_names_of_a_page_are_there(page: Path) -> None:
    assert [word for word in ticked(page) if not is_right(word)] == []


@pytest.mark.parametrize(
    ("word", "right"),
    [
        ("src/epochal/models/model.py", True),
        ("models/model.py", True),
        ("tests/docs/test_*.py", True),
        ("models/mode.py", False),
        ("benchmarks/nothing/", False),
        ("models.Model.fit(x, y)", True),
        ("epochal.engine.loop.train", True),
        ("engine.loop.nothing", False),
        ("engine.nothing.train", False),
        ("jax.nothing", True),  # not ours
        ("test_files_and_names_of_a_page_are_there", True),
        ("test_nothing_at_all", False),
    ],
)
def test_what_is_right(word: str, right: bool) -> None:
    assert is_right(word) is right

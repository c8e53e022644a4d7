"""Fixtures of the tests in `runs`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
from support.broken_off import run


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """What is left of a run that nothing broke off, by kind of data."""
    return functools.cache(lambda kind: run(kind, tmp_path_factory.mktemp("whole")))

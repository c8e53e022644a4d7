"""Fixtures of the tests in `study`."""

import pytest
from support.studies import digits_study


@pytest.fixture(scope="session")
def study(tmp_path_factory):
    return digits_study(tmp_path_factory.mktemp("study"))

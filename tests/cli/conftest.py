"""Fixtures of the tests in `cli`."""

import pytest
from support.command_line import FLOWERS, SHORT, houses

from epochal.cli.program import main


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    houses().write_csv(folder / "houses.csv")
    return folder


@pytest.fixture(scope="session")
def flowers(place):
    """A run folder of a classification."""
    folder = place / "flowers"
    assert main([*FLOWERS, "--run-dir", str(folder)]) == 0
    return folder


@pytest.fixture(scope="session")
def prices(place):
    """A run folder of a regression."""
    folder = place / "prices"
    command = ["fit", str(place / "houses.csv"), "--target", "price", "--epochs", "60", "--run-dir", str(folder)]
    assert main([*command, "--learning-rate", "0.01", "--batch-size", "full", "--verbose", "0"]) == 0
    return folder


@pytest.fixture(scope="session")
def whole(place):
    """A run folder that nothing broke off."""
    assert main([*SHORT, str(place / "whole")]) == 0
    return place / "whole"

"""Random training runs, done by Keras and epochal: `support/differential.py` has them, and says what agreement is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.differential_play import FLOOR, TOLERANCE, differences, labels_in_order


def _agree(*arguments: str) -> None:
    """A process of its own, in which XLA compiles fast instead of well."""
    tests = Path(__file__).parents[1]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}  # it has its own
    done = subprocess.run(
        [sys.executable, "-m", "support.differential", *arguments],
        cwd=tests,
        capture_output=True,
        text=True,
        env=environment,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


def test_twenty_random_trainings_agree_with_keras() -> None:
    _agree("20", "--seed", "1")


@pytest.mark.slow
def test_three_hundred_random_trainings_agree_with_keras_and_every_rule_is_needed() -> None:
    _agree("300", "--why")


def test_what_a_difference_is() -> None:
    expected = {"loss": [1.0, 2.0], "weights": [np.ones((2, 2)), np.zeros(3)]}

    def found(**changed: object) -> list[str]:
        return list(differences({**expected, **changed}, expected))

    assert found() == []
    assert found(loss=[1.0 + TOLERANCE / 2, 2.0]) == []
    assert found(loss=[1.0 + 2 * TOLERANCE, 2.0]) == ["['loss'][0]: 1.0002, of Keras 1"]
    assert found(weights=[np.ones((2, 2)), np.array([0, 0, 2 * FLOOR])]) == ["['weights'][1]: 2e-05, of Keras 0"]
    assert found(loss=[1.0]) == ["['loss']: 1 values, of Keras 2"]
    assert found(weights=[np.ones(2), np.zeros(3)]) == ["['weights'][0]: shape (2,), of Keras (2, 2)"]
    assert found(val_loss=[1.0])[0].startswith(": keys")
    assert found(loss=[float("nan"), 2.0]) == ["['loss'][0]: nan, of Keras 1"]


def test_labels_in_the_order_of_rule_C5() -> None:
    names = ("first", "second")
    kept_by_keras = ["loss", "first_mae", "second_weighted_mae", "second_loss", "first_loss"]
    ordered = ["loss", "first_loss", "second_loss", "first_mae", "second_weighted_mae"]
    assert labels_in_order(kept_by_keras, names) == ordered

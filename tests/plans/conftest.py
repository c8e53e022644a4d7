"""Fixtures of the tests in `plans`."""

from __future__ import annotations

import pytest

from epochal.plans import step_times, trial_noise


@pytest.fixture(scope="module")
def quick():
    """Few sizes, short looks: nothing here depends on how long anything takes."""
    patch = pytest.MonkeyPatch()
    for name, value in {"SIZES": (64, 16), "ROUNDS": 1, "SLICE": 1e-4}.items():
        patch.setattr(step_times, name, value)
    for name, value in {"LOOKS": (1, 2), "GRADIENTS": 32}.items():
        patch.setattr(trial_noise, name, value)
    yield
    patch.undo()

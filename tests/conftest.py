"""Shared by all tests: Keras, the oracle, runs on JAX; every test starts from the same random seed."""

import os

os.environ["KERAS_BACKEND"] = "jax"

import pytest

from epochal.random import set_random_seed


@pytest.fixture(autouse=True)
def _seeded():
    set_random_seed(0)

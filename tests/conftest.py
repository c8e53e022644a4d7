"""Shared by all tests: Keras, the oracle, runs on JAX; every test starts from the same random seed."""

import atexit
import os
import shutil
import tempfile

os.environ["KERAS_BACKEND"] = "jax"
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # Most of the time is compiling, and many tests compile the same programs: all processes of a run share them.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="epochal-tests-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import pytest
from hypothesis import settings

from epochal.random import set_random_seed

settings.register_profile("untimed", deadline=None)  # nothing is timed in a test
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def _seeded():
    set_random_seed(0)

"""Shared by all tests: Keras, the oracle, runs on JAX; every test starts from the same random seed."""

import atexit
import os
import shutil
import tempfile
from importlib import metadata

os.environ["KERAS_BACKEND"] = "jax"
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # Most of the time is compiling, and many tests compile the same programs: all processes of a run share them.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="epochal-tests-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
if "--xla" not in os.environ.get("XLA_FLAGS", "") and metadata.version("jaxlib").startswith("0.10."):
    # XLA cuts every program into 32 parts, to compile them in parallel; the tests are in parallel already. Same code.
    # Newer versions may not know the flag, and would end the process.
    os.environ["XLA_FLAGS"] = "--xla_cpu_parallel_codegen_split_count=1"
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import pytest
from hypothesis import settings

pytest.register_assert_rewrite("support")  # helpers that compare say what differs

from epochal.random import set_random_seed  # noqa: E402  (it imports `support.typechecker`)

settings.register_profile("untimed", deadline=None)  # nothing is timed in a test
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def _seeded():
    set_random_seed(0)

"""Shared by all tests: Keras, the oracle, runs on JAX; every test starts from the same random seed."""

import atexit
import gc
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

import jax
import pytest
from hypothesis import settings
from jax._src import compiler

pytest.register_assert_rewrite("support")  # helpers that compare say what differs

from epochal.random import set_random_seed  # noqa: E402  (it imports `support.typechecker`)

settings.register_profile("untimed", deadline=None)  # nothing is timed in a test
settings.load_profile("untimed")

# What is asked in these rooms is the bits of different programs, or memory and time: programs are compiled as users'
# are. So they are for tests marked `optimized`, and everywhere with `pytest --optimized` and for the slow proofs. Else
# XLA leaves out what makes code fast, in Keras's programs too, which takes less than half of the time.
_compile_options = compiler.get_compile_options
OPTIMIZED = {"data", "engine", "plans", "runs", "runtime", "study"}


def _quick_options(*args, env_options_overrides=None, **named):
    given = {"xla_cpu_use_fusion_emitters": False, **(env_options_overrides or {})}
    return _compile_options(*args, env_options_overrides=given, **named)


def _compile_quickly(quick):
    jax.config.update("jax_disable_most_optimizations", quick)
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(int(quick))  # for the processes that a test starts
    if metadata.version("jaxlib").startswith("0.10."):  # as above; and JAX has no setting for such a flag
        compiler.get_compile_options = _quick_options if quick else _compile_options


def pytest_addoption(parser):
    parser.addoption("--optimized", action="store_true", help="compile as users' programs are, in all tests")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    marked = item.get_closest_marker("optimized") or item.get_closest_marker("slow")
    quick = not (item.config.getoption("--optimized") or marked or item.path.parent.name in OPTIMIZED)
    _compile_quickly(quick)
    return (yield)


def pytest_collection_finish():
    gc.collect()
    gc.freeze()  # modules and tests stay: collections need not look at them again


@pytest.fixture(autouse=True)
def _seeded():
    set_random_seed(0)

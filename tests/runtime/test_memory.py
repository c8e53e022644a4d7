"""What a step needs in memory, and how much there is."""

from __future__ import annotations

import importlib.util
import resource
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epochal.runtime import heap, memory
from epochal.support.text import shown


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch):
    monkeypatch.delenv(memory.VARIABLE, raising=False)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MACHINE = {"proc/meminfo": "MemTotal:  2000 kB\nMemAvailable:  1000 kB\n", "proc/self/status": "VmSize:\t 300 kB\n"}


# -- what a program needs


@pytest.fixture
def reported(monkeypatch):
    """Bytes as the compiler reports them, without the calibration."""
    monkeypatch.setattr(memory, "CALIBRATION", {})


def test_bytes_are_those_reported_times_the_platform_s_calibration(monkeypatch):
    compiled = jax.jit(jnp.sin).lower(jax.ShapeDtypeStruct((1000,), jnp.float32)).compile()
    found = compiled.memory_analysis()
    size = found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes
    assert memory.program_bytes(compiled, "cpu") == int(memory.CALIBRATION["cpu"] * size)
    monkeypatch.setattr(memory, "CALIBRATION", {"there": 3.0})
    assert memory.program_bytes(compiled, "there") == 3 * size
    assert memory.program_bytes(compiled, "elsewhere") == size


def test_needed_are_arguments_results_and_temporaries(reported):
    x = jax.ShapeDtypeStruct((1000, 1000), jnp.float32)  # 4 MB

    def product_and_sum(x: Any) -> Any:
        return jnp.sin(x @ x) @ x  # two temporaries at most

    compiled = jax.jit(product_and_sum).lower(x).compile()
    assert 12e6 <= memory.program_bytes(compiled) <= 16.1e6


def test_results_in_the_memory_of_donated_arguments_count_once(reported):
    x = jax.ShapeDtypeStruct((1000, 1000), jnp.float32)
    kept, donated = (jax.jit(lambda x: x + 1, donate_argnums=d).lower(x).compile() for d in ((), (0,)))
    assert memory.program_bytes(kept) - memory.program_bytes(donated) == 4_000_000


def test_need_is_learned_of_arguments_that_could_not_exist():
    huge = jax.ShapeDtypeStruct((2**40,), jnp.float32)  # 4 TiB
    assert memory.program_bytes(jax.jit(jnp.sum).lower(huge).compile()) >= 2**42


def test_bytes_of_a_tree_count_arrays_and_shapes():
    tree = {"a": np.zeros((3, 5), np.float32), "b": [jax.ShapeDtypeStruct((7,), jnp.int16)]}
    assert memory.tree_bytes(tree) == 60 + 14


# -- how much there is


@pytest.mark.parametrize(
    ("given", "size"),
    [
        (600, 600),
        (np.int64(600), 600),
        (1e9, 10**9),
        ("600", 600),
        ("600B", 600),
        ("600MB", 600 * 10**6),
        ("1.5 GB", 1_500_000_000),
        ("2GiB", 2 * 2**30),
        ("512kib", 512 * 1024),
        ("3g", 3 * 10**9),
    ],
)
def test_a_limit_is_a_number_of_bytes_or_text_with_a_unit(given, size):
    assert memory.limit(given) == memory.Limit(size, "memory_limit")


@pytest.mark.parametrize("given", [0, -5, True, "many", "5 XB", "GB", "", [], "1e3MB", float("nan")])
def test_another_limit_is_refused(given):
    with pytest.raises(ValueError, match=r'Expected memory_limit to be .*"600MB" or "2GiB", got '):
        memory.limit(given)


def test_the_argument_is_heard_before_the_environment_and_that_before_the_machine(monkeypatch, tmp_path):
    root = write(tmp_path, MACHINE)
    monkeypatch.setenv(memory.VARIABLE, "2kB")
    assert memory.limit(7, root=root).bytes == 7
    assert memory.limit(root=root) == (2000, memory.VARIABLE)
    monkeypatch.setenv(memory.VARIABLE, "much")
    with pytest.raises(ValueError, match="Expected EPOCHAL_MEMORY_LIMIT"):
        memory.limit(root=root)


def test_nine_tenths_of_what_the_machine_has_left(tmp_path):
    found = memory.limit(root=write(tmp_path, MACHINE))
    assert found == (int(0.9 * 1000 * 1024), "the machine's available memory")


def test_arrays_that_are_there_count_as_training_s(tmp_path):
    """They need no reserve."""
    assert memory.limit(held=24 * 1024, root=write(tmp_path, MACHINE)).bytes == int(0.9 * 1000 * 1024) + 24 * 1024


def test_address_space_that_is_taken_is_not_left(monkeypatch, tmp_path):
    monkeypatch.setattr(resource, "getrlimit", lambda which: (500 * 1024, -1))
    found = memory.limit(root=write(tmp_path, MACHINE))
    assert found == (int(0.9 * 200 * 1024), "RLIMIT_AS (ulimit -v)")


@pytest.mark.parametrize(
    "files",
    [
        {
            "proc/self/cgroup": "0::/jobs/mine\n",
            "sys/fs/cgroup/jobs/mine/memory.max": "max\n",
            "sys/fs/cgroup/jobs/mine/memory.current": "5\n",
            "sys/fs/cgroup/jobs/memory.max": "9000\n",  # of the group around it
            "sys/fs/cgroup/jobs/memory.current": "6000\n",
            "sys/fs/cgroup/jobs/memory.stat": "anon 5000\ninactive_file 1000\n",
        },
        {
            "proc/self/cgroup": "5:cpu,cpuacct:/\n4:memory:/jobs/mine\n0::/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2**63 - 4096}\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "77\n",
            "sys/fs/cgroup/memory/jobs/mine/memory.limit_in_bytes": "9000\n",
            "sys/fs/cgroup/memory/jobs/mine/memory.usage_in_bytes": "6000\n",
            "sys/fs/cgroup/memory/jobs/mine/memory.stat": "inactive_file 5\ntotal_inactive_file 1000\n",
        },
        {
            "proc/self/cgroup": "4:memory:/docker/0123\n",  # as the host names it
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9000\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "6000\n",
            "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 1000\n",
        },
    ],
    ids=["version 2", "version 1", "container"],
)
def test_a_control_group_leaves_its_limit_less_what_is_used_but_for_caches(files, tmp_path):
    found = memory.limit(root=write(tmp_path, {**MACHINE, **files}))
    assert found == (int(0.9 * 4000), "the control group's memory limit")


def test_a_group_that_is_full_leaves_nothing(tmp_path):
    files = {
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/memory.max": "1000\n",
        "sys/fs/cgroup/memory.current": "1500\n",
    }
    assert memory.limit(root=write(tmp_path, {**MACHINE, **files})).bytes == 0


def test_a_device_that_knows_its_memory_decides(monkeypatch, tmp_path):
    class Device:
        def memory_stats(self):
            return {"bytes_limit": 1000, "bytes_in_use": 400}

    monkeypatch.setattr(jax, "local_devices", lambda: [Device()])
    assert memory.limit(root=write(tmp_path, MACHINE)) == (540, "the device's memory")


def test_this_machine_has_a_limit():
    found = memory.limit()
    assert 10**7 < found.bytes < 2**50
    assert found.source


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (87_840_000, "87.8 MB"),
        (1_016_450_000, "1.02 GB"),
        (655_760_000, "656 MB"),
        (3e12, "3 TB"),
    ],
)
def test_sizes_are_shown_with_three_digits(size, text):
    assert shown(size) == text


def test_room_in_the_heap_counts_as_address_space_for_small_arrays_only(monkeypatch, tmp_path):
    monkeypatch.setattr(resource, "getrlimit", lambda which: (500 * 1024, -1))
    monkeypatch.setattr(heap, "room", lambda: 10 * 1024)
    root = write(tmp_path, MACHINE)
    for copied, counted in ((0, 0), (4 * 1024, 4 * 1024), (99 * 1024, 10 * 1024)):
        assert memory.limit(copied=copied, root=root).bytes == int(0.9 * (200 * 1024 + counted))


def test_a_first_step_needs_the_copy_of_the_state_beside_the_program():
    compiled = jax.jit(jnp.sin).lower(jax.ShapeDtypeStruct((1000,), jnp.float32)).compile()
    beside = 120 if jax.default_backend() == "cpu" else 0
    assert memory.step_bytes(compiled, {"a": np.zeros(30, np.float32)}) == memory.program_bytes(compiled) + beside


@pytest.mark.slow  # processes of their own, of minutes
@pytest.mark.parametrize("family", ["lstm", "batchnorm_cnn"])
def test_the_largest_batch_that_is_said_to_fit_trains_and_one_1_3_times_as_large_does_not(family, tmp_path):
    """Under RLIMIT_AS, not cut; benchmarks/memory.py does it with six families."""
    file = Path(__file__).parents[2] / "benchmarks/memory.py"
    spec = importlib.util.spec_from_file_location("memory_benchmark", file)
    assert spec is not None
    assert spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    found = benchmark.limits(family, str(tmp_path))
    assert found["trains"]
    assert found["trains alone"]
    assert found["refused"]
    assert found["fails"]

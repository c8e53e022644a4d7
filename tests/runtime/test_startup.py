"""What a start costs: what `import epochal` brings along, and programs that are compiled once for all starts."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from epochal.runtime import program_cache

HEAVY = "orbax.checkpoint matplotlib rich polars sklearn tyro grain cloudpickle loky safetensors pandas IPython.display"

FIT = """
import hashlib, sys
import jax, numpy as np
import epochal as keras
keras.utils.set_random_seed(1)
x = np.linspace(-1, 1, 120, dtype="float32").reshape(60, 2)
hidden = [keras.layers.Dense(8, activation="relu"), keras.layers.Dropout(0.2)]
model = keras.Sequential([keras.Input((2,)), *hidden, keras.layers.Dense(1)])
model.compile("adam", "mse", metrics=["mae"])
history = model.fit(x, x[:, 0], batch_size=16, epochs=3, verbose=0, validation_split=0.2).history
arrays = [*model.get_weights(), *jax.tree.leaves(model.optimizer.state), *history.values(), model.predict(x, verbose=0)]
content = b"".join(np.asarray(a).tobytes() for a in arrays)
print(jax.config.jax_compilation_cache_dir, hashlib.sha256(content).hexdigest())
"""


def started(code: str, **variables: str) -> subprocess.Popen:
    """A fresh process in which warnings are errors, with no folder for programs but what `variables` say."""
    kept = {name: value for name, value in os.environ.items() if "CACHE" not in name}
    # A program is kept however fast the machine compiles it.
    code = code.replace(
        "import epochal as keras",
        "import epochal as keras\nfrom epochal.runtime import program_cache; program_cache.MIN_COMPILE_SECONDS = 0",
    )
    command = [sys.executable, "-W", "error", "-c", code]
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env={**kept, **variables}, **streams)


def said(process: subprocess.Popen) -> list[str]:
    """The words it printed, and nothing else: no warning, no error."""
    output, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    return output.split()


def programs(folder: Path) -> dict[str, int]:
    """When each kept program was written."""
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("*-cache")}


def test_import_brings_nothing_that_is_needed_only_later() -> None:
    names = HEAVY.split()
    code = "import sys, jax, flax.nnx; old = set(sys.modules); {}; print(*(set({!r}) & (set(sys.modules) - old)))"
    everything = "import epochal; [getattr(epochal, name) for name in dir(epochal) if name != 'batch_size_study']"
    assert said(started(code.format(everything, names))) == []
    # The test can fail: a save needs one of them.
    saved = "from epochal.saving import weight_files; weight_files.as_safetensors(dict())"
    assert said(started(code.format(saved, names))) == ["safetensors"]


def test_import_leaves_jax_as_it_was() -> None:
    code = "import jax; before = dict(jax.config.values); {}; print(dict(jax.config.values) == before)"
    assert said(started(code.format("import epochal; epochal.Model; epochal.batch_size_study"))) == ["True"]


def test_programs_are_kept_for_the_next_start_and_change_no_bit(tmp_path: Path) -> None:
    """Four processes that start at once share a folder; a fifth finds all programs, a sixth keeps none."""
    folder = tmp_path / "cache"
    at_once = [said(process) for process in [started(FIT, XDG_CACHE_HOME=str(folder)) for _ in range(4)]]
    kept = programs(folder)
    assert any(name.startswith("jit_train-") for name in kept)
    (used,) = {path for path, _ in at_once}
    assert Path(used).parent == folder / "epochal"
    assert stat.S_IMODE(Path(used).stat().st_mode) == 0o700
    unfinished = Path(used) / "jit_train-0-cache"
    unfinished.write_bytes(b"cut off")
    again = said(started(FIT, XDG_CACHE_HOME=str(folder)))
    assert programs(folder) == kept  # nothing was compiled again, and what a killed process left is gone
    off = said(started(FIT, XDG_CACHE_HOME=str(tmp_path / "other"), EPOCHAL_CACHE="off"))
    assert off[0] == "None"
    assert not (tmp_path / "other").exists()
    assert {digest for _, digest in [*at_once, again, off]} == {off[1]}


SETTINGS = """
import os, sys, warnings, jax, epochal.runtime.program_cache as program_cache
top = {top!r}
def folder(**variables):
    os.environ.update(variables)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        program_cache.keep_programs.__wrapped__()
    for name in variables:
        del os.environ[name]
    print(jax.config.jax_compilation_cache_dir, *[w.message for w in caught], sep="|")
folder(XDG_CACHE_HOME=f"{top}/file/cache")
folder(EPOCHAL_CACHE=f"{top}/file/cache")
folder(EPOCHAL_CACHE=f"{top}/shared")
jax.config.update("jax_enable_compilation_cache", False)
folder(XDG_CACHE_HOME=f"{top}/never")
jax.config.update("jax_enable_compilation_cache", True)
jax.config.update("jax_compilation_cache_dir", f"{top}/own")
folder(XDG_CACHE_HOME=f"{top}/never")
"""


def test_a_folder_is_used_where_it_can_be_and_the_user_has_set_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    shared = tmp_path / "shared" / f"programs-{program_cache._processor()}"
    shared.mkdir(parents=True)
    shared.chmod(0o777)  # programs in it are run: nobody else may put some there
    output, errors = started(SETTINGS.replace("{top!r}", repr(str(tmp_path)))).communicate()
    assert errors == ""
    silent, named, others, off, own = output.splitlines()
    assert (silent, off, own) == ("None", "None", str(tmp_path / "own"))
    place = f"{tmp_path}/file/cache"
    assert named.startswith(f"None|EPOCHAL_CACHE={place}: compiled programs cannot be kept there (Not a directory), so")
    assert named.endswith("Choose a folder of your own, or EPOCHAL_CACHE=off.")
    assert "(others may write to it)" in others
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "shared"]


@pytest.mark.parametrize("value", ["off", "OFF", "0", ""])
def test_it_can_be_switched_off(value: str, tmp_path: Path) -> None:
    assert program_cache._off(value)
    assert not program_cache._off(None)
    assert not program_cache._off(str(tmp_path))

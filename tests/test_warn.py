"""Every warning names the user's line: here that is always a line of this file."""

from __future__ import annotations

import ast
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from support.broken_off import BreakOff, Broken, checkpoints

import epochal as keras
from epochal import layers, losses, metrics
from epochal.cli import main
from epochal.layers.base.weights import outside_of_trace
from epochal.runs.store import Store
from epochal.runtime import program_cache
from epochal.support.warn import warn

SOURCE = Path(keras.__file__).parent
X = np.arange(16, dtype="float32").reshape(8, 2) / 16
Y = X[:, :1]


def small(*before: Any, loss: Any = "mse", **compiled: Any) -> Any:
    model = keras.Sequential([layers.Input((2,)), *before, layers.Dense(1)])
    model.compile("sgd", loss, **compiled)
    return model


def batches(count: int) -> Iterator[Any]:
    return iter([(X[:4], Y[:4])] * count)


class Changing:
    """Four batches that are others in every process, by numbers that nothing puts back."""

    def __init__(self, seed: int):
        self.random = np.random.default_rng(seed)

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Iterator[Any]:
        for _ in range(4):
            yield self.random.normal(size=(4, 2)).astype("float32"), Y[:4]


# -- what a user does for each warning


def adjusted(path: Path) -> None:
    metrics.R2Score(num_regressors=30)(Y, Y)


def across_pieces(path: Path) -> None:
    small(layers.BatchNormalization(), micro_batch_size=2).fit(X, Y, batch_size=4, verbose=0)


def one_class(path: Path) -> None:
    small(loss="categorical_crossentropy").fit(X, Y, verbose=0)  # which is told while the step is traced


def training_ends(path: Path) -> None:
    small().fit(batches(3), steps_per_epoch=2, epochs=2, verbose=0)


def evaluation_ends(path: Path) -> None:
    small().evaluate(batches(1), steps=2, verbose=0)


def prediction_ends(path: Path) -> None:
    small().predict((x for x, _ in batches(1)), steps=2, verbose=0)


def validation_ends(path: Path) -> None:
    small().fit(X, Y, validation_data=batches(1), validation_steps=2, verbose=0)


def skipped(path: Path) -> None:
    small(on_nonfinite="skip").fit(np.full_like(X, np.nan), Y, verbose=0)


def nothing_to_watch(path: Path) -> None:
    small().fit(X, Y, verbose=0, callbacks=[keras.callbacks.EarlyStopping("val_los")])


def nobody_listens(path: Path) -> None:
    small().fit(X, Y, verbose=0, callbacks=[keras.callbacks.RemoteMonitor("http://127.0.0.1:1")])


def not_measured(path: Path) -> None:
    x, y = np.tile(X, (50, 1)), np.tile(Y, (50, 1))
    small().fit(x, y, verbose=0, callbacks=[keras.callbacks.NoiseScale()])


def other_order(path: Path) -> None:
    backup = keras.callbacks.BackupAndRestore(path, 2)
    with pytest.raises(Broken):
        small().fit(Changing(1), epochs=3, verbose=0, callbacks=[backup, BreakOff(3)])
    small().fit(Changing(2), epochs=3, verbose=0, callbacks=[backup])


def broken(path: Path) -> None:
    kept(path, every=1)
    for file in checkpoints(path)[-1].rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    small().fit(X, Y, batch_size=4, verbose=0, callbacks=[keras.callbacks.BackupAndRestore(path)])


def full(path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "_write", lambda *_: "no room")
        small().fit(X, Y, epochs=2, verbose=0, callbacks=[keras.callbacks.BackupAndRestore(path)])


def elsewhere(path: Path) -> None:
    kept(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", "--xla_other")
        small().fit(X, Y, batch_size=4, verbose=0, callbacks=[keras.callbacks.BackupAndRestore(path)])


def no_cache(path: Path) -> None:
    (path / "file").write_text("")
    before = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(program_cache.VARIABLE, str(path / "file" / "cache"))
        jax.config.update("jax_compilation_cache_dir", None)
        try:
            program_cache.keep_programs.__wrapped__()
        finally:
            jax.config.update("jax_compilation_cache_dir", before)


def kept(path: Path, every: int | str = "epoch") -> None:
    """A run that was broken off and kept."""
    backup = keras.callbacks.BackupAndRestore(path, every)
    with pytest.raises(Broken):
        small().fit(X, Y, batch_size=4, epochs=3, verbose=0, callbacks=[backup, BreakOff(3)])


# Of the source of the function that warns -> of the message, and how a user comes to it.
WARNINGS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "plain R² is given": ("plain R² is given", adjusted),
    "GroupNormalization do not depend on it": ("over which BatchNormalization", across_pieces),
    "of one class is always 0": ("of one class is always 0", one_class),
    "The data ended after": ("training ends with epoch", training_ends),
    "batches were evaluated": ("1 of 2 batches were evaluated", evaluation_ends),
    "batches were predicted": ("1 of 2 batches were predicted", prediction_ends),
    "The validation data has ended": ("1 of 2 batches came", validation_ends),
    "warn(self._told(value, place)[0])": ("1 update was skipped", skipped),
    "which is not reported": ("watches 'val_los'", nothing_to_watch),
    "could not send the logs": ("could not send the logs", nobody_listens),
    "NoiseScale measured nothing": ("NoiseScale measured nothing", not_measured),
    "gives other batches": ("gives other batches", other_order),
    "is broken (": ("is broken (", broken),
    "could not be written to": ("could not be written to", full),
    "in another environment": ("XLA_FLAGS", elsewhere),
    "compiled programs cannot be kept there": ("compiled programs cannot be kept there", no_cache),
}


def warning_functions() -> list[str]:
    """The source of each function of epochal that warns."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        text = path.read_text()
        inner = {node: f for f in ast.walk(ast.parse(text)) if isinstance(f, ast.FunctionDef) for node in calls_in(f)}
        found += [ast.get_source_segment(text, f) or "" for f in inner.values()]
    return found


def calls_in(function: ast.FunctionDef) -> list[ast.Call]:
    calls = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
    return [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "warn"]


def test_every_warning_of_epochal_is_in_the_table() -> None:
    sources = warning_functions()
    assert len(sources) == len(WARNINGS)
    assert {part: sum(part in source for source in sources) for part in WARNINGS} == dict.fromkeys(WARNINGS, 1)


def test_no_other_way_to_warn_is_taken() -> None:
    for path in SOURCE.rglob("*.py"):
        others = [line for line in path.read_text().splitlines() if "warnings.warn(" in line or "stacklevel" in line]
        assert others == [], path


def told(action: Callable[[], Any], part: str) -> list[warnings.WarningMessage]:
    """The warnings with `part` in their message that the action gives, of which there is one at least."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        action()
    found = [record for record in caught if part in str(record.message)]
    assert found, [str(record.message) for record in caught]
    return found


@pytest.mark.parametrize("part", WARNINGS)
def test_each_warning_names_the_line_of_the_users(part: str, tmp_path: Path) -> None:
    message, scenario = WARNINGS[part]
    first = scenario.__code__.co_firstlineno
    last = max(line for _, _, line in scenario.__code__.co_lines() if line is not None)
    for record in told(lambda: scenario(tmp_path), message):
        assert record.filename == __file__
        assert first < record.lineno <= last
        assert record.category is UserWarning


# -- while tracing, in threads, in the command line


def one_class_of(y: Any) -> Any:
    return losses.CategoricalCrossentropy()(y, y)


@pytest.mark.parametrize("wrap", [jax.jit, jax.checkpoint, jax.grad], ids=["jit", "checkpoint", "grad"])
def test_while_jax_traces(wrap: Any) -> None:
    for record in told(lambda: wrap(one_class_of)(np.ones((3, 1), "float32")), "one class"):
        assert record.filename == __file__
        assert record.lineno == one_class_of.__code__.co_firstlineno + 1


def test_a_loss_that_jax_calls_by_itself() -> None:
    """No frame of the user's lies between JAX's and ours: it is beyond JAX."""
    traced = jax.jit(losses.categorical_crossentropy)
    [record] = told(lambda: traced(np.ones((3, 1), "float32"), np.ones((3, 1), "float32")), "one class")
    assert record.filename == __file__


class Inner(layers.Layer):
    def call(self, x: Any) -> Any:
        self.add_loss(one_class_of(x[:, :1]))
        return x


def test_in_the_users_own_layer_it_is_the_line_of_the_layer() -> None:
    records = told(lambda: small(Inner()).fit(X, Y, verbose=0), "one class")
    assert {record.lineno for record in records} == {one_class_of.__code__.co_firstlineno + 1}


def in_thread_of(function: Callable[..., Any], *args: Any, **named: Any) -> None:
    thread = threading.Thread(target=function, args=args, kwargs=named)
    thread.start()
    thread.join()


def in_pool_of(function: Callable[..., Any], *args: Any, **named: Any) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(function, *args, **named).result()


@pytest.mark.parametrize("threaded", [in_thread_of, in_pool_of, outside_of_trace])
def test_in_a_thread(threaded: Any) -> None:
    """The line of the user's function there is; else, as in a thread that runs `fit` itself, the main thread's."""
    model = small(on_nonfinite="skip")
    bad = np.full_like(X, np.nan)

    def fit() -> None:
        model.fit(bad, Y, verbose=0)

    [record] = told(lambda: threaded(fit), "skipped")
    assert (record.filename, record.lineno) == (__file__, fit.__code__.co_firstlineno + 1)
    [record] = told(lambda: threaded(model.fit, bad, Y), "skipped")
    assert record.filename == __file__
    [record] = told(lambda: threaded(warn, "from within"), "from within")
    assert record.filename == __file__


NETWORK = """
import epochal
from epochal import layers

def network(input_shape, n_outputs):
    stack = [layers.Input(input_shape), layers.BatchNormalization(), layers.Dense(n_outputs, "softmax")]
    model = epochal.Sequential(stack)
    model.compile("sgd", "sparse_categorical_crossentropy", micro_batch_size=8)
    return model
"""


def test_in_the_command_line_it_is_the_program_that_calls_it(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "net.py").write_text(NETWORK)
    options = ["--model", f"{tmp_path / 'net.py'}:network", "--batch-size", "16", "--epochs", "1"]
    command = ["fit", "iris", *options, "--run-dir", str(tmp_path / "run"), "--no-plot"]
    codes: list[int] = []
    for record in told(lambda: codes.append(main(command)), "over which BatchNormalization"):
        assert record.filename == __file__
    assert codes == [0], capsys.readouterr()


# -- filters


@pytest.mark.parametrize(("action", "times"), [("default", 2), ("always", 4), ("once", 1), ("ignore", 0)])
def test_filters_work_by_the_users_line(action: Any, times: int) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.filterwarnings(action, module=__name__)
        for _ in range(2):
            warn(f"filtered: {action}")
            warn(f"filtered: {action}")
    assert len(caught) == times
    assert {record.filename for record in caught} <= {__file__}


def test_as_an_error_it_is_raised_where_it_arises_and_may_be_of_another_class() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        with pytest.raises(DeprecationWarning, match="old"):
            warn("old", DeprecationWarning)

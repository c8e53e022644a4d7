"""Rule E8 of the training contract: batches of a `Sequence` made ahead by real threads and real processes.

Processes take about a second each to start, so most tests share one pool, or ask one `fit` for several things.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from support.data import diabetes
from support.feeds import N, batches, still

import epochal as keras
from epochal.data.streams.workers import Workers

# The classes of this file go to the processes with their code: importing the file there would take a second more.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

X, Y = diabetes(N)
ITEMS = batches(X, Y)  # 6 batches


class Unpicklable(Exception):
    """Its `args` do not make it once more."""

    def __init__(self, code: int, place: str):
        super().__init__(f"{place}: {code}")
        self.code = code


class Tasks(keras.utils.PyDataset):
    """What batch `i` is, or does, is said by `acts[i]`; otherwise it tells where and when it was made."""

    def __init__(self, acts: dict[int, Any] | None = None, length: int = 12, **kwargs: Any):
        super().__init__(**kwargs)
        self.acts, self.length, self.epoch = acts or {}, length, 0
        self.table = {"three": 3}

    def __len__(self) -> int:
        return self.length

    def on_epoch_end(self) -> None:
        self.epoch += 1

    def __getitem__(self, i: int) -> Any:
        act = self.acts.get(i)
        if act == "exit":
            os._exit(3)
        if act == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if act == "hang":
            time.sleep(1000)
        if act == "late":
            time.sleep(0.3)
        if act == "own":
            raise Unpicklable(7, "disk")
        if act == "key":
            return self.table["four"]
        if act == "timeout":
            raise TimeoutError("of the data's own")
        if act == "inner":
            return sum(number for number in self.numbers())
        return i, self.epoch, os.getpid(), threading.get_ident(), os.environ.get("JAX_PLATFORMS")

    def numbers(self) -> Iterator[int]:
        yield from (1, 2, 3)


def children() -> list[int]:
    """Processes of ours that are alive or zombies, without the trackers that Python and loky keep until the end."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == os.getpid() and "resource_tracker" not in (entry / "cmdline").read_text():
                    found.append(int(entry.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    before, threads, files = children(), threading.active_count(), set(_folders())
    yield
    assert children() == before
    assert threading.active_count() == threads
    assert set(_folders()) == files


def _folders() -> list[Path]:

    return list(Path(tempfile.gettempdir()).glob("epochal-workers-*"))


def process(acts: dict[int, Any], timeout: float = 60.0) -> Workers:
    return Workers(Tasks(acts), 1, True, 4, timeout)


class Closing:
    """`with Closing(workers) as w` ends them."""

    def __init__(self, made: Workers):
        self._made = made

    def __enter__(self) -> Workers:
        return self._made

    def __exit__(self, *_: object) -> None:
        self._made.close()


# -- one pool of processes


def test_E8_processes_keep_the_order_raise_what_was_raised_and_see_what_an_epochs_end_changed() -> None:
    data = Tasks({5: "late"})
    with Closing(Workers(data, 2, True, 4, 60.0)) as pool:
        made = list(pool.batches(range(12)))
        assert [b[0] for b in made] == list(range(12))  # 5 was late and yet came before 6
        assert os.getpid() not in {b[2] for b in made}
        assert len({b[2] for b in made}) == 2
        assert {b[4] for b in made} == {"cpu"}  # a worker leaves the accelerator to the one that trains
        assert len(children()) == 2
        data.on_epoch_end()
        assert [b[:2] for b in pool.batches([3, 1, 3])] == [(3, 1), (1, 1), (3, 1)]
        data.acts = {2: "own"}
        with pytest.raises(Unpicklable, match="disk: 7") as caught:
            list(pool.batches(range(6)))
        assert caught.value.code == 7
        assert "in __getitem__" in str(caught.value.__cause__)  # the worker's traceback
        assert caught.value.__notes__ == ["A worker asked for Tasks.__getitem__(2)."]
        data.acts = {0: "key"}
        with pytest.raises(KeyError, match="four"):
            list(pool.batches(range(6)))
        data.acts = {1: "timeout"}
        with pytest.raises(TimeoutError, match="own"):
            list(pool.batches(range(6)))
        data.acts = {1: "inner"}
        assert list(pool.batches([1])) == [6]
        data.acts = {}
        stopped = pool.batches(range(12))
        assert next(stopped)[0] == 0
        stopped.close()  # training that stops in mid-epoch
        assert [b[0] for b in pool.batches(range(12))][-1:] == [11]
        data.acts = dict.fromkeys(range(12), "late")
        stopped = pool.batches(range(12))
        next(stopped)
        stopped.close()
        data.acts = {}
        assert next(pool.batches(range(12)))[0] == 0  # what nobody waits for any more is not made
        data.lock = threading.Lock()
        with pytest.raises(TypeError, match=r"Tasks cannot be copied to a worker process.*use_multiprocessing=False"):
            list(pool.batches(range(6)))


@pytest.mark.parametrize("act", ["exit", "kill"])
def test_E8_a_worker_that_dies_is_a_runtime_error(act: str) -> None:
    with Closing(process({5: act})) as pool:
        with pytest.raises(RuntimeError, match=r"A worker process of Tasks died while .*5.*under way: .*out of memory"):
            list(pool.batches(range(12)))
        assert children() == []


def test_E8_a_process_that_hangs_is_a_timeout_error_with_advice() -> None:
    with Closing(process({3: "hang"}, timeout=1.5)) as pool:
        got = []
        advice = r"Batch 3 of Tasks was not there after 1.5 s.*__getitem__\(3\).*larger `timeout`"
        with pytest.raises(TimeoutError, match=advice):
            got.extend(b[0] for b in pool.batches(range(12)))
        assert children() == []


def test_E8_ending_while_many_batches_are_under_way_leaves_no_process_and_says_nothing(capfd: Any) -> None:
    data = Tasks(dict.fromkeys(range(1, 40), "late"), length=40)
    with Closing(Workers(data, 1, True, 20, 60.0)) as pool:
        stopped = pool.batches(range(40))
        assert next(stopped)[0] == 0
        stopped.close()
    assert capfd.readouterr().err == ""  # loky would print that a cancelled batch cannot be given up


@pytest.mark.slow
def test_E8_a_large_dataset_in_a_process_is_no_memory_leak() -> None:
    """loky restarts workers that grow by more than 300 MB, looking once a second."""

    class Large(Tasks):
        def __init__(self) -> None:
            super().__init__()
            self.numbers_there = np.ones(110_000_000, np.float32)

        def __getitem__(self, i: int) -> int:
            time.sleep(0.7)
            return os.getpid()

    with Closing(Workers(Large(), 1, True, 3, 60.0)) as pool:
        assert len(set(pool.batches(range(6)))) == 1


# -- threads


def test_E8_threads_keep_the_order_and_raise_what_was_raised() -> None:
    data = Tasks({5: "late"})
    with Closing(Workers(data, 3, False, 4, 60.0)) as pool:
        made = list(pool.batches(range(12)))
        assert [b[0] for b in made] == list(range(12))
        assert {b[2] for b in made} == {os.getpid()}
        assert threading.get_ident() not in {b[3] for b in made}
        data.acts = {2: "own"}
        with pytest.raises(Unpicklable, match="disk: 7") as caught:
            list(pool.batches(range(6)))
        assert any(entry.name == "__getitem__" for entry in caught.traceback)
        data.acts = {1: "timeout"}
        with pytest.raises(TimeoutError, match="own"):
            list(pool.batches(range(6)))


def test_E8_a_thread_that_hangs_is_a_timeout_error() -> None:
    release, before = threading.Event(), {*threading.enumerate()}

    class Hanging(Tasks):
        def __getitem__(self, i: int) -> Any:
            return release.wait(60) if i == 3 else super().__getitem__(i)

    with Closing(Workers(Hanging(), 2, False, 4, 0.2)) as pool:
        with pytest.raises(TimeoutError, match=r"Batch 3 of Hanging was not there after 0\.2 s"):
            list(pool.batches(range(12)))
        release.set()  # no thread can be ended from outside
    for thread in {*threading.enumerate()} - before:
        thread.join(5)
        assert not thread.is_alive()


@pytest.mark.parametrize("ahead", [1, 3, 10])
def test_E8_at_most_max_queue_size_batches_are_made_ahead(ahead: int) -> None:
    made: list[int] = []
    ready = threading.Condition()

    class Counted(Tasks):
        def __getitem__(self, i: int) -> Any:
            with ready:
                made.append(i)
                ready.notify_all()
            return i

    data = Counted(length=30)
    with Closing(Workers(data, 2, False, ahead, 60.0)) as pool:
        for taken, _ in enumerate(pool.batches(range(30))):
            with ready:  # as many as may be are made, also while nobody asks
                assert ready.wait_for(lambda taken=taken: len(made) >= min(taken + ahead, 30), 10)
            assert len(made) <= taken + ahead


# -- as arguments and attributes of the methods


class Made(keras.utils.PyDataset):
    """Batches of diabetes that note who made them."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.items, self.by, self.ends, self.asked = ITEMS, set(), 0, []

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Any:
        self.by.add(threading.get_ident())
        self.asked.append(i)
        return self.items[i]

    def on_epoch_end(self) -> None:
        self.ends += 1


def calls(model: Any, data: Any, **settings: Any) -> list[Any]:
    fitted = model.fit(data, epochs=3, shuffle=False, validation_data=data, verbose=0, **settings)
    return [
        fitted.history,
        model.evaluate(data, verbose=0, **settings),
        model.predict(data, verbose=0, **settings).tolist(),
    ]


def test_E8_threads_as_arguments_and_as_attributes_of_every_method() -> None:
    expected = calls(still(), Made())
    for data, settings in (
        (Made(workers=3, max_queue_size=2), {}),
        (Made(), {"workers": 3, "max_queue_size": 2}),
        (Made(workers=3), {"workers": 1}),
        (Made(workers=3), {"workers": 0}),
        (Made(), {"workers": 2, "max_queue_size": 1}),
    ):
        assert calls(still(), data, **settings) == expected
        in_threads = settings.get("workers", data.workers) > 1
        assert (data.by == {threading.get_ident()}) == (not in_threads)
        assert data.ends == 3 + 3 + 1 + 1  # after every epoch, validation, evaluation and prediction


def test_E8_on_epoch_end_is_called_once_per_epoch_before_the_next_ones_first_batch() -> None:
    class Told(Made):
        def __getitem__(self, i: int) -> Any:
            seen.append(self.ends)
            return super().__getitem__(i)

    for workers in (1, 3):
        seen: list[int] = []
        data = Told(workers=workers)
        still().fit(data, epochs=3, verbose=0)
        assert seen == [0] * 6 + [1] * 6 + [2] * 6
        assert data.ends == 3
        data = Told(workers=workers)
        seen.clear()
        still().fit(data, epochs=2, steps_per_epoch=4, verbose=0)
        assert (seen, data.ends) == ([0] * 4 + [1] * 4, 2)


def test_E8_processes_train_as_this_one_does_on_every_epochs_own_data() -> None:
    class Growing(Made):
        """Every epoch's targets are others."""

        def __getitem__(self, i: int) -> Any:
            x, y = super().__getitem__(i)
            return x, y + self.ends

    histories = []
    for settings in ({}, {"use_multiprocessing": True, "max_queue_size": 3}):
        data, held_out = Growing(), Growing()
        histories.append(still().fit(data, epochs=3, validation_data=held_out, verbose=0, **settings).history)
        assert (data.ends, held_out.ends) == (3, 3)
        assert (data.by, held_out.by) == ((set(), set()) if settings else ({threading.get_ident()},) * 2)
    assert histories[0] == histories[1]
    assert histories[0]["loss"][0] < histories[0]["loss"][1] < histories[0]["loss"][2]


@pytest.mark.parametrize(
    ("name", "value"), [("workers", -1), ("workers", 1.5), ("max_queue_size", 0), ("workers", True)]
)
def test_E8_settings_that_are_none(name: str, value: Any) -> None:
    for method in ("fit", "evaluate", "predict"):
        with pytest.raises(ValueError, match=rf"Expected {name} to be an int >= \d, got {value}"):
            getattr(still(), method)(Made(), **{name: value}, verbose=0)


# -- in scripts


HEAD = """
import os, sys, threading, time
import numpy as np
import epochal as keras

class Batches(keras.utils.PyDataset):
    scale = 2.0

    def __len__(self):
        return 4

    def __getitem__(self, i):
        return scaled(np.full((2, 3), i, np.float32)), np.zeros(2, np.float32)

def scaled(x):
    return x * Batches.scale

model = keras.Sequential([keras.layers.Dense(1, input_shape=(3,))])
model.compile("sgd", "mse")
"""


def run(code: str, way: str, folder: Path) -> subprocess.CompletedProcess[str]:
    given: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 120}
    code = HEAD + textwrap.dedent(code)
    if way == "script":
        (folder / "train.py").write_text(code)
        return subprocess.run([sys.executable, "train.py"], cwd=folder, **given)
    cell = "import sys\nexec(compile(sys.argv[1], '<cell 1>', 'exec'), sys.modules['__main__'].__dict__)"
    return subprocess.run([sys.executable, "-c", cell, code], **given)


@pytest.mark.parametrize("way", ["script", "notebook"])
def test_E8_processes_run_from_scripts_without_main_guard_and_from_notebooks(way: str, tmp_path: Path) -> None:
    """A notebook's cells are run in `__main__`, which has no file."""
    done = run(
        """
        Batches.scale = 3.0  # also what was changed since the class was made
        out = model.predict(Batches(use_multiprocessing=True, workers=1), verbose=0)
        there = model.predict(np.repeat(np.arange(4.0), 2)[:, None] * np.full((1, 3), 3.0), verbose=0)
        print("equal:", np.allclose(out, there, rtol=1e-5))
        """,
        way,
        tmp_path,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("equal: True\n", "", 0)


def test_E8_ctrl_c_with_processes_ends_them_and_leaves_the_model_whole(tmp_path: Path) -> None:
    """As a terminal does it: to the whole group, while the workers are at work on batches that never come."""
    done = run(
        """
        import signal

        class Stuck(Batches):
            def __getitem__(self, i):
                if i == 2:
                    time.sleep(1000)
                return super().__getitem__(i)

        def press():
            while model.optimizer.iterations < 2:
                time.sleep(0.01)
            time.sleep(0.1)
            os.killpg(0, signal.SIGINT)

        os.setpgid(0, 0)
        watch = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: None)
        threading.Thread(target=press).start()
        try:
            model.fit(Stuck(use_multiprocessing=True, workers=2), shuffle=False, verbose=0, callbacks=watch)
        except KeyboardInterrupt:
            print("interrupted after", model.optimizer.iterations)
        out = subprocess.run(["ps", "--ppid", str(os.getpid()), "-o", "args="], capture_output=True, text=True).stdout
        print("left:", [line for line in out.splitlines() if "tracker" not in line and "ps " not in line])
        print("finite:", np.isfinite(model.predict(np.ones((2, 3)), verbose=0)).all())
        """.replace("import signal", "import signal, subprocess"),
        "script",
        tmp_path,
    )
    assert (done.stdout, done.stderr) == ("interrupted after 2\nleft: []\nfinite: True\n", "")

"""Batches of a `PyDataset` made ahead, by threads or processes, and handed over in order.

Processes are loky's: it survives workers that die, starts from scripts without a main guard and from notebooks, and
sends classes that are defined there. The standard library's pool does neither.
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
import pickle
import queue
import signal
import tempfile
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class Workers:
    """Makes `dataset[i]` for the numbers it is given.

    Args:
        dataset: has `__getitem__`.
        workers: how many threads or processes; with 0, or one thread, batches are made when they are asked for.
        processes: processes instead of threads.
        ahead: how many batches may be under way or waiting.
        timeout: seconds that a batch may take.
    """

    def __init__(self, dataset: Any, workers: int, processes: bool, ahead: int, timeout: float):
        self._dataset, self._ahead, self._timeout = dataset, max(ahead, 1), timeout
        self._waiting: deque[tuple[int, Future]] = deque()
        self._pool: Threads | _Processes | None = None
        if processes and workers > 0:
            self._pool = _Processes(dataset, workers)
        elif workers > 1:
            self._pool = Threads(dataset.__getitem__, workers)

    def batches(self, numbers: Iterable[int]) -> Iterator[Any]:
        """The batches with these numbers, in this order.

        Raises:
            TimeoutError: a batch took longer than `timeout`.
            RuntimeError: a worker process died.
            Exception: whatever `__getitem__` raised, with its traceback.
        """
        if self._pool is None:
            yield from (self._dataset[i] for i in numbers)
            return
        self._pool.renew()
        numbers = iter(numbers)
        try:
            while True:
                self._order_from(numbers, self._pool)
                if not self._waiting:
                    return
                yield self._next(self._pool)
        finally:
            self._cancel()

    def _order_from(self, numbers: Iterator[int], pool: Threads | _Processes) -> None:
        while len(self._waiting) < self._ahead and (number := next(numbers, None)) is not None:
            try:
                self._waiting.append((number, pool.submit(number)))
            except BrokenProcessPool as error:
                raise self._died(number) from error

    def _next(self, pool: Threads | _Processes) -> Any:
        (number, future), name = self._waiting[0], type(self._dataset).__name__
        try:
            pool.wait_for_start()
            made = future.result(self._timeout)
        except BrokenProcessPool as error:
            raise self._died(number) from error
        except TimeoutError as error:
            if future.done():  # the batch's own error
                error.add_note(_asked_for(name, number))
                raise
            self.close()
            raise TimeoutError(
                f"Batch {number} of {name} was not there after {self._timeout:g} s: its worker hangs. Look at "
                f"{name}.__getitem__({number}), or give the dataset a larger `timeout`."
            ) from error
        except Exception as error:
            error.add_note(_asked_for(name, number))
            raise
        self._waiting.popleft()
        if isinstance(made, _Failure):
            error = made.error()
            error.add_note(_asked_for(name, number))
            raise error
        return made

    def _died(self, number: int) -> RuntimeError:
        under_way = [n for n, _ in self._waiting] or [number]
        self.close()
        return RuntimeError(
            f"A worker process of {type(self._dataset).__name__} died while the batches {under_way} were under way: it "
            "was killed (out of memory?) or crashed in native code. Try use_multiprocessing=False, or fewer workers."
        )

    def _cancel(self) -> None:
        if self._pool is not None:
            self._pool.drop([future for _, future in self._waiting])
        self._waiting.clear()

    def close(self) -> None:
        """Ends the workers, processes also when they hang."""
        self._cancel()
        if self._pool is not None:
            self._pool.close()


def _asked_for(name: str, number: int) -> str:
    return f"A worker asked for {name}.__getitem__({number})."


class Threads:
    """Daemon threads: one that hangs does not keep the interpreter from ending, as those of the standard pool do.

    Args:
        make: what they call.
        workers: how many.
    """

    END_SECONDS = 1.0  # to wait for batches that are still being made

    def __init__(self, make: Callable[[Any], Any], workers: int):
        self._make = make
        self._tasks: queue.SimpleQueue[tuple[Any, Future] | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(workers)]
        for thread in self._threads:
            thread.start()

    def renew(self) -> None:
        """Nothing to do: threads see the dataset as it is."""

    def wait_for_start(self) -> None:
        """Nothing to do: threads start at once."""

    def drop(self, futures: list[Future]) -> None:
        """Nobody waits for these batches any more."""
        for future in futures:
            future.cancel()

    def submit(self, given: Any) -> Future:
        """What comes of calling with this."""
        future: Future = Future()
        self._tasks.put((given, future))
        return future

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            given, future = task
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(self._make(given))
            except BaseException as error:  # noqa: BLE001  (raised again where the batch is taken)
                future.set_exception(error)
            del task, given, future  # the batch belongs to whoever took it

    def close(self) -> None:
        for _ in self._threads:
            self._tasks.put(None)
        end = time.monotonic() + self.END_SECONDS
        for thread in self._threads:
            thread.join(max(end - time.monotonic(), 0))


class _Processes:
    def __init__(self, dataset: Any, workers: int):
        self._dataset = dataset
        self._folder = tempfile.TemporaryDirectory(prefix="epochal-workers-")
        # Should a batch be made with JAX: the accelerator belongs to the process that trains.
        import loky  # as cloudpickle, where there are processes

        environment = {"JAX_PLATFORMS": "cpu"}
        self._pool = loky.ProcessPoolExecutor(max_workers=workers, initializer=_start_worker, env=environment)
        self._first_call = self._pool.submit(int)
        self._copy: Path | None = None
        self._turns, self._turn = 0, Path()

    def renew(self) -> None:
        """Writes the dataset down for the workers, if it has changed since."""
        self._turns += 1
        self._turn = Path(self._folder.name) / f"turn-{self._turns}"
        self._turn.touch()
        import cloudpickle

        try:
            data = cloudpickle.dumps(self._dataset)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise TypeError(
                f"{type(self._dataset).__name__} cannot be copied to a worker process: {error}. Open files and the "
                "like in __getitem__, or use threads (use_multiprocessing=False)."
            ) from error
        path = Path(self._folder.name) / hashlib.sha256(data).hexdigest()
        if path == self._copy:
            return
        path.write_bytes(data)
        if self._copy is not None:
            self._copy.unlink()
        self._copy = path

    def wait_for_start(self) -> None:
        """Waits until a process is there to make batches, so that its start does not count as a batch's time."""
        self._first_call.result()

    def submit(self, number: int) -> Future:
        return self._pool.submit(_batch_of, str(self._turn), str(self._copy), number)

    def drop(self, futures: list[Future]) -> None:
        """Nobody waits for these batches any more: workers skip what belongs to a turn whose file is gone.

        loky's own futures are not cancelled: its shutdown breaks on those.
        """
        self._turn.unlink(missing_ok=True)

    def close(self) -> None:
        self._pool.shutdown(wait=True, kill_workers=True)
        self._folder.cleanup()


# -- in the worker process


def _start_worker() -> None:
    """A terminal sends Ctrl-C to all processes: the one that trains hears it, and ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import loky

    loky.process_executor._MAX_MEMORY_LEAK_SIZE = math.inf  # a large dataset that is loaded is no leak


@functools.lru_cache(maxsize=1)
def _loaded(path: str) -> Any:
    return pickle.loads(Path(path).read_bytes())


def _batch_of(turn: str, path: str, number: int) -> Any:
    if not os.path.exists(turn):
        return None
    try:
        return _loaded(path)[number]
    except Exception as error:  # noqa: BLE001  (raised again in the process that trains)
        return _Failure.of(error)


@dataclass(frozen=True)
class _Failure:
    """What `__getitem__` raised, as data.

    Attributes:
        make: makes the exception once more.
        traceback: the worker's.
    """

    make: Callable[[], Exception]
    traceback: str

    @classmethod
    def of(cls, error: Exception) -> _Failure:
        import cloudpickle

        text, kind = traceback.format_exc(), type(error)
        # An exception whose __init__ takes other arguments than its `args` does not survive pickle by itself.
        ways = functools.partial(_same, error), functools.partial(_without_init, kind, error.args, vars(error))
        for way in ways:
            try:
                pickle.loads(cloudpickle.dumps(way))
            except Exception:  # noqa: BLE001  (whatever its parts raise)
                continue
            return cls(way, text)
        return cls(functools.partial(RuntimeError, f"{kind.__name__}: {error}"), text)

    def error(self) -> Exception:
        """The exception, with the worker's traceback as its cause."""
        error = self.make()
        error.__cause__ = _WorkerTraceback(self.traceback)
        return error


def _same(error: Exception) -> Exception:
    return error


def _without_init(kind: type[Exception], arguments: tuple, attributes: dict[str, Any]) -> Exception:
    error = kind.__new__(kind, *arguments)
    vars(error).update(attributes)
    return error


class _WorkerTraceback(Exception):
    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'

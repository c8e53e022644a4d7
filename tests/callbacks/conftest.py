"""Fixtures of the tests in `callbacks`."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from support.server import Server


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()

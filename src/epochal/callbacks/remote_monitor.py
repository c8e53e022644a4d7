"""Sending logs to a server."""

from __future__ import annotations

import http.client
import json
import math
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

import numpy as np

from epochal.callbacks.callback import Callback
from epochal.support.types import Logs
from epochal.support.warn import warn

TIMEOUT_SECONDS = 10.0


class RemoteMonitor(Callback):
    """Sends each epoch's logs to a server by HTTP POST, as a JSON object with `epoch` (the first is 0) and the values.

    JSON has no numbers for NaN and infinities: they are sent as null. A server that cannot be reached, does not answer
    within 10 seconds or refuses is a warning; training goes on. A run that goes on (`BackupAndRestore`) sends epochs
    behind its last checkpoint once more, with the same values.

    Args:
        root: the server's URL.
        path: appended to `root`.
        field: name of the form's field that holds the JSON text, when it is sent as a form.
        headers: further HTTP headers.
        send_as_json: send the JSON text itself, with the content type "application/json".
    """

    def __init__(
        self,
        root: str = "http://localhost:9000",
        path: str = "/publish/epoch/end/",
        field: str = "data",
        headers: Mapping[str, str] | None = None,
        send_as_json: bool = False,
    ):
        self.root, self.path, self.field = root, path, field
        self.headers, self.send_as_json = headers, send_as_json

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        text = json.dumps({"epoch": epoch, **{name: _plain(value) for name, value in (logs or {}).items()}})
        kind = "application/json" if self.send_as_json else "application/x-www-form-urlencoded"
        body = text if self.send_as_json else urllib.parse.urlencode({self.field: text})
        headers = {"Content-Type": kind, **(self.headers or {})}
        request = urllib.request.Request(self.root + self.path, body.encode(), headers, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):
                pass
        except (OSError, http.client.HTTPException) as error:  # no server, no answer, a refusal; an answer of no sense
            warn(f"RemoteMonitor could not send the logs to {self.root + self.path}: {error}.")


def _plain(value: Any) -> Any:
    """The value as JSON knows it."""
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

"""A server on this machine that keeps what `callbacks.RemoteMonitor` sends."""

from __future__ import annotations

import http.server
from typing import Any


class Server(http.server.ThreadingHTTPServer):
    """Notes every request; answers with `status`."""

    status = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.seen: list[tuple[str, Any, str]] = []


class Answer(http.server.BaseHTTPRequestHandler):
    server: Server  # type: ignore[assignment]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.seen.append((self.path, self.headers, body))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing on standard error."""

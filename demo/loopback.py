# SPDX-License-Identifier: AGPL-3.0-or-later
"""Servers on free ports of loopback that play what surrounds a homeserver."""

from __future__ import annotations

import http.server
import json
import socketserver
import threading
from collections.abc import Iterable
from typing import Any

from typing_extensions import Self

from demo.process import free_port
from demo.running import Running


class LoopbackServer(Running, socketserver.ThreadingTCPServer):
    """Serves while it runs, each connection in a thread of its own."""

    # Not http.server's class: that one looks its own name up in the DNS.
    allow_reuse_address = True
    # What hangs must not keep a test from ending.
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, name: str, handler: type[socketserver.BaseRequestHandler]) -> None:
        # Not just any: one may be promised to a server that has not got as far as to listen.
        super().__init__(("127.0.0.1", free_port()), handler)
        # A short poll: it is how long stop() may take.
        self._thread = threading.Thread(
            target=self.serve_forever, args=(0.02,), name=name, daemon=True
        )

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    @property
    def url(self) -> str:
        """Without a slash at its end."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Self:
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop listening; a connection that is open lives on."""
        self.shutdown()
        self.server_close()


class OneAnswerHandler(http.server.BaseHTTPRequestHandler):
    """Speaks HTTP/1.0, one request for each connection: none can outlive its server's stop()."""

    def body(self) -> bytes:
        """The request's."""
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(
        self, status: int, content: bytes | Any, headers: Iterable[tuple[str, str]] = ()
    ) -> None:
        """Answer with these bytes, or with anything else as JSON."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        try:
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            # Or else Twisted takes the connection for one that is kept, and may send its next
            # request on it, which then fails.
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            # The other side has given up, as it may when an answer takes long.
            self.close_connection = True

    def log_message(self, *_args: object) -> None:
        """Keep the terminal quiet."""

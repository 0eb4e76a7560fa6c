# SPDX-License-Identifier: AGPL-3.0-or-later
"""A reverse proxy on loopback, as admins have one in front of Synapse.

It gives a browser one origin for a cluster, may put a prefix before all paths, and keeps what it
passed on, so that a test can look for what must not be in it.
"""

import contextlib
import http.client
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

import attr
from typing_extensions import Self

from demo.client import Route
from demo.loopback import LoopbackServer

# What concerns one connection only.
_HOP_BY_HOP = ("connection", "keep-alive", "transfer-encoding", "te", "upgrade")
_TIMEOUT_SECONDS = 120.0


@attr.s(auto_attribs=True)
class Proxy:
    """Use it as a context manager.

    Attributes:
        route: which server takes a request.
        prefix: what comes before all paths, such as "/matrix"; what is elsewhere is not found.
        seen: method and path of each request.
    """

    route: Route
    prefix: str = ""
    seen: list[tuple[str, str]] = attr.ib(factory=list, init=False)
    _server: LoopbackServer = attr.ib(init=False)

    def __enter__(self) -> Self:
        self._server = _Server("proxy", _handler(self)).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()

    @property
    def base_url(self) -> str:
        return f"{self._server.url}{self.prefix}"


class _Server(LoopbackServer):
    def handle_error(self, *_: object) -> None:
        """Nothing: a browser that goes away is no error."""


def _handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass_on(self) -> None:
            proxy.seen.append((self.command, self.path))
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if not self.path.startswith(f"{proxy.prefix}/"):
                self.send_error(404)
                return
            path = self.path.removeprefix(proxy.prefix)
            upstream = urlsplit(proxy.route(self.command, path))
            connection = http.client.HTTPConnection(upstream.netloc, timeout=_TIMEOUT_SECONDS)
            with contextlib.closing(connection):
                sent = {
                    name: value
                    for name, value in self.headers.items()
                    if name.lower() not in _HOP_BY_HOP
                }
                connection.request(self.command, path, body or None, sent)
                self._answer(connection.getresponse())

        def _answer(self, answer: http.client.HTTPResponse) -> None:
            body = answer.read()
            self.send_response_only(answer.status, answer.reason)
            for name, value in answer.getheaders():
                if name.lower() not in (*_HOP_BY_HOP, "content-length"):
                    self.send_header(name, value)
            length = answer.getheader("Content-Length") if self.command == "HEAD" else None
            self.send_header("Content-Length", length or str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing: `seen` has it."""

    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"):
        setattr(Handler, f"do_{method}", Handler._pass_on)
    return Handler

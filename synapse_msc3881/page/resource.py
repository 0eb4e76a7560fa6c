# SPDX-License-Identifier: AGPL-3.0-or-later
"""Serves the page at ``/_synapse/client/notifications/`` (specification 8).

All responses are prepared in advance. A request costs a dictionary lookup, and its path never
reaches a file system.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import attr
from twisted.web.resource import Resource

from synapse_msc3881 import seams
from synapse_msc3881.page.files import PATH, OAuth, Page, PageFile, load_page
from synapse_msc3881.page.headers import (
    ASSET_CACHING,
    ERROR_CACHING,
    INDEX_CACHING,
    oauth_origins,
    security_headers,
)

if TYPE_CHECKING:
    from synapse.module_api import ModuleApi
    from synapse.server import HomeServer
    from twisted.web.server import Request

logger = logging.getLogger(__name__)

_FIRST_WAIT_MS = 1_000.0
_LONGEST_WAIT_MS = 30_000.0

Headers = Mapping[str, str]


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Answer:
    """A response, ready to be sent.

    Attributes:
        headers: those that describe the body.
        encoded: the body compressed, for clients that accept that.
        tag: an entity tag; "" if it has none.
    """

    code: int
    headers: Headers
    body: bytes = b""
    encoded: bytes | None = None
    tag: str = ""


class PageResource(Resource):
    """The page, for GET and HEAD."""

    isLeaf = True  # noqa: N815  # Twisted's name

    def __init__(self, page: Page, origins: Collection[str] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.show(page, origins)

    def show(self, page: Page, origins: Collection[str]) -> None:
        """Serve a page from now on.

        Args:
            page: its files.
            origins: those that it may talk to besides its own.
        """
        self._answers: dict[bytes, Answer] = {
            b"": _answer(page.index, INDEX_CACHING),
            **{path.encode(): _answer(file, ASSET_CACHING) for path, file in page.assets.items()},
        }
        self._security = security_headers(origins)

    def render(self, request: Request) -> bytes:
        """Answer a request; Twisted leaves the body out for HEAD."""
        # What signing in sends back (`loginToken`) is no business of Synapse's log.
        request.uri = request.path
        answer = self._find(request)
        headers = {**self._security, **answer.headers}
        code, body = answer.code, answer.body
        if answer.tag and _has_tag(request.getHeader("if-none-match"), answer.tag):
            code, body = 304, b""
        elif answer.encoded is not None and _takes_gzip(request.getHeader("accept-encoding")):
            headers["Content-Encoding"] = "gzip"
            body = answer.encoded
        request.setResponseCode(code)
        for name, value in headers.items():
            request.responseHeaders.setRawHeaders(name, [value])
        return body

    def _find(self, request: Request) -> Answer:
        path: list[bytes] = request.postpath or []
        if request.method not in (b"GET", b"HEAD"):
            return _METHOD_NOT_ALLOWED
        # Without the trailing slash, the page's relative URLs would be relative to its parent.
        return self._answers.get(b"/".join(path), _NOT_FOUND) if path else _REDIRECT


def _answer(file: PageFile, caching: str) -> Answer:
    # Weak: the compressed response has the same one.
    tag = f'W/"{file.tag}"'
    headers = {
        "Content-Type": file.content_type,
        "Cache-Control": caching,
        "ETag": tag,
        "Vary": "Accept-Encoding",
    }
    return Answer(200, headers, file.body, file.gzipped, tag)


def _error(code: int, errcode: str, error: str, **headers: str) -> Answer:
    body = json.dumps({"errcode": errcode, "error": error}).encode()
    what = {"Content-Type": "application/json", "Cache-Control": ERROR_CACHING}
    return Answer(code, {**what, **headers}, body)


_NOT_FOUND = _error(404, "M_NOT_FOUND", "There is no such file. Load the page again.")
_METHOD_NOT_ALLOWED = _error(
    405, "M_UNRECOGNIZED", "The page takes GET and HEAD only.", Allow="GET, HEAD"
)
# Relative, since a proxy may have added a prefix to the path.
_REDIRECT = Answer(308, {"Location": PATH.split("/")[-2] + "/", "Cache-Control": ERROR_CACHING})


def _takes_gzip(header: str | None) -> bool:
    wanted = (header or "").lower().replace(" ", "")
    return "gzip" in wanted and "gzip;q=0" not in wanted


def _has_tag(header: str | None, tag: str) -> bool:
    # Compared weakly, as is right for GET; some proxies remove the W/.
    known = [each.strip().removeprefix("W/") for each in (header or "").split(",")]
    return tag.removeprefix("W/") in known or "*" in known


def serve_page(hs: HomeServer, api: ModuleApi) -> None:
    """Serve the page on every HTTP listener of this process."""
    discovery = seams.oauth_discovery(hs)
    if discovery.metadata is not None:
        resource = PageResource(load_page(oauth=OAuth.YES), oauth_origins(discovery.metadata))
    elif discovery.url is not None:
        resource = PageResource(load_page(oauth=OAuth.EXPECTED))
        finder = _OAuthServerFinder(discovery.url, resource, api)
        api.delayed_background_call(0, finder.find, desc="msc3881_oauth_server")
    else:
        resource = PageResource(load_page())
    api.register_web_resource(PATH.rstrip("/"), resource)


class _OAuthServerFinder:
    """Asks the OAuth server, which may start later than Synapse, for its public origin."""

    def __init__(self, url: str, resource: PageResource, api: ModuleApi) -> None:
        self._url = url
        self._resource = resource
        self._api = api
        self._wait_ms = _FIRST_WAIT_MS

    async def find(self) -> None:
        try:
            metadata = await self._api.http_client.get_json(self._url)
            self._resource.show(load_page(oauth=OAuth.YES), oauth_origins(metadata))
        except Exception as error:  # noqa: BLE001  # whatever it answers, or does not
            if self._wait_ms == _FIRST_WAIT_MS:
                logger.warning(
                    "msc3881: nobody can sign in to the page until %s answers: %s",
                    self._url,
                    error,
                )
            self._api.delayed_background_call(self._wait_ms, self.find, desc="msc3881_oauth_server")
            self._wait_ms = min(2 * self._wait_ms, _LONGEST_WAIT_MS)

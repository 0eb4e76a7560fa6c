# SPDX-License-Identifier: AGPL-3.0-or-later
"""The page's files as they are served or exported: joined, versioned, compressed."""

from __future__ import annotations

import gzip
import hashlib
import html
import importlib.resources
import posixpath
import re
from collections.abc import Collection, Iterator, Mapping
from enum import Enum
from typing import TYPE_CHECKING

import attr

from synapse_msc3881.page.bundle import bundle

if TYPE_CHECKING:
    from importlib.abc import Traversable

#: Where a homeserver serves the page.
PATH = "/_synapse/client/notifications/"
#: The homeserver, relative to that.
SAME_ORIGIN = "../../../"

INDEX = "index.html"
_ENTRY = "js/main.js"
_HEAD = "<head>"
_LINK = re.compile(r'\b(?P<name>href|src)="(?P<path>[\w./-]+)"')

_TYPES: Mapping[str, str] = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
#: Compressed as they are.
_COMPRESSED = (".png",)


class OAuth(Enum):
    """Whether an OAuth server signs users in, which the document tells the page."""

    NO = "no"
    YES = "yes"
    #: There is one, but it has not answered yet: the page reloads in a moment.
    EXPECTED = "expected"


@attr.s(auto_attribs=True, frozen=True, slots=True)
class PageFile:
    """One file.

    Attributes:
        content_type: what it is.
        body: its bytes.
        gzipped: the same, compressed; None if that does not make it smaller.
        tag: changes with the content.
    """

    content_type: str
    body: bytes
    gzipped: bytes | None
    tag: str


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Page:
    """All files of the page.

    Attributes:
        index: what a browser requests first.
        assets: the other files, by path relative to that. The path contains the version, so that
            browsers may keep them for ever.
    """

    index: PageFile
    assets: Mapping[str, PageFile]


def load_page(
    homeserver: str = SAME_ORIGIN, *, oauth: OAuth = OAuth.NO, policy: str | None = None
) -> Page:
    """Make the page from the package's files.

    Args:
        homeserver: the base URL of the homeserver's paths, with a slash at its end; relative to
            the page, or absolute.
        oauth: whether users sign in with an OAuth server, so that the page need not ask.
        policy: a Content-Security-Policy to put into the document, in case headers cannot be
            set.
    """
    sources = {path: file.read_bytes() for path, file in _walk(_static(), "")}
    index = sources.pop(INDEX).decode()
    scripts = {path: body.decode() for path, body in sources.items() if path.endswith(".js")}
    served = {path: body for path, body in sources.items() if path not in scripts}
    served[_ENTRY] = bundle(scripts, _ENTRY).encode()
    version = _version(served)
    metas = {'name="homeserver"': homeserver, 'name="oauth"': oauth.value}
    if policy is not None:
        metas = {'http-equiv="Content-Security-Policy"': policy, **metas}
    return Page(
        index=_file(INDEX, _fill_in(index, version, served, metas).encode()),
        assets={f"{version}/{path}": _file(path, body) for path, body in sorted(served.items())},
    )


def _static() -> Traversable:
    return importlib.resources.files("synapse_msc3881.page") / "static"


def _walk(directory: Traversable, prefix: str) -> Iterator[tuple[str, Traversable]]:
    for entry in directory.iterdir():
        if entry.is_dir():
            yield from _walk(entry, f"{prefix}{entry.name}/")
        elif posixpath.splitext(entry.name)[1] in _TYPES:
            yield prefix + entry.name, entry


def _version(files: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for path, body in sorted(files.items()):
        digest.update(f"{path}\0{len(body)}\0".encode())
        digest.update(body)
    return digest.hexdigest()[:12]


def _fill_in(index: str, version: str, files: Collection[str], metas: Mapping[str, str]) -> str:
    """Put the version into the links of the document, and something into its head."""

    def versioned(link: re.Match[str]) -> str:
        path = link["path"]
        return f'{link["name"]}="{version}/{path}"' if path in files else link[0]

    assert _HEAD in index, f"{INDEX} lacks {_HEAD}"
    lines = [f'<meta {name} content="{_attribute(value)}">' for name, value in metas.items()]
    return _LINK.sub(versioned, index).replace(_HEAD, "\n".join([_HEAD, *lines]))


def _attribute(value: str) -> str:
    return html.escape(value, quote=False).replace('"', "&quot;")


def _file(path: str, body: bytes) -> PageFile:
    extension = posixpath.splitext(path)[1]
    gzipped = None
    if extension not in _COMPRESSED:
        # Without a timestamp, so that all processes serve the same bytes.
        smaller = gzip.compress(body, compresslevel=9, mtime=0)
        gzipped = smaller if len(smaller) < len(body) else None
    return PageFile(_TYPES[extension], body, gzipped, hashlib.sha256(body).hexdigest()[:16])

# SPDX-License-Identifier: AGPL-3.0-or-later
"""The headers of the page's responses. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

_HOST = re.compile(r"[a-z0-9._-]+|\[[0-9a-f:.]+\]")

INDEX_CACHING = "no-cache"
ASSET_CACHING = "public, max-age=31536000, immutable"
ERROR_CACHING = "no-store"


def content_security_policy(connect_to: Collection[str] = (), *, in_document: bool = False) -> str:
    """The page's Content-Security-Policy.

    Args:
        connect_to: other origins that it talks to: an OAuth server's, a homeserver's.
        in_document: for a `meta` element, which does not support all of it.
    """
    directives = [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        " ".join(["connect-src 'self'", *sorted(connect_to)]),
        "base-uri 'none'",
        "form-action 'self'",
        *([] if in_document else ["frame-ancestors 'none'"]),
        "require-trusted-types-for 'script'",
    ]
    return "; ".join(directives)


def security_headers(connect_to: Collection[str] = ()) -> Mapping[str, str]:
    """The headers of every response, whatever its status; `connect_to` as above."""
    return {
        "Content-Security-Policy": content_security_policy(connect_to),
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
    }


def origin_of(url: str) -> str | None:
    """The origin of an http(s) URL, such as ``https://example.org``; None if it is not one."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    # A host name must not smuggle anything into a header or another directive.
    if not _HOST.fullmatch(host):
        return None
    return f"{parts.scheme}://{host}" + (f":{port}" if port is not None else "")


def oauth_origins(metadata: Mapping[str, object]) -> frozenset[str]:
    """The origins that the page talks to, according to an OAuth server's metadata.

    Signing in is itself a navigation, which the policy does not cover.
    """
    endpoints = ("token_endpoint", "registration_endpoint", "revocation_endpoint")
    origins = (origin_of(str(metadata.get(name, ""))) for name in endpoints)
    return frozenset(origin for origin in origins if origin is not None)

# SPDX-License-Identifier: AGPL-3.0-or-later
"""`page`: writes the users' page for a web server other than Synapse."""

from __future__ import annotations

import argparse
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from synapse_msc3881.page.export import HEADERS, ExportError, export
from synapse_msc3881.page.files import OAuth, load_page
from synapse_msc3881.page.headers import (
    content_security_policy,
    oauth_origins,
    origin_of,
    security_headers,
)

_EPILOG = """\
Example: page --to /var/www/notifications --homeserver https://matrix.example.org

Asks the homeserver whether an OAuth server signs its users in, as the page has to be allowed to
talk to that one. Run it again for each release of the module; it replaces what it wrote before, and
nothing else.

Exit status: 0 written, 1 not written, 2 wrong usage."""

_TIMEOUT_SECONDS = 10.0
_MAX_BYTES = 1_000_000
_METADATA = (
    "_matrix/client/v1/auth_metadata",
    "_matrix/client/unstable/org.matrix.msc2965/auth_metadata",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `page`."""
    parser.epilog = _EPILOG
    parser.add_argument(
        "--to",
        type=Path,
        required=True,
        metavar="DIR",
        help="an empty directory, one that does not exist, or one that this command has written",
    )
    parser.add_argument(
        "--homeserver",
        type=_homeserver,
        required=True,
        metavar="URL",
        help="where clients reach the homeserver, such as https://matrix.example.org",
    )
    parser.add_argument(
        "--oauth",
        action="append",
        type=_origin,
        metavar="URL",
        help="the OAuth server that signs users in, where the homeserver cannot be asked; the URL "
        "of its token endpoint will do",
    )
    parser.add_argument(
        "--no-oauth",
        action="store_true",
        help="the homeserver signs users in itself; do not ask it",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the page.

    Returns:
        0 if it was written, otherwise 1.
    """
    homeserver: str = arguments.homeserver
    try:
        origins = _oauth_origins(arguments)
        connect_to = {str(origin_of(homeserver)), *origins}
        page = load_page(
            homeserver,
            oauth=OAuth.YES if origins else OAuth.NO,
            policy=content_security_policy(connect_to, in_document=True),
        )
        done = export(page, arguments.to, security_headers(connect_to))
    except (ExportError, OSError) as error:
        print(f"Nothing was written: {error}.", file=sys.stderr)
        return 1
    print(f"{done.written} files are in {arguments.to}, for the homeserver at {homeserver}.")
    if done.removed:
        print(f"{done.removed} of an earlier time were removed.")
    print(f"Users sign in {'at ' + ' '.join(sorted(origins)) if origins else 'there'}.")
    print(f"The headers that its web server should send are in {arguments.to / HEADERS}.")
    return 0


def _oauth_origins(arguments: argparse.Namespace) -> frozenset[str]:
    if arguments.no_oauth:
        return frozenset()
    if arguments.oauth:
        return frozenset(arguments.oauth)
    for path in _METADATA:
        metadata = _ask(arguments.homeserver + path)
        if metadata is not None:
            return oauth_origins(metadata)
    return frozenset()


def _ask(url: str) -> Mapping[str, Any] | None:
    """The metadata at a URL; None if the homeserver has none."""
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as answer:
            metadata = json.loads(answer.read(_MAX_BYTES))
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (400, 404, 405):
            return None
        raise ExportError(_cannot_ask(url, f"it answers {error.code}")) from None
    except (OSError, ValueError) as error:
        raise ExportError(_cannot_ask(url, str(error))) from None
    if not isinstance(metadata, dict):
        raise ExportError(_cannot_ask(url, "it answers no JSON object"))
    return metadata


def _cannot_ask(url: str, why: str) -> str:
    return (
        f"the homeserver could not be asked at {url} ({why}). "
        "Say --no-oauth, or --oauth with the URL of the OAuth server"
    )


def _homeserver(value: str) -> str:
    parts = urlsplit(value)
    if origin_of(value) is None or parts.query or parts.fragment or parts.username:
        raise argparse.ArgumentTypeError(f"no URL of a homeserver: {value!r}")
    return value.rstrip("/") + "/"


def _origin(value: str) -> str:
    origin = origin_of(value)
    if origin is None:
        raise argparse.ArgumentTypeError(f"no http or https URL: {value!r}")
    return origin

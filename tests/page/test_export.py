# SPDX-License-Identifier: AGPL-3.0-or-later
"""The page on another web server and origin than its homeserver."""

from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from demo.homeserver import PASSWORD
from demo.loopback import LoopbackServer
from synapse_msc3881.page.headers import origin_of, security_headers
from tests.harness.admin import command_here
from tests.harness.browser import Watch
from tests.page.conftest import NewPage, PageServer, assert_eventually, fill_in


class _Handler(SimpleHTTPRequestHandler):
    headers_to_send: dict[str, str]

    def end_headers(self) -> None:
        for name, value in self.headers_to_send.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture(params=["with headers", "without"])
def exported(
    request: pytest.FixtureRequest, page_server: PageServer, tmp_path: Path
) -> Iterator[str]:
    """The URL of a page that another web server has, for the homeserver of the tests."""
    arguments = ("page", "--to", tmp_path, "--homeserver", page_server.base_url, "--no-oauth")
    answer = command_here(*arguments)
    assert answer.status == 0, answer.errors
    recommended = security_headers({str(origin_of(page_server.base_url))})

    class Handler(_Handler):
        headers_to_send = dict(recommended) if request.param == "with headers" else {}

    make: Any = partial(Handler, directory=str(tmp_path))
    with LoopbackServer("another web server", make) as server:
        yield f"{server.url}/"


def test_it_works_from_another_origin(
    exported: str, page_server: PageServer, new_page: NewPage, watch: Watch
) -> None:
    alice = page_server.register()
    page = new_page()
    page.goto(exported)
    fill_in(page, alice.user_id, PASSWORD)
    page.get_by_role("button", name="Sign out").wait_for()
    expect(page.get_by_role("heading", level=1)).to_have_text("Devices")
    origins = {origin_of(url) for _, url in watch.requests}
    assert origins == {origin_of(exported), page_server.base_url}
    page.evaluate("fetch('https://example.org/').catch(() => null)")
    watch.allow("example.org")
    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("button", name="Sign in").wait_for()
    wanted = "policy: connect-src https://example.org/"
    assert_eventually(page, lambda: any(wanted in said for said in watch.complaints))

# SPDX-License-Identifier: AGPL-3.0-or-later
"""The harness sees what it is there to see: a test that cannot fail is a defect."""

from pathlib import Path

import pytest
from playwright.sync_api import expect

from demo.process import port_in_use
from tests.harness.browser import Watch
from tests.harness.oauth_server import OAuthServer, is_installed
from tests.page.conftest import NewPage, PageServer, assert_accessible, assert_eventually


def test_the_page_is_loaded_and_the_browser_complains_of_nothing(
    new_page: NewPage, page_server: PageServer, watch: Watch
) -> None:
    page = new_page()
    page.goto(page_server.page_url)
    expect(page).to_have_title("Notifications, device by device")
    assert ("GET", page_server.page_url) in watch.requests
    assert len(watch.requests) >= 3
    watch.assert_quiet()


def test_what_the_policy_forbids_is_complained_of(
    new_page: NewPage, page_server: PageServer, watch: Watch
) -> None:
    page = new_page()
    page.goto(page_server.page_url)
    page.evaluate("document.body.setAttribute('style', 'color: red')")
    page.evaluate("fetch('https://example.org/').catch(() => null)")
    assert_eventually(
        page, lambda: any("policy: connect-src" in complaint for complaint in watch.complaints)
    )
    with pytest.raises(AssertionError) as caught:
        watch.assert_quiet()
    assert "policy: style-src-attr inline" in str(caught.value)
    assert "policy: connect-src https://example.org/" in str(caught.value)
    watch.allow("policy: |Content Security Policy")


def test_what_shuts_people_out_is_found(new_page: NewPage, page_server: PageServer) -> None:
    page = new_page()
    page.goto(page_server.page_url)
    page.evaluate("document.body.append(document.createElement('button'))")
    with pytest.raises(AssertionError, match="button-name"):
        assert_accessible(page)


@pytest.mark.skipif(not is_installed(), reason="`make test-page` got no oidc-provider from npm")
def test_an_oauth_server_that_was_stopped_is_gone(tmp_path: Path) -> None:
    with OAuthServer(directory=tmp_path) as server:
        assert port_in_use(server.port)
    assert not port_in_use(server.port)

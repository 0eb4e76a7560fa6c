# SPDX-License-Identifier: AGPL-3.0-or-later
"""Signing in with OAuth 2.0 and with single sign-on, at a server that is not ours."""

import importlib.util
import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Page, Request, Route, expect

from demo.client import Session, path
from tests.harness.browser import Watch
from tests.harness.oauth_server import BRIEF, OAuthServer, is_installed
from tests.harness.waiting import wait_until
from tests.page.conftest import (
    FreshPageServer,
    NewPage,
    PageServer,
    assert_accessible,
    assert_eventually,
    sign_out,
    stored_session,
    token_of,
)

pytestmark = pytest.mark.skipif(
    not is_installed(), reason="`make test-page` installs oidc-provider"
)

needs_delegation = pytest.mark.skipif(
    importlib.util.find_spec("synapse.config.mas") is None,
    reason="this Synapse delegates to nobody by a stable option",
)

#: What the pages of oidc-provider, and Synapse's own, ask for in vain.
ITS_OWN = r"fonts\.googleapis\.com|matrix\.org/img|/favicon\.ico"


@pytest.fixture(scope="module")
def oauth(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OAuthServer]:
    """The OAuth server that all tests share; each has users of its own there."""
    with OAuthServer(directory=tmp_path_factory.mktemp("oauth")) as server:
        yield server


# Signs a user in there, who types the name and consents.
Person = Callable[[Page, str], None]


def be_known(page: Page, name: str) -> None:
    """What a person does at the OAuth server."""
    page.locator("input[name=login]").fill(name)
    page.locator("input[name=password]").fill("any")
    page.locator("button[type=submit]").click()
    consent(page)


def consent(page: Page) -> None:
    page.locator("form:has(input[value=consent]) button[type=submit]").click()


@pytest.fixture(scope="module")
def delegating(oauth: OAuthServer, module_page_server: FreshPageServer) -> PageServer:
    """A Synapse that has its users sign in at the OAuth server."""
    return module_page_server(extra=oauth.delegation())


_names = itertools.count()


def new_user(oauth: OAuthServer, server: PageServer, name: str = "alice") -> str:
    """The name of a new user of the Synapse, as the OAuth server would tell it of one."""
    localpart = f"{name}-{next(_names)}"
    session = Session(route=server.deployment.homeserver.route, access_token=oauth.secret)
    session.call("POST", "/_synapse/mas/provision_user", {"localpart": localpart})
    session.close()
    return localpart


@pytest.fixture
def alice(oauth: OAuthServer, delegating: PageServer) -> str:
    """The local part of a user who signs in there."""
    return new_user(oauth, delegating)


def devices_of(server: PageServer, page: Page) -> dict[str, str]:
    """The user's devices with their names, asked for with the page's token."""
    session = Session(route=server.deployment.homeserver.route, access_token=token_of(page))
    devices = session.call("GET", path("devices"))["devices"]
    session.close()
    return {device["device_id"]: device["display_name"] for device in devices}


def form_of(request: Request) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(request.post_data or "").items()}


def record(page: Page, into: list[Request]) -> None:
    """Keep what a page asks from now on."""
    page.on("request", lambda request: into.extend([request]))


def sign_in_at(server: PageServer, page: Page, name: str) -> None:
    page.goto(server.page_url)
    page.get_by_role("button", name="Continue at 127.0.0.1").click()
    be_known(page, name)
    page.get_by_role("button", name="Sign out").wait_for()


# --- OAuth 2.0 ----------------------------------------------------------------------------------


@needs_delegation
def test_the_whole_way(delegating: PageServer, alice: str, new_page: NewPage, watch: Watch) -> None:
    server = delegating
    watch.allow(ITS_OWN)
    page = new_page()
    sent: list[Request] = []
    record(page, sent)
    page.goto(server.page_url + "#/rooms")
    page.get_by_role("button", name="Continue at 127.0.0.1").wait_for()
    expect(page.get_by_role("textbox")).to_have_count(0)  # It is the only way in.
    assert_accessible(page)
    page.get_by_role("button", name="Continue at 127.0.0.1").click()
    be_known(page, alice)
    page.get_by_role("button", name="Sign out").wait_for()
    expect(page.locator("body")).to_contain_text(f"@{alice}:")
    expect(page).to_have_url(server.page_url + "#/rooms")

    (registration,) = [each for each in sent if each.url.endswith("/reg")]
    asked_as = json.loads(registration.post_data or "")
    assert asked_as["token_endpoint_auth_method"] == "none"
    assert asked_as["redirect_uris"] == [server.page_url]
    authorization = next(each for each in sent if urlsplit(each.url).path == "/auth")
    asked = parse_qs(urlsplit(authorization.url).query)
    assert asked["code_challenge_method"] == ["S256"]
    assert asked["response_mode"] == ["fragment"]
    assert len(asked["state"][0]) == len(asked["code_challenge"][0]) == 43
    (token,) = [each for each in sent if each.url.endswith("/token")]
    assert form_of(token)["grant_type"] == "authorization_code"
    assert form_of(token)["code_verifier"] not in authorization.url
    # The code went to its server alone: no other request, and no log of Synapse's, has it.
    code = form_of(token)["code"]
    assert not [each.url for each in sent if code in each.url.partition("#")[0]]
    assert code not in server.deployment.log_text()

    own = stored_session(page)["deviceId"]
    assert devices_of(server, page)[own] == "Notification settings"

    # Registered once for a browser, and the same device again.
    page.evaluate("sessionStorage.clear()")
    page.goto(server.page_url)
    page.get_by_role("button", name="Continue at 127.0.0.1").click()
    page.get_by_role("button", name="Sign out").or_(page.locator("input[value=consent]")).wait_for(
        state="attached"
    )
    if page.locator("input[value=consent]").count():
        consent(page)
    page.get_by_role("button", name="Sign out").wait_for()
    assert stored_session(page)["deviceId"] == own
    assert len([each for each in sent if each.url.endswith("/reg")]) == 1


@needs_delegation
def test_the_policy_names_the_oauth_servers_origin(
    delegating: PageServer, oauth: OAuthServer
) -> None:
    server = delegating
    session = Session(route=server.deployment.homeserver.route)
    wanted = f"connect-src 'self' {oauth.issuer.rstrip('/')};"

    def policy() -> str:
        answer = session.request("GET", urlsplit(server.page_url).path, token=False)
        return answer.headers["content-security-policy"]

    wait_until(lambda: wanted in policy(), "the OAuth server's origin in the policy")
    session.close()


@needs_delegation
def test_an_oauth_server_that_starts_later_is_waited_for(
    fresh_page_server: FreshPageServer, tmp_path: Path, new_page: NewPage
) -> None:
    oauth = OAuthServer(directory=tmp_path)
    server = fresh_page_server(extra=oauth.delegation())
    page = new_page()
    page.goto(server.page_url)
    expect(page.get_by_role("main")).to_contain_text("Asking the server how to sign in")
    with oauth:
        # Synapse asks for it every 30 seconds at most.
        page.get_by_role("button", name="Continue at 127.0.0.1").wait_for(timeout=60_000)
    assert "nobody can sign in to the page until" in server.deployment.log_text()


@needs_delegation
def test_signing_out_revokes_the_tokens(
    delegating: PageServer, alice: str, new_page: NewPage, watch: Watch
) -> None:
    watch.allow(ITS_OWN)
    page = new_page()
    sign_in_at(delegating, page, alice)
    stored = stored_session(page)
    sent: list[Request] = []
    record(page, sent)
    sign_out(page)
    (revocation,) = [each for each in sent if each.url.endswith("/token/revocation")]
    assert form_of(revocation)["token"] == stored["refreshToken"]
    assert stored_session(page) is None
    # The server takes neither of them any more.
    assert refresh(page, stored) == 400


def refresh(page: Page, stored: Any) -> int:
    """The status of an attempt to renew a token."""
    answer = page.request.post(
        stored["oauth"]["token"],
        form={
            "grant_type": "refresh_token",
            "refresh_token": stored["refreshToken"],
            "client_id": stored["oauth"]["clientId"],
        },
    )
    return answer.status


@needs_delegation
def test_a_token_that_runs_out_is_renewed_and_the_old_one_used_up(
    delegating: PageServer, oauth: OAuthServer, new_page: NewPage, watch: Watch
) -> None:
    watch.allow(ITS_OWN)
    page = new_page()
    sign_in_at(delegating, page, new_user(oauth, delegating, BRIEF))
    before = stored_session(page)
    page.wait_for_function(
        "before => JSON.parse(sessionStorage['synapse_msc3881.session']).expiresAt"
        " - Date.now() < 15000",
        arg=None,
    )
    page.reload()
    page.get_by_role("button", name="Sign out").wait_for()
    assert_eventually(page, lambda: stored_session(page)["accessToken"] != before["accessToken"])
    after = stored_session(page)
    assert after["refreshToken"] != before["refreshToken"]
    assert devices_of(delegating, page)


@needs_delegation
def test_who_says_no_there_is_told_so_here(
    delegating: PageServer, new_page: NewPage, watch: Watch
) -> None:
    server = delegating
    watch.allow(ITS_OWN)
    page = new_page()
    page.goto(server.page_url)
    page.get_by_role("button", name="Continue at 127.0.0.1").click()
    page.get_by_role("link", name=re.compile("cancel", re.IGNORECASE)).click()
    expect(page.get_by_role("main")).to_contain_text("The sign-in was cancelled.")
    assert page.url == server.page_url
    page.get_by_role("button", name="Continue at 127.0.0.1").wait_for()


@needs_delegation
def test_an_answer_of_another_server_is_refused(
    delegating: PageServer, new_page: NewPage, watch: Watch
) -> None:
    server = delegating
    page = new_page()
    page.goto(server.page_url)
    page.route("**/auth?*", lambda route: route.fulfill(body="Who are you?"))
    page.get_by_role("button", name="Continue at 127.0.0.1").click()
    page.wait_for_url("**/auth?*")
    state = parse_qs(urlsplit(page.url).query)["state"][0]
    page.goto(f"{server.page_url}#code=stolen&state={state}&iss=https://elsewhere.example.org/")
    expect(page.get_by_role("main")).to_contain_text("The sign-in did not work.")
    assert not [url for _, url in watch.requests if url.endswith("/token")]


@needs_delegation
def test_an_oauth_server_that_sends_elsewhere_than_the_web_is_not_followed(
    delegating: PageServer, new_page: NewPage
) -> None:
    server = delegating
    page = new_page()

    def poison(route: Route) -> None:
        metadata = route.fetch().json()
        metadata["authorization_endpoint"] = "javascript:alert(document.domain)"
        route.fulfill(json=metadata)

    page.route("**/auth_metadata", poison)
    page.goto(server.page_url)
    expect(page.get_by_role("alert")).to_contain_text("does not work with this page")


# --- Single sign-on -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_sso(oauth: OAuthServer, module_page_server: FreshPageServer) -> PageServer:
    """A Synapse with two identity providers, and no questions asked of the page at this address."""
    providers = [
        oauth.identity_provider("Corporate Login"),
        oauth.identity_provider("Other Place"),
    ]
    # Beginnings of URLs. An admin writes the page's; its port is not known yet.
    whitelist = {"client_whitelist": ["http://127.0.0.1:"]}
    return module_page_server(extra={"oidc_providers": providers, "sso": whitelist})


def test_single_sign_on_with_one_of_two_providers(
    with_sso: PageServer, new_page: NewPage, watch: Watch
) -> None:
    watch.allow(ITS_OWN)
    page = new_page()
    page.goto(with_sso.page_url)
    page.get_by_role("button", name="Continue with Other Place").wait_for()
    page.get_by_label("Password", exact=True).wait_for()
    assert_accessible(page)
    page.get_by_role("button", name="Continue with Corporate Login").click()
    be_known(page, "carol")
    page.get_by_role("button", name="Sign out").wait_for()
    assert page.url == with_sso.page_url
    expect(page.locator("body")).to_contain_text("@carol:")
    names = devices_of(with_sso, page)
    assert names[stored_session(page)["deviceId"]] == "Notification settings"

    # What came back in the address is in no log of Synapse's, nor in the history.
    log = with_sso.deployment.log_text()
    assert [url for _, url in watch.requests if "loginToken=" in url]
    page_requests = [line for line in log.splitlines() if "/_synapse/client/notifications/" in line]
    assert page_requests
    assert not [line for line in page_requests if "loginToken" in line and "redirect" not in line]


def test_without_the_whitelist_synapse_asks_first_and_it_works_all_the_same(
    with_sso: PageServer, new_page: NewPage, watch: Watch
) -> None:
    watch.allow(ITS_OWN)
    page = new_page()
    # At another address than the one on the list.
    page.goto(with_sso.page_url.replace("127.0.0.1", "localhost"))
    page.get_by_role("button", name="Continue with Corporate Login").click()
    be_known(page, "dave")
    page.get_by_role("link", name="Continue").click()
    page.get_by_role("button", name="Sign out").wait_for()
    expect(page.locator("body")).to_contain_text("@dave:")

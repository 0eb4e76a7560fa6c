# SPDX-License-Identifier: AGPL-3.0-or-later
"""Signing in with the password; the session that it makes, and how it ends (specification 8)."""

import contextlib
import re

import pytest
from playwright.sync_api import Error, Page, Route, expect

from demo.client import Session, path
from demo.homeserver import PASSWORD
from tests.harness.browser import Watch
from tests.page.conftest import (
    FreshPageServer,
    NewPage,
    PageServer,
    SignedIn,
    assert_accessible,
    assert_eventually,
    fill_in,
    hold,
    second_tab,
    sign_in,
    sign_out,
    stored_session,
    token_of,
)
from tests.page.screens import pause

NAME = "Notification settings"
FAILED_LOAD = "Failed to load resource"


@pytest.fixture
def alice(page_server: PageServer) -> Session:
    return page_server.register()


def sessions_of(user: Session) -> list[str]:
    """The ids of the user's devices that are the page's."""
    devices = user.call("GET", path("devices"))["devices"]
    return [device["device_id"] for device in devices if device["display_name"] == NAME]


def is_signed_out(page: Page, why: str = "") -> None:
    """Wait for the screen to sign in, and what it says."""
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()
    if why:
        expect(page.get_by_role("main")).to_contain_text(why)


# --- One session --------------------------------------------------------------------------------


def test_one_session_for_a_browser_and_a_user_however_often_they_sign_in(
    alice: Session, page_server: PageServer, new_page: NewPage
) -> None:
    page = new_page()
    sign_in(page, page_server, alice)
    (first,) = sessions_of(alice)

    sign_out(page)
    assert sessions_of(alice) == []
    assert stored_session(page) is None

    fill_in(page, alice.user_id, PASSWORD)
    page.get_by_role("button", name="Sign out").wait_for()
    page.evaluate("sessionStorage.clear()")
    sign_in(page, page_server, alice)
    assert sessions_of(alice) == [first]

    other = new_page()
    sign_in(other, page_server, alice)
    assert len(sessions_of(alice)) == 2


def test_it_is_not_among_the_devices_and_has_no_keys(alice: Session, signed_in: SignedIn) -> None:
    page = signed_in(alice)
    (device_id,) = sessions_of(alice)
    page.get_by_role("heading", name="Devices").wait_for()
    expect(page.get_by_role("main")).not_to_contain_text(NAME)
    expect(page.get_by_role("main")).not_to_contain_text(device_id)
    keys = alice.call("POST", path("keys", "query"), {"device_keys": {alice.user_id: []}})
    assert device_id not in keys["device_keys"].get(alice.user_id, {})


def test_a_reload_stays_signed_in(alice: Session, signed_in: SignedIn) -> None:
    page = signed_in(alice)
    page.reload()
    page.get_by_role("button", name="Sign out").wait_for()
    assert len(sessions_of(alice)) == 1


def test_a_second_tab_is_signed_in_and_signing_out_ends_both(
    alice: Session, page_server: PageServer, signed_in: SignedIn
) -> None:
    first = signed_in(alice)
    second = second_tab(first, page_server)
    assert token_of(second) == token_of(first)
    sign_out(second)
    is_signed_out(first, "You are signed out.")
    assert sessions_of(alice) == []


def test_while_one_tab_signs_out_the_others_ask_for_nothing(
    alice: Session, page_server: PageServer, signed_in: SignedIn, watch: Watch
) -> None:
    first = signed_in(alice)
    second = second_tab(first, page_server)
    look = first.get_by_role("button", name="Look for new devices")
    look.wait_for()
    with hold(first, "**/_matrix/client/v3/devices") as wait_for_a_request:
        look.click()
        wait_for_a_request()
        sign_out(second)
        is_signed_out(first, "You are signed out.")
    # Time enough for whatever the first might ask with what it had.
    fill_in(first, alice.user_id, PASSWORD)
    first.get_by_role("heading", name="Devices").wait_for()
    assert not [url for _, url in watch.requests if url.endswith("/refresh")]


def test_who_signs_in_again_in_another_tab_does_not_sign_the_first_out(
    alice: Session, page_server: PageServer, signed_in: SignedIn
) -> None:
    first = signed_in(alice)
    # The last of what it reads has come, so that nothing is under way that is refused.
    first.locator("main h2").get_by_role("link").wait_for()
    before = token_of(first)
    second = first.context.new_page()
    # As if the first were too slow to answer, until somebody has signed in.
    second.add_init_script(
        "window.post = BroadcastChannel.prototype.postMessage;"
        "BroadcastChannel.prototype.postMessage = () => undefined"
    )
    second.goto(page_server.page_url)
    is_signed_out(second)
    second.evaluate("void (BroadcastChannel.prototype.postMessage = window.post)")
    fill_in(second, alice.user_id, PASSWORD)
    second.get_by_role("button", name="Sign out").wait_for()
    assert_eventually(first, lambda: token_of(first) == token_of(second))
    assert token_of(first) != before
    first.reload()
    first.get_by_role("button", name="Sign out").wait_for()
    assert len(sessions_of(alice)) == 1


def test_signing_out_while_the_page_still_loads_asks_for_nothing_more(
    alice: Session, signed_in: SignedIn, watch: Watch
) -> None:
    watch.allow(FAILED_LOAD)
    page = signed_in(alice)
    page.get_by_role("heading", name="Devices").wait_for()
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/_matrix/client/v3/devices", hold)
    page.reload()
    assert_eventually(page, lambda: held)
    sign_out(page)
    for route in held:
        with contextlib.suppress(Error):  # The page does not want it any more.
            route.continue_()
    assert sessions_of(alice) == []
    # Time enough for whatever it might have asked.
    page.unroute_all()
    fill_in(page, alice.user_id, PASSWORD)
    page.get_by_role("heading", name="Devices").wait_for()
    assert not [url for _, url in watch.requests if url.endswith("/refresh")]


def test_a_server_that_hangs_does_not_keep_anybody_signed_in(
    alice: Session, signed_in: SignedIn, watch: Watch
) -> None:
    watch.allow(FAILED_LOAD)
    page = signed_in(alice)
    held: list[Route] = []
    page.route("**/logout", lambda route: held.extend([route]))
    page.get_by_role("button", name="Sign out").click()
    # Before the page would give the request up.
    is_signed_out(page, "The server has not confirmed it")
    assert stored_session(page) is None
    # Whoever signs in again stays signed in.
    fill_in(page, alice.user_id, PASSWORD)
    page.get_by_role("heading", name="Devices").wait_for()
    with contextlib.suppress(Error):  # The page does not want it any more.
        held[0].continue_()
    page.reload()
    page.get_by_role("heading", name="Devices").wait_for()
    assert len(sessions_of(alice)) == 1


@pytest.fixture(scope="module")
def strict(module_page_server: FreshPageServer) -> PageServer:
    """A server whose tokens live briefly, and that lets nobody sign in twice within 8 seconds."""
    slow, often = {"per_second": 0.125, "burst_count": 1}, {"per_second": 100, "burst_count": 100}
    limits = {"address": often, "account": slow, "failed_attempts": slow}
    return module_page_server(extra={"refreshable_access_token_lifetime": "2s", "rc_login": limits})


# --- How it ends --------------------------------------------------------------------------------


def test_thirty_idle_minutes_end_it_here_and_at_the_server(
    alice: Session, page_server: PageServer, new_page: NewPage
) -> None:
    page = new_page()
    page.clock.install()
    sign_in(page, page_server, alice)
    page.clock.fast_forward("29:00")
    page.keyboard.press("Shift")
    page.clock.fast_forward("29:00")
    page.clock.run_for(1000)
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()
    assert len(sessions_of(alice)) == 1

    # Paused, it does not run out while the server signs out.
    pause(page, 120)
    page.clock.run_for(1000)
    expect(page.get_by_role("main")).to_contain_text("as you did nothing here for 30 minutes")
    page.clock.resume()
    is_signed_out(page)
    assert sessions_of(alice) == []
    assert stored_session(page) is None


def test_a_tab_that_is_restored_after_that_is_signed_out(
    alice: Session, signed_in: SignedIn
) -> None:
    page = signed_in(alice)
    page.evaluate(
        """for (const [key, text] of Object.entries(sessionStorage)) {
            const stored = JSON.parse(text);
            stored.activeAt -= 31 * 60000;
            addEventListener("pagehide", () => sessionStorage.setItem(key, JSON.stringify(stored)));
        }"""
    )
    page.reload()
    is_signed_out(page, "as you did nothing here for 30 minutes")
    # The page does not wait for the server for long.
    assert_eventually(page, lambda: sessions_of(alice) == [])


def test_a_session_that_was_ended_elsewhere_says_so(
    alice: Session, page_server: PageServer, signed_in: SignedIn, watch: Watch
) -> None:
    watch.allow(FAILED_LOAD)
    page = signed_in(alice)
    (device_id,) = sessions_of(alice)
    auth = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": alice.user_id},
        "password": PASSWORD,
    }
    alice.call("DELETE", path("devices", device_id), {"auth": auth})
    page_server.deployment.settle()
    page.reload()
    is_signed_out(page, "This session was ended from another device.")
    assert stored_session(page) is None


def test_a_token_that_runs_out_is_renewed(
    strict: PageServer, new_page: NewPage, watch: Watch
) -> None:
    watch.allow(FAILED_LOAD)
    alice = strict.register()
    page = new_page()
    sign_in(page, strict, alice)
    before = token_of(page)
    page.reload()
    page.get_by_role("button", name="Sign out").wait_for()
    assert_eventually(page, lambda: token_of(page) != before)
    assert [url for _, url in watch.requests if url.endswith("/_matrix/client/v3/refresh")]
    assert len(sessions_of(alice)) == 1


def test_a_token_that_comes_after_signing_out_is_not_kept(
    strict: PageServer, new_page: NewPage, watch: Watch
) -> None:
    """The page waits for a slow server for 2 seconds, and then goes on without it."""
    watch.allow(FAILED_LOAD)
    page = new_page()
    held: list[Route] = []

    def keep(route: Route) -> None:
        held.append(route)

    page.route("**/_matrix/client/v3/refresh", keep)
    sign_in(page, strict, strict.register())
    assert_eventually(page, lambda: held)
    page.get_by_role("button", name="Sign out").click()
    is_signed_out(page)
    with page.expect_response(held[0].request.url) as answer:
        held[0].continue_()
    assert answer.value.json()["access_token"]
    page.evaluate("() => new Promise((resolve) => requestAnimationFrame(resolve))")
    assert stored_session(page) is None
    page.reload()
    is_signed_out(page)


# --- What can go wrong --------------------------------------------------------------------------


def test_a_wrong_password_is_said(
    alice: Session, page_server: PageServer, new_page: NewPage, watch: Watch
) -> None:
    watch.allow(FAILED_LOAD)
    page = new_page()
    page.goto(page_server.page_url)
    fill_in(page, alice.user_id, "not the password")
    expect(page.get_by_role("alert")).to_have_text("The username or the password is wrong.")
    fill_in(page, alice.user_id, PASSWORD)
    page.get_by_role("button", name="Sign out").wait_for()


def test_a_server_that_wants_a_rest_gets_it(
    strict: PageServer, new_page: NewPage, watch: Watch
) -> None:
    watch.allow(FAILED_LOAD)
    alice = strict.register()
    page = new_page()
    page.goto(strict.page_url)
    page.get_by_label("Username").fill(alice.user_id)
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    strict.login(alice, "OTHER")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("You can try again in")
    page.get_by_role("button", name="Sign out").wait_for()  # By itself.


def test_a_long_rest_is_told_and_kept(
    alice: Session, page_server: PageServer, new_page: NewPage, watch: Watch
) -> None:
    watch.allow(FAILED_LOAD)
    page = new_page()
    page.clock.install()
    asked = []

    def refuse(route: Route) -> None:
        if route.request.method == "GET":
            route.continue_()
            return
        asked.append(1)
        route.fulfill(status=429, json={"errcode": "M_LIMIT_EXCEEDED", "retry_after_ms": 240_000})

    page.route(re.compile("/_matrix/client/v3/login$"), refuse)
    page.goto(page_server.page_url)
    fill_in(page, alice.user_id, PASSWORD)
    expect(page.get_by_role("alert")).to_contain_text("You can try again in 4 minutes.")
    button = page.get_by_role("button", name="Sign in")
    expect(button).to_be_disabled()
    page.clock.fast_forward("04:01")
    expect(button).to_be_enabled()
    assert asked == [1]


def test_no_network_is_said_and_can_be_tried_again(
    alice: Session, page_server: PageServer, new_page: NewPage, watch: Watch
) -> None:
    watch.allow("Failed to load resource|ERR_FAILED")
    page = new_page()
    page.route("**/_matrix/**", lambda route: route.abort())
    page.goto(page_server.page_url)
    expect(page.get_by_role("alert")).to_contain_text("The server cannot be reached.")
    page.unroute("**/_matrix/**")
    page.get_by_role("button", name="Try again").click()
    fill_in(page, alice.user_id, PASSWORD)
    page.get_by_role("button", name="Sign out").wait_for()


def test_a_server_that_offers_nothing_says_so(page_server: PageServer, new_page: NewPage) -> None:
    page = new_page()
    page.route(re.compile("/v3/login$"), lambda route: route.fulfill(json={"flows": []}))
    page.goto(page_server.page_url)
    expect(page.get_by_role("alert").first).to_contain_text("offers no way to sign in")
    expect(page.get_by_role("textbox")).to_have_count(0)


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
def test_everybody_can_sign_in(
    alice: Session, page_server: PageServer, new_page: NewPage, color_scheme: str, watch: Watch
) -> None:
    watch.allow(FAILED_LOAD)
    page = new_page(color_scheme=color_scheme, viewport={"width": 320, "height": 640})
    page.goto(page_server.page_url)
    page.get_by_label("Username").wait_for()
    assert_accessible(page)
    # The keyboard alone.
    page.get_by_label("Username").focus()
    page.keyboard.type(alice.user_id)
    page.keyboard.press("Tab")
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("The username or the password is wrong.")
    assert_accessible(page)
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Sign out").wait_for()

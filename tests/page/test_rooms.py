# SPDX-License-Identifier: AGPL-3.0-or-later
""" "Rooms" and "Why did it ring?", beside the choices for rooms; and what can fail."""

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from demo.client import path
from tests.harness.waiting import wait_until
from tests.page.conftest import PageServer, SignedIn, assert_eventually, second_tab
from tests.page.screens import (
    PHONE,
    TABLET,
    Home,
    card,
    choices,
    choose,
    go,
    has_said,
    hear,
    is_all_read,
    switch,
)
from tests.server.cascade_helpers import EXPLAIN

SLIDING = "**/org.matrix.simplified_msc3575/sync?*"

# A status that is no success is an error on the console, whoever expects it.
pytestmark = pytest.mark.usefixtures("refusals_may_be_logged")


# ---- Rooms ----


def test_rooms_are_searched_and_only_a_page_of_them_is_in_the_document(
    home: Home, signed_in: SignedIn
) -> None:
    home.room("Café")
    page = signed_in(home.phone)

    def many(route: Route) -> None:
        """60 rooms like the one that there is: to make them would take long."""
        answer = route.fetch()
        content = answer.json()
        [room] = [one for one in content["rooms"].values() if one["name"] == "Café"]
        for number in range(60):
            copy = {**room, "name": f"Café {number}", "bump_stamp": room["bump_stamp"] + number + 1}
            content["rooms"][f"!{number}"] = copy
        route.fulfill(response=answer, json=content)

    page.route(SLIDING, many)
    page.reload()
    go(page, "rooms")
    rows = page.locator(".room-list > li")
    expect(page.get_by_role("status").filter(has_text="62 rooms")).to_be_visible()
    expect(rows).to_have_count(50)
    expect(rows.first).to_contain_text("Café 59")
    page.get_by_role("button", name="Older rooms").click()
    expect(rows).to_have_count(12)
    page.get_by_label("Search rooms").fill("cafe 7")
    expect(rows).to_have_count(1)
    page.get_by_label("Search rooms").fill("nowhere")
    expect(page.get_by_text("No room is called so.")).to_be_visible()


def test_rules_of_another_app_about_a_room_stay(home: Home, signed_in: SignedIn) -> None:
    room = home.room("Choir")
    home.phone_pusher.set(
        app_display_name="Demo", device_display_name=PHONE, profile_tags=["PHONE", "global"]
    )
    theirs = {"actions": ["notify", {"set_tweak": "sound", "value": "siren"}]}
    home.phone.put_rule("PHONE", "room", room, theirs)
    page = signed_in(home.tablet)
    go(page, "rooms", room)
    expect(choices(page, PHONE)).to_contain_text("Set by another app")
    for choice in ("All messages", "Mentions and keywords", "Muted", "As everywhere"):
        choose(page, PHONE, choice)
    rules = home.rules_of(home.phone)
    assert [rule["actions"] for rule in rules["room"]] == [theirs["actions"]]
    assert not rules["override"]
    assert not rules["underride"]


def test_two_tabs_do_not_undo_each_other(home: Home, signed_in: SignedIn) -> None:
    first, second = home.room("First"), home.room("Second")
    one, other = signed_in(home.tablet), signed_in(home.tablet)
    go(one, "rooms", first)
    go(other, "rooms", second)
    choose(one, PHONE, "Muted")
    choose(other, PHONE, "Muted")
    go(other, "devices")
    switch(other, PHONE, False)
    choose(one, PHONE, "All messages")
    rules = home.rules_of(home.phone)
    assert [rule["rule_id"] for rule in rules["override"]] == [second]
    assert home.pusher(home.phone)["enabled"] is False
    go(other, "rooms", first)
    expect(choices(other, PHONE).get_by_label("All messages")).not_to_be_checked()
    # What the server holds is shown after the next change, whoever changed it.
    choose(other, TABLET, "Muted")
    expect(choices(other, PHONE).get_by_label("All messages")).to_be_checked()


def test_two_tabs_read_the_rooms_at_once(
    home: Home, page_server: PageServer, signed_in: SignedIn
) -> None:
    home.room("Choir")
    one = signed_in(home.phone)
    is_all_read(one)
    held: list[Route] = []

    def between(route: Route) -> None:
        """Say in the first window that there are more rooms, and hold the second."""
        if "pos=" in route.request.url:
            held.append(route)
            return
        answer = route.fetch()
        content = answer.json()
        content["lists"]["rooms"]["count"] = 51
        route.fulfill(response=answer, json=content)

    one.route(SLIDING, between)
    one.reload()
    assert_eventually(one, lambda: held)
    other = second_tab(one, page_server)
    go(other, "rooms")
    expect(other.get_by_role("link", name="Choir")).to_be_visible()
    with one.expect_response(lambda answer: "pos=" in answer.url) as second:
        held[0].continue_()
    assert second.value.status == 200


def test_a_tab_that_was_copied_finds_a_connection_of_its_own(
    home: Home, signed_in: SignedIn
) -> None:
    home.room("Choir")
    page = signed_in(home.phone)
    is_all_read(page)
    unknown = {"errcode": "M_UNKNOWN_POS", "error": "Unknown position"}
    page.route(SLIDING, lambda route: route.fulfill(status=400, json=unknown), times=1)
    page.reload()
    go(page, "rooms")
    expect(page.get_by_role("link", name="Choir")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)


def test_without_sliding_sync_the_rooms_come_from_a_sync(home: Home, signed_in: SignedIn) -> None:
    home.room("Choir")
    unknown = {"errcode": "M_UNRECOGNIZED", "error": "Unrecognized request"}

    def refuse(page: Page) -> None:
        page.route(
            "**/org.matrix.simplified_msc3575/sync?*",
            lambda route: route.fulfill(status=404, json=unknown),
        )

    page = signed_in(home.phone)
    refuse(page)
    page.reload()
    go(page, "rooms")
    page.get_by_role("link", name="Choir").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Choir")
    expect(choices(page, PHONE)).to_contain_text("rings for every message")


# ---- Why did it ring? ----


def is_sent(home: Home, room: str, event: str) -> bool:
    """Whether the server knows that the tablet rang for an event."""
    answer = home.phone.call("GET", f"{EXPLAIN}/{room}/{event}")
    [tablet] = [one for one in answer["pushers"] if one["device_id"] == "TABLET"]
    return bool(tablet["delivery"]["state"] == "sent")


def test_why_it_rang_is_told_for_each_device(home: Home, signed_in: SignedIn) -> None:
    room = home.room("Choir")
    page = signed_in(home.tablet)
    go(page, "rooms", room)
    choose(page, PHONE, "Muted")
    event = home.bob.send(room, "Rehearsal at eight")
    # The gateway has it before the server knows that it has.
    wait_until(lambda: is_sent(home, room, event))
    go(page, "why")
    page.get_by_role("link", name="Choir").click()
    page.get_by_role("link", name="Rehearsal at eight").click()
    phone = page.locator("section").filter(has_text=PHONE)
    expect(phone).to_contain_text("It did not ring")
    expect(phone).to_contain_text("This room is muted on this device.")
    tablet = page.locator("section").filter(has_text=TABLET)
    expect(tablet).to_contain_text("It rang")
    expect(tablet).to_contain_text("What is set everywhere decided")
    phone.get_by_role("link", name="Change this setting").click()
    expect(choices(page, PHONE).get_by_label("Muted")).to_be_checked()


# ---- Failures ----


FAILURES: dict[str, tuple[Callable[[Any], None], str]] = {
    "403": (
        lambda route: route.fulfill(status=403, json={"errcode": "M_FORBIDDEN", "error": "No"}),
        "The server does not allow this.",
    ),
    "500": (
        lambda route: route.fulfill(status=500, json={"errcode": "M_UNKNOWN", "error": "Oh"}),
        "Something went wrong on the server.",
    ),
    "no network": (lambda route: route.abort(), "The server cannot be reached."),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("where", ["**/pushrules/device/**/encrypted%3A*", "**/pushers/set"])
def test_what_fails_is_said_and_nothing_is_half_done(
    failure: str, where: str, home: Home, signed_in: SignedIn
) -> None:
    answer, sentence = FAILURES[failure]
    room = home.room("Choir")
    page = signed_in(home.tablet)
    go(page, "rooms", room)
    page.route(where, answer)
    # No `check`: it looks whether it is, and by then that may have failed.
    choices(page, PHONE).get_by_label("All messages").click()
    expect(page.get_by_role("alert")).to_contain_text(sentence)
    assert home.rules_of(home.phone) == {}
    assert home.pusher(home.phone)["profile_tags"] == ["global"]
    expect(choices(page, PHONE).get_by_label("As everywhere")).to_be_checked()
    page.unroute(where)
    retry = page.get_by_role("button", name="Try again")
    if failure == "403":
        expect(retry).to_have_count(0)
        return
    retry.click()
    expect(choices(page, PHONE).get_by_label("All messages")).to_be_checked()
    expect(page.get_by_role("alert")).to_have_count(0)
    assert home.pusher(home.phone)["profile_tags"] == ["PHONE", "global"]


def test_it_waits_when_the_server_asks_to(home: Home, signed_in: SignedIn) -> None:
    page = signed_in(home.tablet)
    limited = {"errcode": "M_LIMIT_EXCEEDED", "error": "Slow down", "retry_after_ms": 1500}
    page.route("**/pushers/set", lambda route: route.fulfill(status=429, json=limited), times=1)
    hear(page)
    card(page, PHONE).get_by_role("switch").uncheck()
    has_said(page, "The server asks to wait for 2 seconds")
    wait_until(lambda: home.pusher(home.phone)["enabled"] is False)


def test_after_a_wait_for_what_is_only_read_nothing_is_said_to_be_saved(
    home: Home, signed_in: SignedIn
) -> None:
    room = home.room("Choir")
    page = signed_in(home.tablet)
    limited = {"errcode": "M_LIMIT_EXCEEDED", "error": "Slow down", "retry_after_ms": 1000}
    page.route("**/messages?*", lambda route: route.fulfill(status=429, json=limited), times=1)
    hear(page)
    go(page, "why", room)
    has_said(page, "The server asks to wait for a second")
    expect(page.get_by_role("heading", level=1)).to_have_text("Choir")
    expect(page.locator(".announcer.empty")).to_be_attached()
    said = page.evaluate("said")
    assert any("asks to wait" in text for text in said)
    assert not any("Saving" in text for text in said)


def test_a_session_that_is_over_leads_to_signing_in(home: Home, signed_in: SignedIn) -> None:
    page = signed_in(home.tablet)
    # Or else it may learn from its first requests that its session is over.
    is_all_read(page)
    home.phone.call("POST", path("logout", "all"), {})
    card(page, PHONE).get_by_role("switch").click()
    expect(page.get_by_label("Password", exact=True)).to_be_visible()


def test_what_other_servers_may_send_breaks_nothing(home: Home, signed_in: SignedIn) -> None:
    room = home.room("Choir")
    event = home.bob.send(room, "Hello")
    strange = {
        "type": "m.room.member",
        "state_key": home.bob.user_id,
        "content": {"displayname": 5},
    }
    message = {
        "type": "m.room.message",
        "event_id": event,
        "sender": home.bob.user_id,
        "origin_server_ts": 2**53 - 1,
        "content": {"msgtype": "m.text", "body": "Hello"},
    }
    page = signed_in(home.phone)
    page.route(
        "**/messages?**", lambda route: route.fulfill(json={"chunk": [message], "state": [strange]})
    )
    go(page, "why", room)
    expect(page.get_by_role("link", name="Hello")).to_contain_text(home.bob.user_id)

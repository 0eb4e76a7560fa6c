# SPDX-License-Identifier: AGPL-3.0-or-later
"""A device that goes by what is set in its own app (specification 9): given, shown and left."""

from collections.abc import Callable
from typing import Any

import attr
import pytest
from playwright.sync_api import Page, Route, expect

from demo.client import JsonDict, Session
from tests.page.conftest import SignedIn, assert_accessible
from tests.page.screens import (
    PHONE,
    TABLET,
    WEB,
    Home,
    answer,
    card,
    choices,
    choose,
    go,
    is_all_read,
    is_saved,
)

ITS_APP = "What is set in its own app"
OWN_FIRST = "Its own settings, then everywhere"
CHOSEN = "Only direct messages and rooms I choose"
AS_ITS_APP = "As its app is set"
LEAVING = "Remove the settings of its app?"
OWN = "/_matrix/client/unstable/pushrules/device/{}/org.matrix.msc3837.own"


@attr.s(auto_attribs=True, frozen=True)
class Chosen:
    """A page on the tablet, and the room for which the phone was told there to ring."""

    page: Page
    room: str


@pytest.fixture
def chosen(home: Home, signed_in: SignedIn, watch: Any) -> Chosen:
    """The phone rings for all messages of a room; what the page asks for may fail."""
    watch.allow("Failed to load resource")
    room = home.room("Choir")
    page = signed_in(home.tablet)
    go(page, "rooms", room)
    choose(page, PHONE, "All messages")
    return Chosen(page, room)


def when_switched(page: Page, answer: Callable[[Route], object]) -> None:
    """Have the page answered otherwise where it gives a device to its app."""

    def handle(route: Route) -> None:
        if route.request.method == "PUT":
            answer(route)
        else:
            route.continue_()

    page.route("**/org.matrix.msc3837.own", handle)


def goes_by_its_app(home: Home, session: Session) -> bool:
    answer: JsonDict = home.phone.call("GET", OWN.format(session.device_id))
    return bool(answer["enabled"])


def give(page: Page, device_id: str) -> None:
    go(page, "devices", device_id)
    choose(page, "Follows", ITS_APP)


def leave(page: Page, follow: str) -> None:
    """Choose another way for a device that goes by its app, and say that it is meant."""
    choices(page, "Follows").get_by_role("radio", name=follow).check()
    answer(page, LEAVING, "Remove them")
    expect(choices(page, "Follows").get_by_role("radio", name=follow)).to_be_checked()


def mute(session: Session, room: str) -> None:
    """What any app does that knows nothing of devices."""
    condition = {"kind": "event_match", "key": "room_id", "pattern": room}
    session.put_rule("global", "override", room, {"conditions": [condition], "actions": []})


def test_what_an_app_sets_on_the_phone_holds_for_the_phone(home: Home, signed_in: SignedIn) -> None:
    choir, other = home.room("Choir"), home.room("Other")
    home.phone.put_rule("global", "content", "pizza", {"pattern": "pizza", "actions": ["notify"]})
    page = signed_in(home.tablet)
    go(page, "devices", "PHONE")
    option = choices(page, "Follows").locator("label").filter(has_text=ITS_APP)
    expect(option).to_contain_text("Recommended for phones")
    expect(option).to_contain_text("holds for this device alone")
    choose(page, "Follows", ITS_APP)
    assert goes_by_its_app(home, home.phone)

    mute(home.phone, choir)
    muted, heard = home.bob.send(choir, "Hello"), home.bob.send(other, "Hello")
    home.fence()
    assert muted not in home.phone_pusher.event_ids()
    assert heard in home.phone_pusher.event_ids()
    assert {muted, heard} <= set(home.tablet_pusher.event_ids())

    page.reload()
    expect(page.get_by_role("listitem").filter(has_text="Choir")).to_contain_text("Muted")
    expect(page.get_by_role("region", name="Keywords")).to_contain_text("pizza")
    go(page, "devices")
    expect(card(page, PHONE)).to_contain_text(f"Follows: {ITS_APP}.")
    expect(card(page, TABLET)).to_contain_text("Follows: The same as everywhere.")
    go(page, "rooms", choir)
    expect(choices(page, PHONE).get_by_label("Muted")).to_be_checked()
    expect(choices(page, "Everywhere").get_by_label("Default")).to_be_checked()
    go(page, "rooms", other)
    expect(choices(page, PHONE).get_by_label(AS_ITS_APP)).to_be_checked()
    expect(choices(page, PHONE)).to_contain_text("What is set in its own app decides.")
    go(page, "why", choir, muted)
    phone = page.locator("section").filter(has_text=PHONE)
    expect(phone).to_contain_text("It did not ring")
    expect(phone).to_contain_text("What is set in its own app decided")


def test_what_is_set_here_is_what_the_app_reads(home: Home, signed_in: SignedIn) -> None:
    room = home.room("Choir")
    page = signed_in(home.tablet)
    give(page, "PHONE")
    go(page, "rooms", room)
    silent = {"All messages": [], "Mentions and keywords": ["text"], "Muted": ["text", "mention"]}
    mention = {
        "body": "Alice",
        "msgtype": "m.text",
        "m.mentions": {"user_ids": [home.phone.user_id]},
    }
    for choice, expected in silent.items():
        choose(page, PHONE, choice)
        sent = {"text": home.bob.send(room, "Hello"), "mention": home.bob.send(room, mention)}
        home.fence()
        pushed = home.phone_pusher.event_ids()
        assert [what for what, event in sent.items() if event not in pushed] == expected, choice
    # As a rule that every app knows, and in what the phone reads as `global`.
    assert room in [rule["rule_id"] for rule in home.phone.get_rules("global")["override"]]
    assert room not in [rule["rule_id"] for rule in home.tablet.get_rules("global")["override"]]
    choose(page, PHONE, AS_ITS_APP)
    assert room not in [rule["rule_id"] for rule in home.phone.get_rules("global")["override"]]
    go(page, "devices", "PHONE")
    page.get_by_label("Word", exact=True).fill("pizza")
    page.get_by_role("button", name="Add").click()
    page.get_by_role("listitem").filter(has_text="pizza").wait_for()
    assert "pizza" in [rule["rule_id"] for rule in home.phone.get_rules("global")["content"]]


def test_what_was_set_for_the_rooms_of_a_device_stays_when_it_goes_by_its_app_and_after(
    home: Home, signed_in: SignedIn
) -> None:
    chosen = {
        choice: home.room(choice) for choice in ("All messages", "Mentions and keywords", "Muted")
    }
    for room in chosen.values():
        home.phone.put_rule("global", "room", room, {"actions": []})
    page = signed_in(home.tablet)

    def is_as_chosen() -> None:
        for choice, room in chosen.items():
            go(page, "rooms", room)
            expect(choices(page, PHONE).get_by_label(choice)).to_be_checked()
        sent = {choice: home.bob.send(room, "Hello") for choice, room in chosen.items()}
        home.fence()
        pushed = home.phone_pusher.event_ids()
        assert [choice for choice, event in sent.items() if event in pushed] == ["All messages"]

    for choice, room in chosen.items():
        go(page, "rooms", room)
        choose(page, PHONE, choice)
    go(page, "devices", "PHONE")
    choose(page, "Follows", CHOSEN)
    choose(page, "Follows", ITS_APP)
    is_as_chosen()
    assert not home.rules_of(home.phone)["underride"]
    go(page, "devices", "PHONE")
    leave(page, OWN_FIRST)
    is_as_chosen()
    assert not home.rules_of(home.phone)["room"]
    assert home.pusher(home.phone)["profile_tags"] == ["PHONE", "global"]


def test_leaving_asks_and_takes_back_what_the_app_has_set(home: Home, signed_in: SignedIn) -> None:
    room = home.room("Choir")
    page = signed_in(home.tablet)
    give(page, "PHONE")
    mute(home.phone, room)
    page.reload()
    group = choices(page, "Follows")
    group.get_by_role("radio", name="The same as everywhere").check()
    dialog = page.get_by_role("dialog", name=LEAVING)
    expect(dialog).to_contain_text("the app shows what is set everywhere again")
    assert_accessible(page)
    answer(page, LEAVING, "Cancel")
    assert_accessible(page)
    expect(group.get_by_role("radio", name=ITS_APP)).to_be_checked()
    assert goes_by_its_app(home, home.phone)
    leave(page, "The same as everywhere")
    assert not goes_by_its_app(home, home.phone)
    assert room not in [rule["rule_id"] for rule in home.phone.get_rules("global")["override"]]
    assert home.pusher(home.phone)["profile_tags"] == ["global"]
    event = home.bob.send(room, "Hello")
    home.phone_pusher.wait_for(event)


def test_a_reset_says_that_what_the_app_has_set_goes(home: Home, signed_in: SignedIn) -> None:
    room = home.room("Choir")
    page = signed_in(home.tablet)
    give(page, "PHONE")
    mute(home.phone, room)
    go(page, "rooms", room)
    go(page, "devices", "PHONE")
    page.get_by_role("button", name="Reset this device").click()
    dialog = page.get_by_role("dialog", name="Reset this device?")
    expect(dialog).to_contain_text("What its app has set for it alone")
    answer(page, "Reset this device?", "Reset this device")
    expect(choices(page, "Follows").get_by_label("The same as everywhere")).to_be_checked()
    assert home.rules_of(home.phone) == {}
    assert not goes_by_its_app(home, home.phone)


def test_a_web_client_can_have_settings_of_its_own(home: Home, signed_in: SignedIn) -> None:
    room = home.room("Choir")
    page = signed_in(home.phone)
    card(page, WEB).get_by_role("link", name=WEB).click()
    expect(choices(page, "Follows").get_by_role("radio")).to_have_count(2)
    choose(page, "Follows", ITS_APP)
    assert goes_by_its_app(home, home.web)
    go(page, "rooms", room)
    choose(page, WEB, "Muted")
    overrides = [home.web, home.phone]
    held = [session.get_rules("global")["override"] for session in overrides]
    assert [any(rule["rule_id"] == room for rule in rules) for rules in held] == [True, False]
    page.reload()
    go(page, "devices")
    expect(card(page, WEB)).to_contain_text("It follows what is set in its own app.")


def test_switching_a_device_off_and_on_leaves_it_to_its_app(
    home: Home, signed_in: SignedIn
) -> None:
    page = signed_in(home.tablet)
    give(page, "PHONE")
    control = page.get_by_role("switch")
    for on in (False, True):
        control.set_checked(on)
        expect(control).to_have_attribute("aria-busy", "false")
    expect(choices(page, "Follows").get_by_role("radio", name=ITS_APP)).to_be_checked()
    leave(page, "The same as everywhere")
    assert home.pusher(home.phone)["profile_tags"] == ["global"]


def test_a_server_that_does_not_know_of_it_is_not_asked_for_it(
    home: Home, signed_in: SignedIn, watch: Any
) -> None:
    watch.allow("Failed to load resource")
    page = signed_in(home.tablet)
    unknown = {"errcode": "M_UNRECOGNIZED", "error": "Unrecognized request"}
    page.route("**/org.matrix.msc3837.own", lambda r: r.fulfill(status=404, json=unknown))
    with page.expect_response("**/org.matrix.msc3837.own") as answered:
        page.reload()
    answered.value.finished()
    go(page, "devices", "PHONE")
    expect(choices(page, "Follows").get_by_role("radio")).to_have_count(4)
    go(page, "devices")
    expect(card(page, WEB).get_by_role("link")).to_have_count(0)


def test_giving_a_device_to_its_app_leaves_nothing_where_it_fails(
    home: Home, chosen: Chosen
) -> None:
    before = home.rules_of(home.phone)
    failed = {"errcode": "M_UNKNOWN", "error": "Internal server error"}
    when_switched(chosen.page, lambda route: route.fulfill(status=500, json=failed))
    go(chosen.page, "devices", "PHONE")
    group = choices(chosen.page, "Follows")
    group.get_by_role("radio", name=ITS_APP).click()
    expect(group.get_by_role("alert")).to_contain_text("Something went wrong on the server")
    assert home.rules_of(home.phone) == before


def test_a_device_is_given_to_its_app_where_only_the_answer_is_lost(chosen: Chosen) -> None:
    def lose(route: Route) -> None:
        route.fetch()
        route.abort()

    when_switched(chosen.page, lose)
    give(chosen.page, "PHONE")
    go(chosen.page, "rooms", chosen.room)
    expect(choices(chosen.page, PHONE).get_by_label("All messages")).to_be_checked()


def test_what_its_app_has_set_stays_where_the_page_has_not_heard_of_it(
    home: Home, signed_in: SignedIn
) -> None:
    room = home.room("Choir")
    page = signed_in(home.tablet)
    is_all_read(page)
    go(page, "devices", "PHONE")
    home.phone.call("PUT", OWN.format("PHONE"), {"enabled": True})
    home.phone.put_rule("global", "content", "pizza", {"pattern": "pizza", "actions": ["notify"]})
    page.get_by_role("button", name="Reset this device").click()
    answer(page, "Reset this device?", "Reset this device")
    expect(page.get_by_role("alert")).to_contain_text("Nothing was changed: this device")
    assert "pizza" in [rule["rule_id"] for rule in home.phone.get_rules("global")["content"]]
    expect(choices(page, "Follows").get_by_role("radio", name=ITS_APP)).to_be_checked()

    home.phone.call("PUT", OWN.format("PHONE"), {"enabled": False})
    page.reload()
    go(page, "rooms", room)
    expect(choices(page, PHONE)).to_be_visible()
    home.phone.call("PUT", OWN.format("PHONE"), {"enabled": True})
    choose(page, PHONE, "All messages")
    assert room in [rule["rule_id"] for rule in home.phone.get_rules("global")["room"]]


def test_what_is_not_heard_of_a_device_changes_nothing_of_what_is_said(
    home: Home, signed_in: SignedIn, watch: Any
) -> None:
    watch.allow("Failed to load resource")
    home.server.login(home.phone, "OLDWEB")
    for device_id in ("WEB", "OLDWEB"):
        home.phone.call("PUT", OWN.format(device_id), {"enabled": True})
    page = signed_in(home.tablet)
    says = page.get_by_text("It follows what is set in its own app.")
    expect(says).to_have_count(2)
    for device_id in ("WEB", "OLDWEB"):
        where = f"**{OWN.format(device_id)}"
        page.route(where, lambda route: route.abort())
        page.get_by_role("button", name="Look for new devices").click()
        is_saved(page)
        expect(says).to_have_count(2)
        page.unroute(where)


def test_a_room_that_was_not_done_when_a_device_was_given_is_told_of(
    home: Home, signed_in: SignedIn, watch: Any
) -> None:
    watch.allow("Failed to load resource")
    room = home.room("Choir")
    page = signed_in(home.tablet)
    go(page, "rooms", room)
    choose(page, PHONE, "Mentions and keywords")
    page.route("**/pushrules/device/PHONE/room/**", lambda route: route.abort())
    go(page, "devices", "PHONE")
    group = choices(page, "Follows")
    group.get_by_role("radio", name=ITS_APP).click()
    expect(group.get_by_role("alert")).to_contain_text("cannot be reached")
    page.unroute("**/pushrules/device/PHONE/room/**")
    page.reload()
    go(page, "rooms", room)
    expect(choices(page, PHONE)).to_contain_text("A change was not finished. Choose again.")
    choose(page, PHONE, "Mentions and keywords")
    rules = home.rules_of(home.phone)
    assert [rule["rule_id"] for rule in rules["room"]] == [room]
    assert not rules["underride"]

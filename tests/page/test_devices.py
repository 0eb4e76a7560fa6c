# SPDX-License-Identifier: AGPL-3.0-or-later
""" "Devices", and what one device follows: shown and written."""

import re
from typing import Any

import pytest
from playwright.sync_api import Page, Request, Route, expect

from demo.client import JsonDict, path
from demo.gateway import Behaviour
from tests.harness.waiting import wait_until
from tests.page.conftest import PageServer, SignedIn, assert_eventually
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
    has_said,
    hear,
    is_all_read,
    is_saved,
    pause,
    switch,
    undo,
)
from tests.server.cascade_helpers import device

SILENCED = "org.matrix.msc3890.local_notification_settings."
OWN_FIRST = "Its own settings, then everywhere"

# A status that is no success is an error on the console, whoever expects it.
pytestmark = pytest.mark.usefixtures("refusals_may_be_logged")


def writes(page: Page) -> list[Request]:
    """What the page writes from now on."""
    made: list[Request] = []

    def look(request: Request) -> None:
        if request.method != "GET" and "/org.matrix.simplified_msc3575/" not in request.url:
            made.append(request)

    page.on("request", look)
    return made


def paths(requests: list[Request]) -> list[str]:
    return [re.sub(r"^.*?/client/(v3|unstable)/", "", request.url) for request in requests]


# ---- Devices ----


def test_each_device_is_shown_and_the_page_itself_is_not(home: Home, signed_in: SignedIn) -> None:
    page = signed_in(home.phone)
    headings = page.get_by_role("heading", level=2)
    expect(headings).to_have_count(3)
    assert set(headings.all_inner_texts()) == {PHONE, TABLET, WEB}
    expect(card(page, PHONE)).to_contain_text("last seen")
    expect(card(page, PHONE)).to_contain_text("Follows: The same as everywhere.")
    expect(card(page, WEB)).to_contain_text("makes its notifications itself")


def test_a_switch_sends_the_whole_pusher_with_both_names(home: Home, signed_in: SignedIn) -> None:
    before = home.pusher(home.phone)
    page = signed_in(home.tablet)
    made = writes(page)
    switch(page, PHONE, False)
    [sent] = [request.post_data_json for request in made]
    assert sent == {
        **before,
        "append": True,
        "enabled": False,
        "org.matrix.msc3881.enabled": False,
    }
    assert home.pusher(home.phone)["enabled"] is False
    assert home.pusher(home.tablet)["enabled"] is True


def test_a_web_client_is_silenced_in_account_data(home: Home, signed_in: SignedIn) -> None:
    page = signed_in(home.phone)
    where = path("user", home.phone.user_id, "account_data", f"{SILENCED}WEB")
    switch(page, WEB, False)
    assert home.phone.call("GET", where) == {"is_silenced": True}
    page.reload()
    expect(card(page, WEB).get_by_role("switch")).not_to_be_checked()
    switch(page, WEB, True)
    assert home.phone.call("GET", where) == {"is_silenced": False}


def test_all_but_one_are_silenced_and_it_is_undone(home: Home, signed_in: SignedIn) -> None:
    page = signed_in(home.phone)
    switch(page, WEB, False)
    card(page, TABLET).get_by_role("button", name="Silence all but this device").click()
    expect(page.get_by_text(f"Only “{TABLET}” notifies you now.")).to_be_visible()
    expect(page.get_by_role("switch", checked=True)).to_have_count(1)
    assert home.pusher(home.phone)["enabled"] is False
    # It is not said any more than is so.
    switch(page, WEB, True)
    expect(page.get_by_text(f"You silenced all but “{TABLET}”.")).to_be_visible()
    switch(page, WEB, False)
    expect(page.get_by_text(f"Only “{TABLET}” notifies you now.")).to_be_visible()
    undo(page)
    expect(page.get_by_role("switch", checked=True)).to_have_count(2)
    expect(card(page, WEB).get_by_role("switch")).not_to_be_checked()
    assert home.pusher(home.phone)["enabled"] is True


def test_an_e_mail_pusher_that_stays_on_is_told_of(home: Home, signed_in: SignedIn) -> None:
    page = signed_in(home.tablet)
    mail = {"kind": "email", "app_id": "m.email", "pushkey": "alice@example.org", "enabled": True}

    def read(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, json={"pushers": [*answer.json()["pushers"], mail]})

    def write(route: Route) -> None:
        sent: JsonDict = route.request.post_data_json or {}
        if sent["kind"] != "email":
            route.continue_()
            return
        mail["enabled"] = sent["enabled"]
        route.fulfill(json={})

    page.route("**/pushers", read)
    page.route("**/pushers/set", write)
    card(page, TABLET).get_by_role("button", name="Silence all but this device").click()
    said = page.get_by_role("group").filter(has_text="Undo")
    expect(said).to_contain_text(f"Of your devices, only “{TABLET}” notifies you now.")
    expect(said).to_contain_text("You still get e-mail.")
    assert mail["enabled"] is True
    switch(page, "E-mail", False)
    expect(said).to_contain_text(f"Only “{TABLET}” notifies you now.")


def test_what_was_silenced_can_be_undone_when_the_read_after_it_fails(
    home: Home, signed_in: SignedIn
) -> None:
    page = signed_in(home.phone)
    button = card(page, TABLET).get_by_role("button", name="Silence all but this device")
    # The first is what all that holds is read with before; the second comes after the change.
    asked: list[str] = []

    def answer(route: Route) -> None:
        asked.append(route.request.url)
        if len(asked) == 1:
            route.continue_()
        else:
            route.abort()

    page.route("**/pushrules/", answer)
    button.click()
    expect(card(page, TABLET).get_by_role("alert")).to_contain_text("cannot be reached")
    page.unroute("**/pushrules/")
    assert home.pusher(home.phone)["enabled"] is False
    # Not lost by looking elsewhere, nor by doing it again.
    go(page, "rooms")
    go(page, "devices")
    card(page, TABLET).get_by_role("button", name="Silence all but this device").click()
    expect(page.get_by_role("switch", checked=True)).to_have_count(1)
    undo(page)
    expect(page.get_by_role("switch", checked=True)).to_have_count(3)
    assert home.pusher(home.phone)["enabled"] is True


def test_a_device_that_has_just_signed_in_appears(
    home: Home, page_server: PageServer, signed_in: SignedIn
) -> None:
    page = signed_in(home.phone)
    page.clock.install()
    page.reload()
    is_all_read(page)
    page_server.login(home.phone, "FIRST")
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/pushrules/device/FIRST/**", hold)
    page.get_by_role("button", name="Look for new devices").click()
    expect(card(page, "FIRST")).to_be_visible()
    assert_eventually(page, lambda: bool(held))
    page_server.login(home.phone, "SECOND")
    page.clock.fast_forward(10_000)
    # What comes late of the reading before is no new look at the devices.
    held[0].continue_()
    is_saved(page)
    page.evaluate("dispatchEvent(new Event('focus'))")
    expect(card(page, "SECOND")).to_be_visible()
    page_server.login(home.phone, "THIRD")
    page.clock.fast_forward(60_000)
    expect(card(page, "THIRD")).to_be_visible()


def test_looking_for_devices_asks_seldom(home: Home, signed_in: SignedIn, watch: Any) -> None:
    page = signed_in(home.phone)
    page.clock.install()
    page.reload()
    is_all_read(page)
    pause(page)
    # From now on, no time passes but what the test lets pass.
    page.get_by_role("button", name="Look for new devices").click()
    is_saved(page)
    watch.requests.clear()
    for _ in range(20):
        page.evaluate("dispatchEvent(new Event('focus'))")
    for _ in range(5):
        with page.expect_response("**/_matrix/client/v3/devices"):
            page.clock.fast_forward(60_000)
    asked = [url for _, url in watch.requests if not url.endswith("/refresh")]
    assert len(asked) == 5, asked


def test_undoing_leaves_a_pusher_off_that_was_off(home: Home, signed_in: SignedIn) -> None:
    old = device(home.phone, home.gateway, enabled=False, app_display_name="Old app")
    page = signed_in(home.tablet)
    card(page, TABLET).get_by_role("button", name="Silence all but this device").click()
    expect(page.get_by_role("switch", checked=True)).to_have_count(1)
    undo(page)
    expect(page.get_by_role("switch", checked=True)).to_have_count(3)
    pushers = home.phone.get_pushers()
    assert {one["pushkey"] for one in pushers if not one["enabled"]} == {old.pushkey}


def test_what_another_tab_sets_on_a_web_client_is_shown(home: Home, signed_in: SignedIn) -> None:
    page = signed_in(home.phone)
    where = path("user", home.phone.user_id, "account_data", f"{SILENCED}WEB")
    home.phone.call("PUT", where, {"is_silenced": True, "other": 1})
    switch(page, TABLET, False)
    expect(card(page, WEB).get_by_role("switch")).not_to_be_checked()
    switch(page, WEB, True)
    assert home.phone.call("GET", where) == {"is_silenced": False, "other": 1}


def test_a_device_whose_gateway_fails_says_so(home: Home, signed_in: SignedIn) -> None:
    room = home.room("Choir")
    home.gateway.behave(home.phone_pusher.pushkey, Behaviour.ERROR)
    home.bob.send(room, "Hello")
    where = "/_matrix/client/unstable/org.matrix.msc3837/explain"
    event = home.bob.send(room, "Hello again")

    def fails() -> bool:
        answer = home.phone.call("GET", f"{where}/{room}/{event}")
        return any("failing_since" in pusher for pusher in answer["pushers"])

    wait_until(fails)
    page = signed_in(home.tablet)
    expect(card(page, PHONE)).to_contain_text("have not been getting through since")
    expect(card(page, TABLET)).not_to_contain_text("getting through")


def test_an_app_that_has_undone_what_was_set_is_told_of(home: Home, signed_in: SignedIn) -> None:
    page = signed_in(home.tablet)
    go(page, "devices", "PHONE")
    choose(page, "Follows", OWN_FIRST)
    home.phone_pusher.set(
        app_display_name="Demo", device_display_name=PHONE, profile_tags=["global"]
    )
    page.reload()
    page.get_by_role("button", name="Set it again").click()
    expect(page.get_by_role("button", name="Set it again")).to_have_count(0)
    assert home.pusher(home.phone)["profile_tags"] == ["PHONE", "global"]


def test_an_account_that_is_off_is_told_of(home: Home, signed_in: SignedIn) -> None:
    room = home.room("Choir")
    home.phone.set_rule_enabled("global", "override", ".m.rule.master", True)
    page = signed_in(home.tablet)
    expect(page.get_by_text("All notifications of your account are off.")).to_be_visible()
    go(page, "rooms", room)
    expect(choices(page, PHONE)).to_contain_text("all notifications of your account are off")
    # A device that goes by its own app is not concerned.
    where = "/_matrix/client/unstable/pushrules/device/PHONE/org.matrix.msc3837.own"
    home.phone.call("PUT", where, {"enabled": True})
    page.reload()
    go(page, "devices")
    expect(page.get_by_text("Devices that follow their own app go by")).to_be_visible()


# ---- A device ----


def test_rules_are_written_before_the_tag_and_the_tag_goes_before_the_rules(
    home: Home, signed_in: SignedIn
) -> None:
    page = signed_in(home.tablet)
    go(page, "devices", "PHONE")
    made = writes(page)
    choose(page, "Follows", "Only direct messages and rooms I choose")
    kinds = [where.split("/")[0] for where in paths(made)]
    assert kinds == [*["pushrules"] * 4, "pushers", "user"]
    assert home.pusher(home.phone)["profile_tags"] == ["PHONE"]
    assert [rule["rule_id"] for rule in home.rules_of(home.phone)["underride"]] == [
        "direct:invite",
        "direct:call",
        "direct:message",
        "direct:encrypted",
    ]
    made.clear()
    choose(page, "Follows", "The same as everywhere")
    kinds = [where.split("/")[0] for where in paths(made)]
    assert kinds == ["pushers", "user", *["pushrules"] * 4]
    assert home.rules_of(home.phone) == {}


def test_keywords_are_added_changed_and_removed(home: Home, signed_in: SignedIn) -> None:
    room = home.room("Choir")
    home.phone.put_rule("global", "room", room, {"actions": []})
    page = signed_in(home.tablet)
    go(page, "devices", "PHONE")
    section = page.get_by_role("region", name="Keywords")
    section.get_by_role("button", name="Add").click()
    expect(section.get_by_text("Write a word first.")).to_be_visible()
    for word in ("pizza", "a/b"):
        section.get_by_label("Word", exact=True).fill(word)
        section.get_by_role("button", name="Add").click()
        expect(section.get_by_role("listitem").filter(has_text=word)).to_have_count(1)
    assert {rule["pattern"] for rule in home.rules_of(home.phone)["content"]} == {"pizza", "a/b"}

    rings = home.bob.send(room, "There is pizza")
    assert home.phone_pusher.wait_for(rings).tweaks["sound"] == "default"
    row = section.get_by_role("listitem").filter(has_text="pizza")
    row.get_by_role("checkbox", name="With sound").uncheck()
    expect(row.get_by_role("checkbox")).to_have_attribute("aria-busy", "false")
    quieter = home.bob.send(room, "More pizza")
    assert "sound" not in home.phone_pusher.wait_for(quieter).tweaks

    row.get_by_role("button", name="Remove").click()
    expect(row).to_have_count(0)
    assert {rule["pattern"] for rule in home.rules_of(home.phone)["content"]} == {"a/b"}


def test_a_keyword_leaves_another_apps_rule_of_that_id_alone(
    home: Home, signed_in: SignedIn
) -> None:
    home.phone.put_rule("PHONE", "content", "pizza", {"pattern": "pizz*", "actions": []})
    page = signed_in(home.tablet)
    go(page, "devices", "PHONE")
    section = page.get_by_role("region", name="Keywords")
    section.get_by_label("Word", exact=True).fill("pizza")
    section.get_by_role("button", name="Add").click()
    expect(section.get_by_role("listitem")).to_have_count(1)
    patterns = {rule["rule_id"]: rule["pattern"] for rule in home.rules_of(home.phone)["content"]}
    assert patterns == {"pizza": "pizz*", "pizza_": "pizza"}


def test_what_is_set_for_a_room_goes_before_direct_messages(
    home: Home, signed_in: SignedIn
) -> None:
    room = home.direct()
    page = signed_in(home.tablet)
    go(page, "rooms", room)
    choose(page, PHONE, "Mentions and keywords")
    go(page, "devices", "PHONE")
    choose(page, "Follows", "Only direct messages and rooms I choose")
    names = [rule["rule_id"].split(":")[0] for rule in home.rules_of(home.phone)["underride"]]
    assert names.index("quiet") < names.index("direct")
    home.bob.send(room, "Not for the phone")
    mention = home.bob.send(
        room,
        {"body": "Alice", "msgtype": "m.text", "m.mentions": {"user_ids": [home.phone.user_id]}},
    )
    home.phone_pusher.wait_for(mention)
    assert [push.event_id for push in home.phone_pusher.pushes()] == [mention]


def test_rooms_set_otherwise_are_listed_and_reset(home: Home, signed_in: SignedIn) -> None:
    room = home.room("Choir")
    page = signed_in(home.tablet)
    go(page, "rooms", room)
    choose(page, PHONE, "All messages")
    go(page, "devices")
    expect(card(page, PHONE)).to_contain_text(
        "Follows: Its own settings, then everywhere. One room is set otherwise."
    )
    go(page, "devices", "PHONE")
    row = page.get_by_role("listitem").filter(has_text="Choir")
    expect(row).to_contain_text("All messages")
    row.get_by_role("button", name="Reset").click()
    expect(row).to_have_count(0)
    assert home.rules_of(home.phone) == {}


def test_a_device_is_reset(home: Home, signed_in: SignedIn) -> None:
    room = home.room("Choir")
    foreign = {"conditions": [], "actions": ["notify", {"set_tweak": "blink"}]}
    home.phone.put_rule("PHONE", "override", "blinking", foreign)
    page = signed_in(home.tablet)
    go(page, "rooms", room)
    choose(page, PHONE, "Muted")
    go(page, "devices", "PHONE")
    page.get_by_role("button", name="Reset this device").click()
    answer(page, "Reset this device?", "Cancel")
    assert len(home.rules_of(home.phone)["override"]) == 2
    page.get_by_role("button", name="Reset this device").click()
    answer(page, "Reset this device?", "Reset this device")
    expect(choices(page, "Follows").get_by_role("radio").first).to_be_checked()
    assert len(home.rules_of(home.phone)["override"]) == 1
    assert home.pusher(home.phone)["profile_tags"] == ["global"]
    # Another app's rule is shown, and left alone.
    assert home.rules_of(home.phone)["override"][0]["rule_id"] == "blinking"
    expect(page.get_by_role("region", name="Set by another app")).to_contain_text("blinking")


def test_a_reset_leaves_the_switch_as_it_is_and_says_so(home: Home, signed_in: SignedIn) -> None:
    page = signed_in(home.tablet)
    switch(page, PHONE, False)
    go(page, "devices", "PHONE")
    choose(page, "Follows", OWN_FIRST)
    page.get_by_role("button", name="Reset this device").click()
    dialog = page.get_by_role("dialog", name="Reset this device?")
    expect(dialog).to_contain_text("It stays on or off, as it is.")
    hear(page)
    answer(page, "Reset this device?", "Reset this device")
    has_said(page, "Saved")
    expect(choices(page, "Follows").get_by_role("radio").first).to_be_checked()
    assert home.pusher(home.phone)["enabled"] is False


@pytest.mark.parametrize(
    ("follow", "everywhere", "says"),
    [
        ("Only its own settings", None, "Rings only for the keywords of this device: pizza."),
        (
            "Only direct messages and rooms I choose",
            None,
            "Rings only for the keywords of this device: pizza.",
        ),
        (OWN_FIRST, "Muted", "As everywhere: silent, but for the keywords of this device: pizza."),
        (OWN_FIRST, "Mentions and keywords", "On this device also for: pizza."),
        (OWN_FIRST, "All messages", "As everywhere: rings for every message."),
        ("The same as everywhere", "Muted", "As everywhere: silent."),
    ],
)
def test_a_sentence_says_which_keywords_of_the_device_ring(
    follow: str, everywhere: str | None, says: str, home: Home, signed_in: SignedIn
) -> None:
    room = home.room("Choir")
    rule: JsonDict = {"pattern": "pizza", "actions": ["notify"]}
    home.phone.put_rule("PHONE", "content", "pizza", rule)
    page = signed_in(home.tablet)
    go(page, "devices", "PHONE")
    choose(page, "Follows", follow)
    in_use = 0 if follow != "The same as everywhere" else 1
    keywords = page.get_by_role("region", name="Keywords")
    expect(keywords.get_by_text("Not in use")).to_have_count(in_use)
    go(page, "rooms", room)
    if everywhere:
        choose(page, "Everywhere", everywhere)
    expect(choices(page, PHONE).locator(".note")).to_contain_text(says)
    pizza = home.bob.send(room, "There is pizza")
    if follow != "The same as everywhere":
        home.phone_pusher.wait_for(pizza)
    else:
        home.fence()
        assert pizza not in home.phone_pusher.event_ids()


def test_the_keywords_of_the_account_are_followed_when_the_page_is_opened(
    home: Home, signed_in: SignedIn
) -> None:
    room = home.room("Choir")

    def keyword(word: str) -> None:
        home.phone.put_rule("global", "content", word, {"pattern": word, "actions": ["notify"]})

    keyword("pizza")
    keyword("a/b".replace("/", ""))
    page = signed_in(home.tablet)
    go(page, "rooms", room)
    choose(page, PHONE, "Mentions and keywords")
    expect(choices(page, PHONE)).to_contain_text("or for: ab or pizza.")
    keyword("pasta")
    home.phone.delete_rule("global", "content", "pizza")
    page.reload()
    expect(choices(page, PHONE)).to_contain_text("or for: pasta or ab.")
    names = [
        rule["rule_id"].rpartition(f":{room}")[0] for rule in home.rules_of(home.phone)["underride"]
    ]
    assert names == ["invite", "mention", "keyword:pasta", "everyone", "keyword:ab", "quiet"]
    rings = home.bob.send(room, "There is pasta")
    home.phone_pusher.wait_for(rings)


def test_a_list_of_another_app_is_shown_put_in_order_and_kept(
    home: Home, signed_in: SignedIn
) -> None:
    room = home.room("Choir")
    home.phone_pusher.set(
        app_display_name="Demo", device_display_name=PHONE, profile_tags=["app", "global"]
    )
    home.phone.put_rule("app", "room", room, {"actions": []})
    page = signed_in(home.tablet)
    expect(card(page, PHONE)).to_contain_text("Follows: a list set by another app.")
    go(page, "devices", "PHONE")
    first = page.get_by_role("listitem").first
    page.get_by_role("button", name="Move “Everywhere” up").click()
    expect(first).to_contain_text("Everywhere")
    assert home.pusher(home.phone)["profile_tags"] == ["global", "app"]
    page.get_by_role("button", name="Move “Everywhere” down").click()
    expect(first).not_to_contain_text("Everywhere")
    assert home.pusher(home.phone)["profile_tags"] == ["app", "global"]

    go(page, "rooms", room)
    expect(choices(page, PHONE)).to_contain_text("Set by another app")
    choose(page, PHONE, "Muted")
    assert home.pusher(home.phone)["profile_tags"] == ["PHONE", "app", "global"]
    choose(page, PHONE, "As everywhere")
    assert home.phone.get_rules("app")["room"][0]["rule_id"] == room

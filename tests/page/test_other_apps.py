# SPDX-License-Identifier: AGPL-3.0-or-later
"""What other apps have written and the page does not understand: shown, and never touched."""

import pytest
from playwright.sync_api import expect

from demo.client import JsonDict
from tests.page.conftest import SignedIn
from tests.page.screens import PHONE, Home, choices, choose, go, is_saved

FROM_BOB: JsonDict = {"kind": "event_match", "key": "sender", "pattern": "@bob:elsewhere"}
CHOICES = ("All messages", "Mentions and keywords", "Muted")
CHOSEN = "Only direct messages and rooms I choose"

# A status that is no success is an error on the console, whoever expects it.
pytestmark = pytest.mark.usefixtures("refusals_may_be_logged")


def in_room(room: str) -> JsonDict:
    return {"kind": "event_match", "key": "room_id", "pattern": room}


def written(home: Home, scope: str, kind: str) -> dict[str, JsonDict]:
    """The user's rules of a kind in a scope, by their ids."""
    rules: JsonDict = home.phone.get_rules()
    held = rules["global"] if scope == "global" else rules.get("device", {}).get(scope, {})
    return {rule["rule_id"]: rule for rule in held.get(kind, []) if not rule["default"]}


@pytest.mark.parametrize(("scope", "heading"), [("PHONE", PHONE), ("global", "Everywhere")])
def test_muting_leaves_a_rule_that_has_the_rooms_id_alone(
    scope: str, heading: str, home: Home, signed_in: SignedIn
) -> None:
    room = home.room("Choir")
    theirs = {"conditions": [in_room(room), FROM_BOB], "actions": []}
    home.phone.put_rule(scope, "override", room, theirs)
    page = signed_in(home.tablet)
    go(page, "rooms", room)
    choose(page, heading, "Muted")
    rules = written(home, scope, "override")
    assert rules[room]["conditions"] == theirs["conditions"]
    assert set(rules) == {room, f"mute:{room}"}
    silent = home.bob.send(room, "Hello")
    home.fence()
    assert silent not in home.phone_pusher.event_ids()
    choose(page, heading, "Default" if scope == "global" else "As everywhere")
    assert set(written(home, scope, "override")) == {room}


def test_rules_that_have_the_ids_of_the_pages_stay(home: Home, signed_in: SignedIn) -> None:
    room = home.room("Choir")
    theirs: JsonDict = {"conditions": [in_room(room), FROM_BOB], "actions": ["notify"]}
    blink: JsonDict = {"set_tweak": "blink"}
    others: dict[str, JsonDict] = {
        f"message:{room}": theirs,
        f"quiet:{room}": {**theirs, "actions": []},
        f"keyword:pizza:{room}": theirs,
        f"valueOf:{room}": theirs,
        "direct:message": {"conditions": [FROM_BOB], "actions": ["notify"]},
        "direct:call": {"conditions": [], "actions": ["notify", blink]},
    }
    for rule_id, rule in others.items():
        home.phone.put_rule("PHONE", "underride", rule_id, rule)
    home.phone.put_rule("global", "content", "pizza", {"pattern": "pizza", "actions": ["notify"]})
    page = signed_in(home.tablet)
    go(page, "rooms", room)
    for choice in CHOICES:
        choose(page, PHONE, choice)
    go(page, "devices", "PHONE")
    choose(page, "Follows", CHOSEN)
    go(page, "rooms", room)
    choose(page, PHONE, "All messages")
    event = home.bob.send(room, "Hello")
    home.phone_pusher.wait_for(event)
    choose(page, PHONE, "As everywhere")
    go(page, "devices", "PHONE")
    choose(page, "Follows", "The same as everywhere")
    left = written(home, "PHONE", "underride")
    assert {rule_id: rule["actions"] for rule_id, rule in left.items()} == {
        rule_id: rule["actions"] for rule_id, rule in others.items()
    }
    assert all(left[one]["conditions"] == others[one]["conditions"] for one in others)


def test_the_only_rule_that_a_room_can_have_is_left_to_its_app(
    home: Home, signed_in: SignedIn
) -> None:
    room = home.room("Choir")
    blinking: JsonDict = {"actions": ["notify", {"set_tweak": "blink", "value": True}]}
    home.phone.put_rule("global", "room", room, blinking)
    page = signed_in(home.tablet)
    go(page, "rooms", room)
    group = choices(page, "Everywhere")
    expect(group.get_by_label("All messages")).to_be_checked()
    expect(page.get_by_text("may decide in place of what you choose here")).to_be_visible()
    for choice in ("Mentions and keywords", "Default"):
        # No `check`: it looks whether it is, and by then it may have been refused.
        group.get_by_role("radio", name=choice).click()
        is_saved(page)
        expect(group.get_by_role("alert")).to_contain_text("Another app has a rule for this room")
        expect(group.get_by_label("All messages")).to_be_checked()
    choose(page, "Everywhere", "Muted")
    assert written(home, "global", "room")[room]["actions"] == blinking["actions"]


def test_a_rule_that_names_a_room_oddly_is_shown_and_breaks_nothing(
    home: Home, signed_in: SignedIn
) -> None:
    odd: JsonDict = {"kind": "event_match", "key": "room_id", "pattern": 5}
    home.phone.put_rule("global", "underride", "odd", {"conditions": [odd], "actions": ["notify"]})
    home.phone.put_rule("PHONE", "underride", "odd", {"conditions": [odd], "actions": ["notify"]})
    page = signed_in(home.tablet)
    go(page, "devices", "PHONE")
    expect(page.get_by_role("region", name="Set by another app")).to_contain_text("odd")

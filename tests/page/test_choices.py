# SPDX-License-Identifier: AGPL-3.0-or-later
"""Every combination of "Rooms": chosen in the browser, and seen at the gateway."""

from collections.abc import Callable

import pytest

from demo.client import JsonDict, Session
from tests.harness.recipes import READ
from tests.page.conftest import SignedIn
from tests.page.screens import PHONE, TABLET, Home, choose, go, switch

KEYWORD = "aubergine"

AS_EVERYWHERE, ALL = "As everywhere", "All messages"
MENTIONS, MUTED = "Mentions and keywords", "Muted"
DEFAULT = "Default"
ON_DEVICE = (AS_EVERYWHERE, ALL, MENTIONS, MUTED)
EVERYWHERE = (DEFAULT, ALL, MENTIONS, MUTED)

LOUD = {"text", "mention", "everyone", "keyword"}
ADDRESSED = {"mention", "everyone", "keyword"}
# What the rules of all devices ring for. A `room` rule with `notify` is about whatever no default
# rule silences, so also about a topic: that is Synapse's.
SHARED = {DEFAULT: LOUD, ALL: {*LOUD, "topic"}, MENTIONS: ADDRESSED, MUTED: set()}
OWN = {ALL: LOUD, MENTIONS: ADDRESSED, MUTED: set()}


def send_all(home: Home, room: str) -> dict[str, str]:
    """Everything that can happen in a room, by what it is."""
    alice = home.phone.user_id

    def text(body: str, **content: object) -> str:
        return home.bob.send(room, {"msgtype": "m.text", "body": body, **content})

    sent = {"text": text("Hello")}
    sent["edit"] = text(
        "* Hello again",
        **{
            "m.new_content": {"msgtype": "m.text", "body": "Hello again"},
            "m.relates_to": {"rel_type": "m.replace", "event_id": sent["text"]},
        },
    )
    relation = {"rel_type": "m.annotation", "event_id": sent["text"], "key": "+1"}
    sent["reaction"] = home.bob.send(room, {"m.relates_to": relation}, "m.reaction")
    sent["notice"] = home.bob.send(room, {"msgtype": "m.notice", "body": "A bot says"})
    sent["mention"] = text("Look", **{"m.mentions": {"user_ids": [alice]}})
    sent["everyone"] = text("All of you", **{"m.mentions": {"room": True}})
    sent["keyword"] = text(f"I like {KEYWORD} much")
    sent["topic"] = home.bob.send_state(room, "m.room.topic", {"topic": "Vegetables"})
    home.carol.leave(room)
    home.carol.join(room)
    return sent


def rung(pushed: list[str | None], sent: dict[str, str]) -> set[str]:
    return {label for label, event_id in sent.items() if event_id in pushed}


def add_keyword(session: Session) -> None:
    rule: JsonDict = {"pattern": KEYWORD, "actions": ["notify", {"set_tweak": "highlight"}]}
    session.put_rule("global", "content", KEYWORD, rule)


@pytest.mark.parametrize("everywhere", EVERYWHERE)
def test_each_choice_rings_for_what_it_says(
    everywhere: str, home: Home, signed_in: SignedIn
) -> None:
    add_keyword(home.phone)
    rooms = {choice: home.room(f"Room {choice}") for choice in ON_DEVICE}
    page = signed_in(home.phone)
    for choice, room in rooms.items():
        go(page, "rooms", room)
        choose(page, "Everywhere", everywhere)
        choose(page, PHONE, choice)

    sent = {choice: send_all(home, room) for choice, room in rooms.items()}
    home.fence()

    for choice in ON_DEVICE:
        expected = OWN.get(choice, SHARED[everywhere])
        assert rung(home.phone_pusher.event_ids(), sent[choice]) == expected, choice
        assert rung(home.tablet_pusher.event_ids(), sent[choice]) == SHARED[everywhere], choice
    known = {event_id for events in sent.values() for event_id in events.values()}
    strangers = {*home.phone_pusher.event_ids()} - known
    assert len(strangers) == 1, "nothing else rings, such as Carol who leaves and joins"


def without_what_the_server_adds(rules: JsonDict) -> list[JsonDict]:
    """The rules of a scope in their order, as a recipe lists them."""
    return [
        {"kind": kind, **{k: v for k, v in rule.items() if k not in ("default", "enabled")}}
        for kind in ("override", "content", "room", "sender", "underride")
        for rule in rules[kind]
    ]


def test_the_page_writes_what_the_recipes_say(home: Home, signed_in: SignedIn) -> None:
    add_keyword(home.phone)
    page = signed_in(home.phone)
    for choice, recipe in (
        (ALL, "All messages of a room"),
        (MENTIONS, "Mentions and keywords of a room"),
        (MUTED, "A muted room"),
    ):
        go(page, "rooms", home.fence_room)
        choose(page, PHONE, choice)
        wanted = READ[recipe].written_for(home.fence_room, home.phone.user_id)
        assert without_what_the_server_adds(home.rules_of(home.phone)) == wanted, recipe
    choose(page, PHONE, AS_EVERYWHERE)
    assert home.rules_of(home.phone) == {}
    go(page, "devices", "PHONE")
    choose(page, "Follows", "Only direct messages and rooms I choose")
    wanted = READ["Only direct messages and chosen rooms"].written_for("", home.phone.user_id)
    assert without_what_the_server_adds(home.rules_of(home.phone)) == wanted
    choose(page, "Follows", "The same as everywhere")
    page.get_by_label("Word", exact=True).fill(KEYWORD)
    page.get_by_role("button", name="Add").click()
    page.get_by_role("listitem").filter(has_text=KEYWORD).wait_for()
    assert without_what_the_server_adds(home.rules_of(home.phone)) == READ["A keyword"].rules


def test_encrypted_rooms_ring_for_all_or_for_nothing(home: Home, signed_in: SignedIn) -> None:
    encryption = {
        "type": "m.room.encryption",
        "state_key": "",
        "content": {"algorithm": "m.megolm.v1.aes-sha2"},
    }
    rooms = {
        choice: home.room(f"Room {choice}", initial_state=[encryption]) for choice in ON_DEVICE
    }
    page = signed_in(home.phone)
    says = {}
    for choice, room in rooms.items():
        go(page, "rooms", room)
        says[choice] = choose(page, PHONE, choice).locator(".note").inner_text()
    ciphertext = {"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "x", "session_id": "y"}
    sent = {
        choice: home.bob.send(room, ciphertext, "m.room.encrypted")
        for choice, room in rooms.items()
    }
    home.fence()
    pushed = home.phone_pusher.event_ids()
    assert {choice for choice in ON_DEVICE if sent[choice] in pushed} == {AS_EVERYWHERE, ALL}
    assert "cannot see mentions" in says[MENTIONS]
    assert says[ALL] == "Rings for every message."


@pytest.mark.parametrize(("choice", "rings"), [(ALL, True), (MENTIONS, True), (MUTED, False)])
def test_an_invitation_rings_unless_the_room_is_muted(
    choice: str, rings: bool, home: Home, signed_in: SignedIn
) -> None:
    room = home.room("Choir")
    page = signed_in(home.phone)
    go(page, "rooms", room)
    choose(page, PHONE, choice)
    home.phone.leave(room)
    home.bob.invite(room, home.phone.user_id)
    home.fence()
    pushes = home.phone_pusher.pushes()
    assert any(push.room_id == room for push in pushes) == rings


FOLLOW: dict[str, Callable[[set[str]], set[str]]] = {
    "The same as everywhere": lambda rooms: rooms,
    "Its own settings, then everywhere": lambda rooms: rooms,
    "Only its own settings": lambda _rooms: {"chosen"},
    "Only direct messages and rooms I choose": lambda _rooms: {"chosen", "direct"},
}


@pytest.mark.parametrize("follow", FOLLOW)
def test_a_device_follows_what_is_chosen(follow: str, home: Home, signed_in: SignedIn) -> None:
    rooms = {"chosen": home.room("Chosen"), "other": home.room("Other"), "direct": home.direct()}
    page = signed_in(home.phone)
    go(page, "rooms", rooms["chosen"])
    choose(page, PHONE, ALL)
    go(page, "devices", "PHONE")
    choose(page, "Follows", follow)

    sent = {name: home.bob.send(room, "Hello") for name, room in rooms.items()}
    last = home.bob.send(rooms["chosen"], "fence")
    if follow == "The same as everywhere":
        assert home.pusher(home.phone)["profile_tags"] == ["global"]
    home.phone_pusher.wait_for(last)
    assert rung(home.phone_pusher.event_ids(), sent) == FOLLOW[follow](set(rooms))


def test_a_device_that_is_switched_off_stays_silent(home: Home, signed_in: SignedIn) -> None:
    room = home.room("Choir")
    page = signed_in(home.phone)
    switch(page, PHONE, False)
    missed = home.bob.send(room, "Hello")
    home.tablet_pusher.wait_for(missed)
    switch(page, PHONE, True)
    home.fence()
    assert missed not in home.phone_pusher.event_ids()
    assert TABLET in page.locator("main").inner_text()

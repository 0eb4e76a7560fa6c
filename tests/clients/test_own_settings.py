# SPDX-License-Identifier: AGPL-3.0-or-later
"""Clients that know nothing of devices' own settings, on a device that has them (specification 9).

For each device three things agree: what it reads, how the library itself would ring by the rules
that it has synced, and what the pusher pushes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import attr

from demo.client import JsonDict
from tests.clients.conftest import World
from tests.clients.libraries import ClientSession, Ring, ring_of
from tests.clients.matrix_js_sdk import JsSession
from tests.clients.matrix_nio import NioSession
from tests.harness.waiting import wait_until
from tests.server.cascade_helpers import FENCE, fence_off
from tests.server.helpers import own_rules
from tests.server.own_settings_helpers import switch
from tests.server.syncing import is_syncing

# --- What happens in a room ---------------------------------------------------------------------

#: A room, and an event in it.
Where = tuple[str, str]

ENCRYPTED: JsonDict = {
    "algorithm": "m.megolm.v1.aes-sha2",
    "ciphertext": "x",
    "sender_key": "x",
    "session_id": "x",
    "device_id": "BOB",
}


def text(body: str, msgtype: str = "m.text", mentions: Sequence[str] = ()) -> JsonDict:
    named = {"user_ids": list(mentions)} if mentions else {}
    return {"msgtype": msgtype, "body": body, "m.mentions": named}


def send_all(world: World, number: int) -> dict[str, Where]:
    """Bob sends Alice an event of each kind."""
    private_room = world.bob.create_room()

    def send(content: JsonDict, event_type: str = "m.room.message") -> str:
        return world.bob.send(world.room, content, event_type)

    message = send(text("Hello"))
    new = text("Hello again")
    edit = {"rel_type": "m.replace", "event_id": message}
    reaction = {"rel_type": "m.annotation", "event_id": message, "key": "👍"}
    in_room = {
        "message": message,
        "mention": send(text("Hello", mentions=[world.alice.user_id])),
        "keyword": send(text("Meet at the harbour")),
        "edit": send({**new, "m.new_content": new, "m.relates_to": edit}),
        "reaction": send({"m.relates_to": reaction}, "m.reaction"),
        "notice": send(text("Hello", "m.notice")),
        "encrypted": send(ENCRYPTED, "m.room.encrypted"),
        "topic": world.bob.send_state(world.room, "m.room.topic", {"topic": f"{number}"}),
    }
    member = private_room, "m.room.member", {"membership": "invite"}, world.alice.user_id
    return {
        **{kind: (world.room, event_id) for kind, event_id in in_room.items()},
        "invite": (private_room, world.bob.send_state(*member)),
    }


# --- What Alice's phone is told to do -----------------------------------------------------------

QUIET: Ring = None
PLAIN: Ring = {}
SOUND: Ring = {"sound": "default"}
LOUD: Ring = {"sound": "default", "highlight": True}
SIREN: Ring = {"sound": "siren", "highlight": True}

BY_DEFAULT: Mapping[str, Ring] = {
    "message": PLAIN,
    "mention": LOUD,
    "keyword": PLAIN,
    "edit": QUIET,
    "reaction": QUIET,
    "notice": QUIET,
    "encrypted": PLAIN,
    "topic": QUIET,
    "invite": SOUND,
}
MUTED: Mapping[str, Ring] = {**dict.fromkeys(BY_DEFAULT, QUIET), "invite": SOUND}

KEYWORD_ACTIONS = [
    "notify",
    {"set_tweak": "sound", "value": "siren"},
    {"set_tweak": "highlight", "value": True},
]


def mute(client: ClientSession, world: World) -> None:
    """As Element does."""
    condition = {"kind": "event_match", "key": "room_id", "pattern": world.room}
    body = {"conditions": [condition], "actions": []}
    client.put_rule("global", "override", world.room, body)


def mute_on_the_phone(world: World) -> None:
    mute(world.phone, world)


def unmute_and_tune(world: World) -> None:
    phone = world.phone
    phone.delete_rule("global", "override", world.room)
    phone.put_rule("global", "content", "x", {"pattern": "harbour", "actions": KEYWORD_ACTIONS})
    phone.set_rule_enabled("global", "override", ".m.rule.is_user_mention", False)
    phone.set_rule_enabled("global", "override", ".m.rule.suppress_notices", False)
    phone.set_rule_actions("global", "override", ".m.rule.reaction", ["notify"])


TUNED = {**BY_DEFAULT, "keyword": SIREN, "mention": PLAIN, "notice": PLAIN, "reaction": PLAIN}


def messages_off_and_mute_on_the_desktop(world: World) -> None:
    world.phone.set_rule_enabled("global", "underride", ".m.rule.message", False)
    mute(world.desktop, world)


NO_MESSAGES = {**TUNED, "message": QUIET, "mention": QUIET, "notice": QUIET}


@attr.s(auto_attribs=True, frozen=True)
class Step:
    """Something that Alice does, and what follows from it.

    Attributes:
        phone, desktop: how they ring.
        off: the server-default rules that are off on the phone, and not on the desktop.
    """

    do: Callable[[World], None]
    phone: Mapping[str, Ring]
    desktop: Mapping[str, Ring] = BY_DEFAULT
    off: Iterable[str] = ()


TUNED_OFF = [".m.rule.is_user_mention", ".m.rule.suppress_notices"]
STEPS = [
    Step(mute_on_the_phone, MUTED),
    Step(unmute_and_tune, TUNED, off=TUNED_OFF),
    Step(
        messages_off_and_mute_on_the_desktop,
        NO_MESSAGES,
        desktop=MUTED,
        off=[*TUNED_OFF, ".m.rule.message"],
    ),
    Step(lambda world: switch(world.alice, False, "PHONE"), MUTED, desktop=MUTED),
]

#: What a library can tell by itself: matrix-nio does not know `event_property_is` and
#: `event_property_contains`, nor the event of an invite; and mautrix evaluates nothing.
EVALUATED: Mapping[type, Iterable[str]] = {
    JsSession: BY_DEFAULT,
    NioSession: ("message", "keyword", "reaction", "notice", "encrypted", "topic"),
}


def off(ruleset: JsonDict) -> set[str]:
    """The server-default rules that are off."""
    rules = (rule for kind in ruleset.values() for rule in kind)
    return {rule["rule_id"] for rule in rules if rule["default"] and not rule["enabled"]}


def test_each_device_goes_by_what_was_set_on_it(world: World) -> None:
    phone, desktop = world.phone, world.desktop
    pushers = {"phone": world.pusher("phone"), "desktop": world.pusher("desktop")}
    phone.set_pusher(pushers["phone"])
    desktop.set_pusher(pushers["desktop"])
    # With three in it, the room is not a direct one.
    world.deployment.register().join(world.room)
    quiet_room = world.bob.create_room(preset="public_chat")
    world.alice.join(quiet_room)
    fence_off(world.alice, "global")
    account = off(phone.next_push_rules()["global"])
    desktop.next_push_rules()
    switch(world.alice, True, "PHONE")

    for number, step in enumerate(STEPS):
        step.do(world)
        events = send_all(world, number)
        fence = world.bob.send(quiet_room, {}, FENCE)
        rules = {
            "phone": phone.sync_to(quiet_room, fence)["global"],
            "desktop": desktop.sync_to(quiet_room, fence)["global"],
        }

        # What each reads.
        assert off(rules["phone"]) == account | set(step.off)
        assert off(rules["desktop"]) == account
        shown = world.alice.get_rules()
        assert own_rules(rules["desktop"]) == own_rules(shown["global"])
        of_phone = shown["device"]["PHONE"] if "device" in shown else own_rules(shown["global"])
        assert own_rules(rules["phone"]) == of_phone

        for name, client in (("phone", phone), ("desktop", desktop)):
            expected = getattr(step, name)
            # What the pusher pushes.
            world.gateway.wait_for(pushkey=pushers[name]["pushkey"], event_id=fence)
            pushes = world.pushes(pushers[name])
            pushed = {push.event_id: ring_of(push.tweaks) for push in pushes}
            assert len(pushed) == len(pushes)
            assert {kind: pushed.get(event[1]) for kind, event in events.items()} == expected
            # What the library makes of it.
            kinds = EVALUATED.get(type(client), ())
            rings = {kind: client.ring_for(*events[kind]) for kind in kinds}
            assert rings == {kind: expected[kind] for kind in kinds}


# --- In the middle of a sync --------------------------------------------------------------------


def test_a_client_that_is_syncing_when_its_device_is_switched_ends_with_the_right_rules(
    world: World,
) -> None:
    phone, alice = world.phone, world.alice
    alice.put_rule("PHONE", "room", "!only:phone", {"actions": []})
    phone.next_push_rules()
    with ThreadPoolExecutor(1) as pool:
        for switches in ([True], [False], [True, False, True], [False, True, False]):
            syncing = pool.submit(phone.next_push_rules)
            wait_until(lambda: is_syncing(world.deployment), "a sync that waits")
            for on in switches:
                switch(alice, on, "PHONE")
            syncing.result(60)
            event_id = world.bob.send(world.room, "what was switched comes before this")
            rules = phone.sync_to(world.room, event_id)
            in_global = [rule["rule_id"] for rule in rules["global"]["room"]]
            assert in_global == (["!only:phone"] if switches[-1] else [])
            assert rules["device"] == alice.get_rules()["device"]

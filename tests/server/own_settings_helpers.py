# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the tests of devices with settings of their own share (specification 9)."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

import attr

from demo.client import JsonDict, Session
from demo.gateway import Gateway
from tests.harness.deployment import Deployment
from tests.server.cascade_helpers import SILENT, SIREN, THING, Device, device, on_all, on_type

_numbers = itertools.count()


def own_path(device_id: str) -> str:
    scope = f"/_matrix/client/unstable/pushrules/device/{quote(device_id, safe='')}"
    return f"{scope}/org.matrix.msc3837.own"


def switch(session: Session, on: bool, device_id: str | None = None) -> None:
    """Give a device settings of its own, or take them away; by default the session's device."""
    session.call("PUT", own_path(device_id or session.device_id), {"enabled": on})


@attr.s(auto_attribs=True, frozen=True)
class Home:
    """Bob with two devices, of which the phone has settings of its own, and two who show what
    Synapse itself does: Carol writes in `global` what Bob does on the phone, and Dave nothing.

    All have a pusher without profile tags, for each device.
    """

    deployment: Deployment
    gateway: Gateway
    room: str
    alice: Session
    bob: Session
    desk_session: Session
    carol: Session
    dave: Session
    phone: Device
    desk: Device
    as_global: Device
    plain: Device

    @property
    def devices(self) -> tuple[Device, ...]:
        return (self.phone, self.desk, self.as_global, self.plain)

    @property
    def user_ids(self) -> list[str]:
        return [user.user_id for user in (self.bob, self.carol, self.dave)]

    def pushed(self, what: Device, since: int) -> dict[str | None, JsonDict]:
        """The events that a pusher pushed after so many, each once, with their tweaks."""
        pushes = what.pushes()[since:]
        # The badge is that of `global` (specification 9).
        by_event = {push.event_id: {**push.tweaks, "prio": push.prio} for push in pushes}
        assert len(by_event) == len(pushes)
        return by_event


def make_home(deployment: Deployment, gateway: Gateway) -> Home:
    alice, bob, carol, dave = (deployment.register() for _ in range(4))
    desk_session = deployment.login(bob, "DESK")
    room = alice.create_room(preset="public_chat")
    for user in (bob, carol, dave):
        user.join(room)
    # There are no calls in a public room.
    alice.send_state(room, "m.room.join_rules", {"join_rule": "invite"})
    return Home(
        deployment,
        gateway,
        room,
        alice,
        bob,
        desk_session,
        carol,
        dave,
        phone=device(bob, gateway),
        desk=device(desk_session, gateway),
        as_global=device(carol, gateway),
        plain=device(dave, gateway),
    )


# --- Events of all kinds ------------------------------------------------------------------------

Send = Callable[[Home], str]


def message(content: JsonDict | None = None, body: str = "Hello", kind: str = "m.text") -> Send:
    sent = {"msgtype": kind, "body": body, **(content or {})}
    return lambda home: home.alice.send(home.room, sent)


def mention(home: Home) -> str:
    return message({"m.mentions": {"user_ids": home.user_ids}})(home)


def mention_by_name(home: Home) -> str:
    names = " ".join(user_id[1:].partition(":")[0] for user_id in home.user_ids)
    return message(body=f"Hello {names}!")(home)


def relation(rel_type: str, event_type: str = "m.room.message") -> Send:
    def send(home: Home) -> str:
        target = home.alice.send(home.room, {"body": "target"}, "org.example.quiet")
        related = {"rel_type": rel_type, "event_id": target, "key": "x"}
        new = {"msgtype": "m.text", "body": "* Hello"}
        content = {**new, "m.new_content": new, "m.relates_to": related}
        return home.alice.send(home.room, content, event_type)

    return send


def state(event_type: str, make: Callable[[int], JsonDict]) -> Send:
    # Synapse makes no new event of what is as it was.
    return lambda home: home.alice.send_state(home.room, event_type, make(next(_numbers)))


#: Events of every kind that the server-default rules tell apart, and of one that none knows.
EVENTS: Mapping[str, Send] = {
    "message": message({"m.mentions": {}}),
    "message without m.mentions": message(),
    "keyword": message({"m.mentions": {}}, body="Meet at the harbour"),
    "mention": mention,
    "name": mention_by_name,
    "room mention": message({"m.mentions": {"room": True}}),
    "@room": message(body="@room hello"),
    "notice": message(kind="m.notice"),
    "emote": message(kind="m.emote"),
    "encrypted": lambda home: home.alice.send(
        home.room, {"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "x"}, "m.room.encrypted"
    ),
    "call": lambda home: home.alice.send(home.room, {"call_id": "1"}, "m.call.invite"),
    "reaction": relation("m.annotation", "m.reaction"),
    "edit": relation("m.replace"),
    "thread": relation("m.thread"),
    "topic": state("m.room.topic", lambda number: {"topic": str(number)}),
    "acl": state(
        "m.room.server_acl", lambda number: {"allow": ["*"], "deny": [f"{number}.example.org"]}
    ),
    "thing": lambda home: home.alice.send(home.room, {"body": "Hello"}, THING),
}


def invites(home: Home) -> list[str]:
    """An invite for each of the three."""
    room = home.alice.create_room()
    content = {"membership": "invite"}
    return [
        home.alice.send_state(room, "m.room.member", content, user_id) for user_id in home.user_ids
    ]


# --- What is changed on the phone ---------------------------------------------------------------


@attr.s(auto_attribs=True, frozen=True)
class Change:
    """Something that a user changes in an app, which writes it to `global`; and its undoing."""

    do: Callable[[Session, Home], None]
    undo: Callable[[Session, Home], None]


def rule(kind: str, rule_id: str, body: JsonDict) -> Change:
    def name(home: Home) -> str:
        return rule_id.replace("ROOM", home.room)

    return Change(
        lambda user, home: user.put_rule("global", kind, name(home), body),
        lambda user, home: user.delete_rule("global", kind, name(home)),
    )


def enabled(kind: str, rule_id: str, on: bool) -> Change:
    return Change(
        lambda user, _: user.set_rule_enabled("global", kind, rule_id, on),
        lambda user, _: user.set_rule_enabled("global", kind, rule_id, not on),
    )


def actions(kind: str, rule_id: str, new: list[Any], old: list[Any]) -> Change:
    return Change(
        lambda user, _: user.set_rule_actions("global", kind, rule_id, new),
        lambda user, _: user.set_rule_actions("global", kind, rule_id, old),
    )


LOUD: list[Any] = [
    "notify",
    {"set_tweak": "highlight"},
    {"set_tweak": "sound", "value": "default"},
]
QUIET: list[Any] = ["notify", {"set_tweak": "highlight", "value": False}]

CHANGES: Mapping[str, Change] = {
    "the room muted": rule(
        "override",
        "mute",
        {"conditions": [{"kind": "event_match", "key": "type", "pattern": "*"}], "actions": SILENT},
    ),
    "mentions and keywords only": rule("room", "ROOM", on_all(SILENT)),
    "all of the room rings": rule("room", "ROOM", on_all(SIREN)),
    "a keyword": rule("content", "word", {"pattern": "harbour", "actions": SIREN}),
    "things": rule("underride", "things", on_type(THING, SIREN)),
    "messages off": enabled("underride", ".m.rule.message", False),
    "notices too": enabled("override", ".m.rule.suppress_notices", False),
    "edits too": enabled("override", ".m.rule.suppress_edits", False),
    "mentions off": enabled("override", ".m.rule.is_user_mention", False),
    "mentions silent": actions("override", ".m.rule.is_user_mention", SILENT, LOUD),
    "encrypted messages with a sound": actions("underride", ".m.rule.encrypted", SIREN, QUIET),
    "reactions with a sound": actions("override", ".m.rule.reaction", SIREN, SILENT),
    "do not disturb": enabled("override", ".m.rule.master", True),
}

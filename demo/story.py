# SPDX-License-Identifier: AGPL-3.0-or-later
"""The demo's story: who is there, what happens, and what arrives at the push gateway."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attr

from demo.client import JsonDict, Session, path
from demo.expectation import Expectation, Message, expect
from demo.gateway import Gateway, Push
from demo.homeserver import Homeserver

APP_ID = "org.example.demo"
PHONE, DESKTOP = "phone", "desktop"
DEVICES = (PHONE, DESKTOP)
FAMILY, PARTY, ALERTS = "Family", "Party", "Alerts"
ROOMS = (FAMILY, PARTY, ALERTS)

PUSHERS_SET = path("pushers", "set")

_TIMEOUT_SECONDS = 60.0
_ENABLED = "org.matrix.msc3881.enabled"


@attr.s(auto_attribs=True, frozen=True)
class Happening:
    """Alice changes something, before Bob writes on."""

    text: str
    change: Callable[[Story], None]


@attr.s(auto_attribs=True, frozen=True)
class Says:
    """Bob writes a message."""

    room: str
    body: str
    edits: bool = False  # the message before


@attr.s(auto_attribs=True, frozen=True)
class Outcome:
    """What one of Alice's devices made of a message."""

    device: str
    expected: Expectation
    arrived: Sequence[Push]

    @property
    def tweaks(self) -> Mapping[str, Any]:
        return self.arrived[0].tweaks if self.arrived else {}

    @property
    def problem(self) -> str | None:
        """How what arrived differs from what the rules say; None where it does not."""
        if len(self.arrived) > 1:
            return f"arrived {len(self.arrived)} times"
        if self.expected.pushed and not self.arrived:
            return "should have been pushed, but never arrived"
        if self.arrived and not self.expected.pushed:
            return "should not have been pushed, but arrived"
        if self.arrived and dict(self.tweaks) != dict(self.expected.tweaks):
            return f"should have had the tweaks {dict(self.expected.tweaks)}"
        return None


@attr.s(auto_attribs=True)
class Sent:
    """A message of the story, and what the rules said when it was sent."""

    says: Says
    event_id: str
    expected: Mapping[str, Expectation]
    outcomes: Sequence[Outcome] = ()


class StoryError(Exception):
    """The story could not be told to its end; the message is for a human."""


class Story:
    """Alice with a phone and a desktop, Bob, and three rooms, on a running homeserver."""

    def __init__(self, homeserver: Homeserver, gateway: Gateway) -> None:
        self.gateway = gateway
        self.bob = homeserver.register("bob", device_id="BOB")
        self.phone = homeserver.register("alice", device_id="PHONE")
        self.desktop = homeserver.login(self.phone.user_id, "DESKTOP")
        self.rooms: dict[str, str] = {}
        self._last: str | None = None

    # --- The scene ---

    def set_up(self) -> None:
        """Make the rooms, register the pushers and write the rules, all over HTTP."""
        for name in ROOMS:
            room_id = self.bob.create_room(name=name, invite=[self.phone.user_id])
            self.phone.join(room_id)
            self.rooms[name] = room_id
        self.set_phone_tags([PHONE, "global"])
        self._register(self.desktop, DESKTOP)

        party, alerts = self.rooms[PARTY], self.rooms[ALERTS]
        self.phone.put_rule(PHONE, "room", party, {"actions": []})
        self.phone.put_rule(
            PHONE, "content", "pizza", {"pattern": "pizza", "actions": _loud("ding")}
        )
        self.phone.put_rule(PHONE, "room", alerts, {"actions": _loud("siren")})
        self.phone.put_rule("global", "room", alerts, {"actions": []})

    def set_phone_tags(self, tags: Sequence[str]) -> None:
        """Register the phone's pusher, or register it again, with these profile tags."""
        self._register(self.phone, PHONE, profile_tags=list(tags))

    def turn_phone(self, on: bool) -> None:
        """Turn the phone's pushes on or off, as another client of Alice does it.

        The desktop does not know the phone's pushkey. It looks the pusher up, changes one field
        and sends the whole back.
        """
        pushers = self.desktop.get_pushers()
        pusher = next(p for p in pushers if p.get("device_id") == self.phone.device_id)
        self.desktop.call("POST", PUSHERS_SET, {**pusher, _ENABLED: on})

    def pusher_of(self, device: str) -> JsonDict:
        """The pusher of a device as the server shows it to Alice."""
        return next(p for p in self.desktop.get_pushers() if p["pushkey"] == pushkey(device))

    def _register(self, session: Session, device: str, **fields: Any) -> None:
        session.set_pusher(
            pushkey(device),
            APP_ID,
            self.gateway.url,
            app_display_name="Demo",
            device_display_name=f"Alice's {device}",
            **fields,
        )

    # --- What happens ---

    def tell(self, plot: Sequence[Happening | Says], check: Callable[[], None]) -> list[Sent]:
        """Let the plot happen, and see what arrives.

        The last message must reach both devices. A pusher delivers in order, so once it is here,
        whatever did not arrive before will not arrive any more.

        Args:
            plot: what happens.
            check: called before each part of it; raises when it is time to end.

        Raises:
            StoryError: a message that the rules want pushed did not arrive.
        """
        sent: list[Sent] = []
        for happening in plot:
            check()
            if isinstance(happening, Happening):
                happening.change(self)
            else:
                sent.append(self._send(happening))
        if not all(expected.pushed for expected in sent[-1].expected.values()):
            raise StoryError("the last message of the story must reach all devices")
        for message in sent:
            message.outcomes = [
                Outcome(device, expected, self._arrived(device, message.event_id))
                for device, expected in message.expected.items()
            ]
        return sent

    def strangers(self, sent: Sequence[Sent]) -> list[Push]:
        """Pushes of events that are no message of the story: there should be none."""
        known = {message.event_id for message in sent}
        return [
            push
            for push in self.gateway.pushes()
            if not push.is_badge_update and push.event_id not in known
        ]

    def _send(self, says: Says) -> Sent:
        """Send a message and wait until it has arrived where the rules want it."""
        message = Message(
            room_id=self.rooms[says.room],
            sender=self.bob.user_id,
            content=self._content(says),
            members=2,
            display_name="alice",
        )
        rules = self.desktop.get_rules()
        names = {room_id: name for name, room_id in self.rooms.items()}
        expected = {
            device: expect(self.pusher_of(device), rules, message, names) for device in DEVICES
        }
        event_id = self._last = self.bob.send(message.room_id, dict(message.content))
        for device in DEVICES:
            if expected[device].pushed:
                self._await(says, device, event_id, expected[device])
        return Sent(says, event_id, expected)

    def _content(self, says: Says) -> JsonDict:
        content: JsonDict = {"msgtype": "m.text", "body": says.body}
        if not says.edits:
            return content
        relation = {"rel_type": "m.replace", "event_id": self._last}
        return {**content, "m.new_content": content, "m.relates_to": relation}

    def _await(self, says: Says, device: str, event_id: str, expected: Expectation) -> None:
        try:
            self.gateway.wait_for(
                pushkey=pushkey(device), event_id=event_id, timeout=_TIMEOUT_SECONDS
            )
        except TimeoutError:
            raise StoryError(
                f'"{says.body}" in "{says.room}", never arrived for the '
                f"{device}, though it should have been pushed ({expected.why}). "
                f"Waited for {_TIMEOUT_SECONDS:g} seconds."
            ) from None

    def _arrived(self, device: str, event_id: str) -> list[Push]:
        return [p for p in self.gateway.pushes(pushkey(device)) if p.event_id == event_id]


PLOT: Sequence[Happening | Says] = (
    Says(FAMILY, "Anybody at home?"),
    Says(PARTY, "Who brings chips?"),
    Says(PARTY, "Pizza is here!"),
    Says(ALERTS, "Disk 91 % full"),
    Says(ALERTS, "Disk 92 % (edit)", edits=True),
    Happening(
        "Alice sits down at her desk and turns the phone off, from the desktop.",
        lambda story: story.turn_phone(False),
    ),
    Says(FAMILY, "Are you still up?"),
    Says(ALERTS, "Database is down"),
    Happening(
        "She turns it on again. Nothing from while it was off comes after.",
        lambda story: story.turn_phone(True),
    ),
    Says(ALERTS, "Database is back"),
    Happening(
        'The phone sets its tags to ["phone"]: it leaves the global rules out.',
        lambda story: story.set_phone_tags([PHONE]),
    ),
    Says(FAMILY, "Sunday at ours?"),
    Says(ALERTS, "Disk 99 % full"),
    Happening(
        'And back to ["phone", "global"].',
        lambda story: story.set_phone_tags([PHONE, "global"]),
    ),
    Says(FAMILY, "Good night!"),
)


def pushkey(device: str) -> str:
    """The pushkey of a device in the story."""
    return f"{device}-pushkey"


def _loud(sound: str) -> list[str | JsonDict]:
    return ["notify", {"set_tweak": "sound", "value": sound}]

# SPDX-License-Identifier: AGPL-3.0-or-later
"""More devices and rooms for Alice, so that there is something to set on the page."""

from collections.abc import Mapping, Sequence

from demo.client import JsonDict, Session, path
from demo.homeserver import Homeserver
from demo.story import DEVICES, Story, pushkey

WEB = "WEB"
TABLET = "TABLET"

DEVICE_NAMES = {
    "PHONE": "Alice's phone",
    "DESKTOP": "Desktop at work",
    TABLET: "Tablet in the kitchen",
    WEB: "Element in Firefox",
}

_ENCRYPTED: JsonDict = {
    "type": "m.room.encryption",
    "state_key": "",
    "content": {"algorithm": "m.megolm.v1.aes-sha2"},
}

_GROUPS = (
    "Book club",
    "Football on Sundays",
    "Garden neighbours",
    "House meeting",
    "Synapse admins",
    "Choir",
    "School, class 4b",
    "Lost and found",
)


def furnish(homeserver: Homeserver, story: Story) -> Mapping[str, str]:
    """Add a tablet, a web client, somebody to write with and rooms; return these by their name."""
    alice, bob = story.phone, story.bob
    carol = homeserver.register("carol", device_id="CAROL")
    for who, name in ((alice, "Alice"), (bob, "Bob"), (carol, "Carol")):
        where = path("profile", who.user_id, "displayname")
        who.call("PUT", where, {"displayname": name})
    tablet = homeserver.login(alice.user_id, TABLET)
    tablet.set_pusher(
        pushkey("tablet"),
        "org.example.demo",
        story.gateway.url,
        app_display_name="Demo",
        device_display_name=DEVICE_NAMES[TABLET],
        append=True,
    )
    homeserver.login(alice.user_id, WEB)
    for device_id, name in DEVICE_NAMES.items():
        alice.call("PUT", path("devices", device_id), {"display_name": name})
    rooms = {
        "Carol": _direct(alice, carol),
        "Travel plans": _room(alice, (carol, bob), "Travel plans", [_ENCRYPTED]),
        **{name: _room(alice, (bob, carol), name) for name in _GROUPS},
    }
    # A pusher keeps the order: when this has arrived, so has all that came before.
    last = bob.send(rooms[_GROUPS[-1]], "Has anybody found my keys?")
    for device in (*DEVICES, "tablet"):
        story.gateway.wait_for(pushkey=pushkey(device), event_id=last)
    return rooms


def _direct(alice: Session, other: Session) -> str:
    room_id = other.create_room(invite=[alice.user_id], is_direct=True)
    alice.join(room_id)
    where = path("user", alice.user_id, "account_data", "m.direct")
    alice.call("PUT", where, {other.user_id: [room_id]})
    other.send(room_id, "Are you coming on Sunday?")
    return room_id


def _room(
    alice: Session, others: Sequence[Session], name: str, initial_state: Sequence[JsonDict] = ()
) -> str:
    writer = others[0]
    invited = [alice.user_id, *(other.user_id for other in others[1:])]
    room_id = writer.create_room(name=name, invite=invited, initial_state=list(initial_state))
    for user in (alice, *others[1:]):
        user.join(room_id)
    if not initial_state:
        writer.send(room_id, f"Welcome to {name}!")
    return room_id

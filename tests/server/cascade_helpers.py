# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the tests of the cascade share: rules, events and fences.

Most events here are of a type that no server-default rule matches, so that a user's `global`
scope says about them exactly what a test wrote there.

A *fence* shows that nothing came: it is a last event that every scope pushes, and pushers push
in order, so what has not come before the fence will not come.
"""

import itertools
import secrets
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import attr

from demo.client import JsonDict, Response, Session
from demo.gateway import Gateway, Push
from tests.harness.deployment import Deployment
from tests.harness.waiting import wait_until
from tests.server.helpers import assert_ok

APP = "org.example.app"
THING = "org.example.thing"
FENCE = "org.example.fence"

EXPLAIN = "/_matrix/client/unstable/org.matrix.msc3837/explain"

Action = str | JsonDict

SIREN: list[Action] = ["notify", {"set_tweak": "sound", "value": "siren"}]
BELL: list[Action] = ["notify", {"set_tweak": "sound", "value": "bell"}]
HIGHLIGHT: list[Action] = ["notify", {"set_tweak": "highlight"}]
NOTIFY: list[Action] = ["notify"]
SILENT: list[Action] = []
DONT_NOTIFY: list[Action] = ["dont_notify"]

# Servers of two runs push at once: a port may have been another gateway's before, for whose
# pushers a server still tries.
_pushkeys = itertools.count((1 + secrets.randbelow(899)) * 10_000)


def on_type(event_type: str, actions: Sequence[Action]) -> JsonDict:
    """An override or underride rule about all events of a type."""
    condition = {"kind": "event_match", "key": "type", "pattern": event_type}
    return {"conditions": [condition], "actions": list(actions)}


def on_body(body: str, actions: Sequence[Action]) -> JsonDict:
    """An override or underride rule about all events with this body."""
    condition = {"kind": "event_property_is", "key": "content.body", "value": body}
    return {"conditions": [condition], "actions": list(actions)}


def on_all(actions: Sequence[Action]) -> JsonDict:
    """A rule without conditions of its own: of any kind but `content`."""
    return {"conditions": [], "actions": list(actions)}


def fence_off(user: Session, *scopes: str) -> None:
    """Have these scopes push the fence; overrides that are written later may come before it."""
    for scope in scopes:
        user.put_rule(scope, "override", "fence", on_type(FENCE, NOTIFY))


def new_pushkey(name: str = "key") -> str:
    return f"{name}-{next(_pushkeys)}"


@attr.s(auto_attribs=True, frozen=True, eq=False)
class Device:
    """A pusher of one user."""

    user: Session
    pushkey: str
    gateway: Gateway
    app_id: str = APP

    def set(self, **fields: Any) -> None:
        """Set the pusher with these fields."""
        self.user.set_pusher(self.pushkey, self.app_id, self.gateway.url, append=True, **fields)

    def stored(self) -> JsonDict | None:
        """The pusher as GET /pushers shows it, None where there is none."""
        pushers = self.user.get_pushers()
        return next((p for p in pushers if p["pushkey"] == self.pushkey), None)

    def pushes(self) -> list[Push]:
        """The events that the gateway got for it, badge updates left out."""
        return [p for p in self.gateway.pushes(self.pushkey) if not p.is_badge_update]

    def event_ids(self) -> list[str | None]:
        return [push.event_id for push in self.pushes()]

    def wait_for(self, event_id: str) -> Push:
        return self.gateway.wait_for(pushkey=self.pushkey, event_id=event_id)

    def pushes_until(self, fence: str) -> list[Push]:
        """What came up to a fence, without the fence."""
        self.wait_for(fence)
        pushes = self.pushes()
        assert pushes[-1].event_id == fence
        return pushes[:-1]


def device(
    user: Session, gateway: Gateway, tags: Sequence[str] | None = None, **fields: Any
) -> Device:
    """Register a pusher; without `tags` one that has none."""
    made = Device(user, new_pushkey(), gateway)
    made.set(**({} if tags is None else {"profile_tags": list(tags)}), **fields)
    return made


@attr.s(auto_attribs=True, frozen=True)
class Scene:
    """Alice, who sends; Bob, who is pushed to; a room with both."""

    deployment: Deployment
    gateway: Gateway
    alice: Session
    bob: Session
    room: str

    def device(self, tags: Sequence[str] | None = None, **fields: Any) -> Device:
        """A new pusher of Bob's."""
        return device(self.bob, self.gateway, tags, **fields)

    def thing(self, body: str = "Hello", room: str | None = None) -> str:
        """Alice sends an event that no server-default rule matches."""
        return self.alice.send(room or self.room, {"body": body}, THING)

    def message(self, body: str = "Hello") -> str:
        """Alice sends a message, which server-default rules notify about."""
        return self.alice.send(self.room, body)

    def fence(self) -> str:
        return self.alice.send(self.room, {"body": "fence"}, FENCE)


def make_scene(deployment: Deployment, gateway: Gateway) -> Scene:
    alice, bob = deployment.register(), deployment.register()
    # Public, because Synapse counts an invite as unread even once it was accepted.
    room = alice.create_room(preset="public_chat")
    bob.join(room)
    return Scene(deployment, gateway, alice, bob, room)


def unread_counts(user: Session, room: str) -> JsonDict:
    """The room's unread counts in an initial sync; all 0 where it is not in there."""
    rooms = user.sync(sync_filter={"room": {"timeline": {"limit": 1}}})["rooms"]["join"]
    counts: JsonDict = rooms[room]["unread_notifications"]
    return counts


def notifications(user: Session) -> list[JsonDict]:
    listed: list[JsonDict] = user.call("GET", "/_matrix/client/v3/notifications")["notifications"]
    return listed


def tags_in_database(deployment: Deployment, user: Session) -> dict[str, str]:
    """The profile tags that are stored for a user's pushers, by pushkey."""
    return dict(
        deployment.sql(
            "SELECT pushkey, profile_tags FROM synapse_msc3881_pusher_tags WHERE user_id = ?",
            [user.user_id],
        )
    )


def rules_in_database(deployment: Deployment, user: Session) -> int:
    """How many device rules are stored for a user."""
    ((count,),) = deployment.sql(
        "SELECT COUNT(*) FROM synapse_msc3881_device_rules WHERE user_id = ?", [user.user_id]
    )
    return int(count)


def position(deployment: Deployment, pusher: Device) -> int:
    """Where the pusher stands in the stream of events, by the database."""
    ((ordering,),) = deployment.sql(
        "SELECT last_stream_ordering FROM pushers WHERE user_name = ? AND pushkey = ?",
        [pusher.user.user_id, pusher.pushkey],
    )
    return int(ordering)


def failing_since(deployment: Deployment, pusher: Device) -> int | None:
    """Since when Synapse has failed to push, by the database."""
    ((since,),) = deployment.sql(
        "SELECT failing_since FROM pushers WHERE pushkey = ?", [pusher.pushkey]
    )
    return None if since is None else int(since)


def stream_ordering(deployment: Deployment, event_id: str) -> int:
    ((ordering,),) = deployment.sql(
        "SELECT stream_ordering FROM events WHERE event_id = ?", [event_id]
    )
    return int(ordering)


def wait_until_recorded(deployment: Deployment, pusher: Device, event_id: str) -> None:
    """Wait until Synapse has noted that a push arrived: until then, a restart repeats it."""
    ordering = stream_ordering(deployment, event_id)
    wait_until(lambda: position(deployment, pusher) >= ordering, "the pusher's position")


def ask(user: Session, room: str, event_id: str) -> Response:
    return user.request("GET", f"{EXPLAIN}/{quote(room, safe='')}/{quote(event_id, safe='')}")


def explained(scene: Scene, event_id: str, room: str | None = None) -> JsonDict:
    """What Bob is told of an event."""
    response = ask(scene.bob, room or scene.room, event_id)
    assert_ok(response)
    answer: JsonDict = response.json
    return answer

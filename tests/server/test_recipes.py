# SPDX-License-Identifier: AGPL-3.0-or-later
"""The rules in docs/recipes.md ring for what their tables say, and for nothing else."""

from collections.abc import Sequence
from typing import Any

import attr
import pytest

from demo.client import JsonDict, Session
from demo.gateway import Gateway
from tests.harness.deployment import Deployment
from tests.harness.recipes import READ
from tests.server.cascade_helpers import Device, device

#: Nothing here depends on the database.
pytestmark = pytest.mark.one_deployment

TAG = "phone"
KEYWORD = "aubergine"
FENCE = "org.example.fence"


@attr.s(auto_attribs=True, frozen=True, eq=False)
class Scene:
    """Alice with a phone, and people who write to her."""

    alice: Session
    bob: Session
    carol: Session
    phone: Device

    def room(self, members: Sequence[Session]) -> str:
        room = self.bob.create_room(preset="public_chat")
        for member in members:
            member.join(room)
        return room

    def write(self, rules: Sequence[JsonDict], tags: Sequence[str]) -> None:
        """Write a recipe as it says, and then attach the tag."""
        before: dict[str, str] = {}
        for rule in rules:
            body = {name: value for name, value in rule.items() if name not in ("kind", "rule_id")}
            kind, rule_id = rule["kind"], rule["rule_id"]
            self.alice.put_rule(TAG, kind, rule_id, body, after=before.get(kind))
            before[kind] = rule_id
        fence = {"kind": "event_match", "key": "type", "pattern": FENCE}
        rule = {"conditions": [fence], "actions": ["notify"]}
        self.alice.put_rule(TAG, "override", "fence", rule)
        self.phone.set(profile_tags=list(tags))

    def what_rings(self, room: str) -> set[str]:
        """Let everything happen in a room, and see what arrives."""
        sent = self._send_all(room)
        fence_room = self.room([self.alice])
        fence = self.bob.send(fence_room, {}, FENCE)
        self.phone.wait_for(fence)
        pushed = {(push.event_id, push.type) for push in self.phone.pushes()}
        ids = {event_id for event_id, _ in pushed}
        rings = {name for name, event_id in sent.items() if event_id in ids}
        members = {event_id for event_id, kind in pushed if kind == "m.room.member"}
        assert len(members) <= 1, "of two comings, a going and an invitation"
        return rings | ({"invite"} if members else set())

    def _send_all(self, room: str) -> dict[str, str]:
        def text(body: str, **content: Any) -> str:
            return self.bob.send(room, {"msgtype": "m.text", "body": body, **content})

        sent = {"text": text("Hello")}
        edit = {"rel_type": "m.replace", "event_id": sent["text"]}
        new = {"msgtype": "m.text", "body": f"Hello, {KEYWORD}"}
        sent["edit"] = text(f"* {KEYWORD}", **{"m.new_content": new, "m.relates_to": edit})
        relation = {"rel_type": "m.annotation", "event_id": sent["text"], "key": "+1"}
        sent["reaction"] = self.bob.send(room, {"m.relates_to": relation}, "m.reaction")
        sent["notice"] = self.bob.send(
            room,
            {
                "msgtype": "m.notice",
                "body": f"A bot has {KEYWORD}",
                "m.mentions": {"user_ids": [self.alice.user_id]},
            },
        )
        sent["mention"] = text("Look", **{"m.mentions": {"user_ids": [self.alice.user_id]}})
        sent["@room"] = text("All of you", **{"m.mentions": {"room": True}})
        sent["keyword"] = text(f"I like {KEYWORD} much")
        sent["topic"] = self.bob.send_state(room, "m.room.topic", {"topic": KEYWORD})
        ciphertext = {"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "x"}
        sent["encrypted"] = self.bob.send(room, ciphertext, "m.room.encrypted")
        sent["join"] = self._come_and_go(room)
        self.alice.leave(room)
        self.bob.invite(room, self.alice.user_id)
        return sent

    def _come_and_go(self, room: str) -> str:
        """Carol comes, after she has gone where she was there; return the event of her coming."""
        members = self.bob.call("GET", f"/_matrix/client/v3/rooms/{room}/members?membership=join")
        if self.carol.user_id in {event["state_key"] for event in members["chunk"]}:
            self.carol.leave(room)
        self.carol.join(room)
        members = self.bob.call("GET", f"/_matrix/client/v3/rooms/{room}/members?membership=join")
        joined = [e for e in members["chunk"] if e["state_key"] == self.carol.user_id]
        self.carol.leave(room)
        event_id: str = joined[0]["event_id"]
        return event_id


@pytest.fixture
def scene(deployment: Deployment, gateway: Gateway) -> Scene:
    alice = deployment.register()
    rule: JsonDict = {"pattern": KEYWORD, "actions": ["notify"]}
    alice.put_rule("global", "content", KEYWORD, rule)
    return Scene(alice, deployment.register(), deployment.register(), device(alice, gateway))


def test_the_recipes_are_found() -> None:
    assert len(READ) == 5
    assert all(recipe.rules and recipe.rings for recipe in READ.values())


IN_GLOBAL: dict[str, list[str | JsonDict] | None] = {
    "nothing set": None,
    "all messages": ["notify"],
}


@pytest.mark.parametrize("in_global", IN_GLOBAL)
@pytest.mark.parametrize("title", [title for title in READ if not title.startswith("Only")])
def test_a_recipe_rings_for_what_its_table_says(title: str, in_global: str, scene: Scene) -> None:
    recipe = READ[title]
    room = scene.room([scene.alice, scene.carol])
    other = scene.room([scene.alice])
    actions = IN_GLOBAL[in_global]
    if actions is not None:
        scene.alice.put_rule("global", "room", room, {"actions": actions})
    scene.write(recipe.written_for(room, scene.alice.user_id), [TAG, "global"])
    elsewhere = scene.bob.send(other, "In another room")
    [expected] = recipe.rings
    found = scene.what_rings(room)
    if title == "A keyword" and actions is not None:
        found.discard("topic")  # So rings a `room` rule in `global`.
    assert found == expected
    assert elsewhere in scene.phone.event_ids(), "other rooms are as everywhere"


@pytest.mark.parametrize("two", [True, False])
def test_only_direct_messages_and_chosen_rooms_ring(two: bool, scene: Scene) -> None:
    recipe = READ["Only direct messages and chosen rooms"]
    # Carol is the third while it matters.
    room = scene.room([scene.alice] if two else [scene.alice, scene.carol])
    scene.write(recipe.written_for(room, scene.alice.user_id), [TAG])
    assert scene.what_rings(room) == recipe.rings[0 if two else 1]

# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the server-default rules keep quiet, no device scope rings for (specification 4)."""

import itertools
from collections.abc import Callable, Sequence

import attr
import pytest

from demo.client import JsonDict, Session
from demo.gateway import Gateway
from tests.harness.deployment import Deployment
from tests.server.cascade_helpers import (
    BELL,
    NOTIFY,
    SILENT,
    SIREN,
    THING,
    Device,
    Scene,
    device,
    fence_off,
    on_all,
    on_type,
)

#: Nothing here depends on the database.
pytestmark = pytest.mark.one_deployment


@pytest.fixture
def scene(scene: Scene) -> Scene:
    fence_off(scene.bob, "phone")
    return scene


_numbers = itertools.count()


def reaction(scene: Scene) -> str:
    target = scene.alice.send(scene.room, {"body": "target"}, "org.example.quiet")
    relation = {"rel_type": "m.annotation", "event_id": target, "key": "x"}
    return scene.alice.send(scene.room, {"m.relates_to": relation}, "m.reaction")


def edit(scene: Scene, body: str = "* Hello", content: JsonDict | None = None) -> str:
    target = scene.alice.send(scene.room, {"body": "target"}, "org.example.quiet")
    relation = {"rel_type": "m.replace", "event_id": target}
    new = {"msgtype": "m.text", "body": body}
    return scene.alice.send(
        scene.room, {**new, "m.new_content": new, "m.relates_to": relation, **(content or {})}
    )


def notice(scene: Scene) -> str:
    return scene.alice.send(scene.room, {"msgtype": "m.notice", "body": "Hello"})


def acl(scene: Scene) -> str:
    # Synapse makes no new event of what is as it was.
    content = {"allow": ["*"], "deny": [f"{next(_numbers)}.example.org"]}
    return scene.alice.send_state(scene.room, "m.room.server_acl", content)


def kick(scene: Scene) -> str:
    """A membership of Bob's own: Synapse asks nobody's rules about those of others."""
    content = {"membership": "leave", "reason": "Goodbye"}
    return scene.alice.send_state(scene.room, "m.room.member", content, scene.bob.user_id)


def message(scene: Scene) -> str:
    return scene.message()


QUIET: dict[str, Callable[[Scene], str]] = {
    ".m.rule.reaction": reaction,
    ".m.rule.suppress_edits": edit,
    ".m.rule.suppress_notices": notice,
    ".m.rule.room.server_acl": acl,
    ".m.rule.member_event": kick,
}

#: Of each kind that `global` asks after its server-default overrides a rule about all of the room.
KINDS: dict[str, Callable[[Scene], tuple[str, JsonDict]]] = {
    "room": lambda scene: (scene.room, on_all(SIREN)),
    "sender": lambda scene: (scene.alice.user_id, on_all(SIREN)),
    "underride": lambda _: ("all", on_all(SIREN)),
}


def put(scene: Scene, kind: str = "room") -> None:
    scene.bob.put_rule("phone", kind, *KINDS[kind](scene))


def heard(scene: Scene, phone: Device, send: Callable[[Scene], str]) -> object:
    """The sound with which the phone rings for an event; None where it does not."""
    before = len(phone.pushes())
    event_id = send(scene)
    if send is kick:  # He would not get the fence.
        scene.bob.join(scene.room)
    phone.wait_for(scene.fence())
    pushes = [push for push in phone.pushes()[before:] if push.event_id == event_id]
    assert len(pushes) <= 1
    return pushes[0].tweaks.get("sound", "none") if pushes else None


# --- Every default rule -------------------------------------------------------------------------


@pytest.mark.parametrize("default_rule", QUIET)
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_default_rule_keeps_quiet_does_not_ring(
    scene: Scene, kind: str, default_rule: str
) -> None:
    put(scene, kind)
    phone = scene.device(["phone"])
    assert heard(scene, phone, message) == "siren"
    assert heard(scene, phone, QUIET[default_rule]) is None
    # With the rule off, or loud, it is as ordinary as any event.
    scene.bob.set_rule_enabled("global", "override", default_rule, False)
    assert heard(scene, phone, QUIET[default_rule]) == "siren"
    scene.bob.set_rule_enabled("global", "override", default_rule, True)
    assert heard(scene, phone, QUIET[default_rule]) is None
    scene.bob.set_rule_actions("global", "override", default_rule, NOTIFY)
    assert heard(scene, phone, QUIET[default_rule]) == "siren"
    scene.bob.set_rule_actions("global", "override", default_rule, ["dont_notify"])
    assert heard(scene, phone, QUIET[default_rule]) is None


def test_a_content_rule_does_not_ring_for_an_edit(scene: Scene) -> None:
    scene.bob.put_rule("phone", "content", "word", {"pattern": "hello", "actions": SIREN})
    phone = scene.device(["phone"])
    assert heard(scene, phone, message) == "siren"
    assert heard(scene, phone, edit) is None
    assert heard(scene, phone, notice) is None


def test_with_the_master_rule_on_nothing_rings_but_overrides(scene: Scene) -> None:
    put(scene)
    scene.bob.put_rule("phone", "override", "things", on_type(THING, BELL), after="fence")
    phone = scene.device(["phone", "global"])
    assert heard(scene, phone, message) == "siren"
    scene.bob.set_rule_enabled("global", "override", ".m.rule.master", True)
    for send in (message, edit, notice, reaction):
        assert heard(scene, phone, send) is None
    assert heard(scene, phone, Scene.thing) == "bell"
    # A master rule that notifies keeps nothing quiet.
    scene.bob.set_rule_actions("global", "override", ".m.rule.master", NOTIFY)
    assert heard(scene, phone, message) == "siren"
    assert heard(scene, phone, edit) == "siren"
    scene.bob.set_rule_enabled("global", "override", ".m.rule.master", False)
    assert heard(scene, phone, message) == "siren"
    assert heard(scene, phone, edit) is None


@pytest.mark.parametrize("default_rule", QUIET)
def test_an_override_of_the_scope_rings_all_the_same(scene: Scene, default_rule: str) -> None:
    scene.bob.put_rule("phone", "override", "all", on_all(SIREN), after="fence")
    phone = scene.device(["phone"])
    assert heard(scene, phone, QUIET[default_rule]) == "siren"


# --- The walk -----------------------------------------------------------------------------------


def test_the_walk_goes_on_where_a_match_does_not_count(scene: Scene) -> None:
    put(scene)
    scene.bob.put_rule("global", "override", "reactions", on_type("m.reaction", BELL))
    scene.bob.put_rule("tablet", "override", "reactions", on_type("m.reaction", NOTIFY))
    in_global, in_tablet = scene.device(["phone", "global"]), scene.device(["phone", "tablet"])
    alone = scene.device(["phone"])

    event_id = reaction(scene)

    assert in_global.wait_for(event_id).tweaks == {"sound": "bell"}
    assert in_tablet.wait_for(event_id).tweaks == {}
    assert event_id not in [push.event_id for push in alone.pushes_until(scene.fence())]


@pytest.mark.parametrize("kind", KINDS)
def test_a_silent_rule_counts_for_a_quiet_event_too(scene: Scene, kind: str) -> None:
    rule_id, rule = KINDS[kind](scene)
    scene.bob.put_rule("phone", kind, rule_id, {**rule, "actions": SILENT})
    scene.bob.put_rule("global", "override", "reactions", on_type("m.reaction", BELL))
    fence_off(scene.bob, "global")
    phone, plain = scene.device(["phone", "global"]), scene.device()

    event_id = reaction(scene)

    assert plain.wait_for(event_id).tweaks == {"sound": "bell"}
    assert event_id not in [push.event_id for push in phone.pushes_until(scene.fence())]


def test_the_highest_match_is_the_one_that_does_not_count(scene: Scene) -> None:
    """No lower rule of the scope takes its place, not even a silent one."""
    put(scene)
    scene.bob.put_rule("phone", "underride", "all", on_all(SILENT))
    scene.bob.put_rule("global", "override", "reactions", on_type("m.reaction", BELL))
    phone = scene.device(["phone", "global"])
    assert heard(scene, phone, reaction) == "bell"


# --- Rules about the user -----------------------------------------------------------------------


def test_an_edit_that_mentions_the_user_rings(scene: Scene) -> None:
    put(scene)
    carol = scene.deployment.register()
    carol.join(scene.room)
    carol.put_rule("phone", "room", scene.room, on_all(BELL))
    fence_off(carol, "phone")
    bobs, carols = scene.device(["phone"]), device(carol, scene.gateway, ["phone"])

    def mention_of(*users: Session) -> Callable[[Scene], str]:
        ids = [user.user_id for user in users]
        return lambda scene: edit(scene, content={"m.mentions": {"user_ids": ids}})

    assert heard(scene, bobs, mention_of(scene.bob)) == "siren"
    assert heard(scene, carols, mention_of(scene.bob)) is None
    assert heard(scene, bobs, mention_of(carol)) is None
    assert heard(scene, carols, mention_of(carol)) == "bell"
    assert heard(scene, bobs, mention_of()) is None
    # Whoever silenced that rule is not rung for mentions, in edits or elsewhere.
    scene.bob.set_rule_actions("global", "override", ".m.rule.is_user_mention", SILENT)
    assert heard(scene, bobs, mention_of(scene.bob)) is None

    def mentioning(scene: Scene) -> str:
        mentions = {"user_ids": [scene.bob.user_id]}
        return scene.alice.send(scene.room, {"body": "Hi", "m.mentions": mentions}, THING)

    assert heard(scene, bobs, mentioning) is None
    assert heard(scene, bobs, Scene.thing) == "siren"
    scene.bob.set_rule_enabled("global", "override", ".m.rule.is_user_mention", False)
    assert heard(scene, bobs, mentioning) == "siren"


def test_an_edit_with_the_users_name_rings(scene: Scene) -> None:
    put(scene)
    name = scene.bob.user_id[1:].partition(":")[0]  # As Synapse names a new user.
    phone = scene.device(["phone"])
    assert heard(scene, phone, lambda scene: edit(scene, f"* Hello {name}!")) == "siren"
    # With `m.mentions`, Synapse does not look for names.
    body = f"* Hello {name}!"
    assert heard(scene, phone, lambda scene: edit(scene, body, {"m.mentions": {}})) is None


def test_an_edit_to_the_whole_room_rings(scene: Scene) -> None:
    put(scene)
    phone = scene.device(["phone"])
    to_all = {"m.mentions": {"room": True}}
    assert heard(scene, phone, lambda scene: edit(scene, content=to_all)) == "siren"
    assert heard(scene, phone, lambda scene: edit(scene, "* @room")) == "siren"


def test_an_invite_for_the_user_rings(scene: Scene) -> None:
    scene.bob.put_rule("phone", "sender", scene.alice.user_id, on_all(SIREN))
    phone = scene.device(["phone"])
    room = scene.alice.create_room()
    scene.alice.invite(room, scene.bob.user_id)
    push = scene.gateway.wait_for(pushkey=phone.pushkey)
    assert (push.room_id, push.type, push.tweaks["sound"]) == (room, "m.room.member", "siren")
    # Off, it is a change of membership as any.
    scene.bob.set_rule_enabled("global", "override", ".m.rule.invite_for_me", False)
    scene.alice.invite(scene.alice.create_room(), scene.bob.user_id)
    assert [push.room_id for push in phone.pushes_until(scene.fence())] == [room]


# --- Rooms of all kinds -------------------------------------------------------------------------


@attr.s(auto_attribs=True, frozen=True)
class Kind:
    version: str
    preset: str
    encrypted: bool = False


ROOMS: Sequence[Kind] = [
    Kind("1", "public_chat"),
    Kind("6", "private_chat"),
    Kind("10", "trusted_private_chat"),
    Kind("11", "private_chat", encrypted=True),
]


@pytest.mark.parametrize("kind", ROOMS, ids=lambda kind: f"{kind.version}-{kind.preset}")
def test_in_rooms_of_all_kinds(deployment: Deployment, gateway: Gateway, kind: Kind) -> None:
    alice, bob = deployment.register(), deployment.register()
    room = alice.create_room(preset=kind.preset, room_version=kind.version)
    if kind.preset != "public_chat":
        alice.invite(room, bob.user_id)
    bob.join(room)
    scene = Scene(deployment, gateway, alice, bob, room)
    if kind.encrypted:
        algorithm = {"algorithm": "m.megolm.v1.aes-sha2"}
        alice.send_state(room, "m.room.encryption", algorithm)
    fence_off(bob, "phone")
    put(scene)
    phone = scene.device(["phone"])

    def encrypted(scene: Scene) -> str:
        return scene.alice.send(room, {"algorithm": "m.megolm.v1.aes-sha2"}, "m.room.encrypted")

    assert heard(scene, phone, encrypted) == "siren"
    for name, send in QUIET.items():
        if send is not kick or kind.preset == "public_chat":
            assert heard(scene, phone, send) is None, name
    assert heard(scene, phone, message) == "siren"


# --- Explained ----------------------------------------------------------------------------------


def test_it_is_explained(scene: Scene) -> None:
    put(scene)
    scene.bob.put_rule("global", "override", "reactions", on_type("m.reaction", BELL))
    phone = scene.device(["phone", "global"])
    event_id = reaction(scene)
    phone.wait_for(event_id)

    path = f"/_matrix/client/unstable/org.matrix.msc3837/explain/{scene.room}/{event_id}"
    (pusher,) = scene.bob.call("GET", path)["pushers"]

    assert pusher["walk"] == [
        {
            "profile_tag": "phone",
            "result": "suppressed",
            "rule": f"room/{scene.room}",
            "suppressed_by": ".m.rule.reaction",
        },
        {"profile_tag": "global", "result": "notify", "actions": BELL},
    ]
    assert pusher["outcome"] == "push"


# --- Counts -------------------------------------------------------------------------------------


def test_nothing_is_stored_where_nothing_is_pushed(scene: Scene) -> None:
    put(scene)
    phone = scene.device(["phone"])
    event_id = reaction(scene)
    phone.wait_for(scene.fence())
    assert scene.deployment.sql(
        "SELECT COUNT(*) FROM event_push_actions WHERE event_id = ?", [event_id]
    ) == [(0,)]

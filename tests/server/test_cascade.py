# SPDX-License-Identifier: AGPL-3.0-or-later
"""The cascade through HTTP: which devices are pushed to, and how (specification 4 and 5)."""

from collections.abc import Iterator, Mapping, Sequence

import attr
import pytest

from demo.client import JsonDict, Session
from demo.gateway import Behaviour, Gateway
from tests.harness.deployment import Deployment
from tests.server.cascade_helpers import (
    BELL,
    DONT_NOTIFY,
    FENCE,
    HIGHLIGHT,
    NOTIFY,
    SILENT,
    SIREN,
    THING,
    Action,
    Device,
    Scene,
    device,
    fence_off,
    notifications,
    on_all,
    on_body,
    on_type,
    unread_counts,
)

# --- The table of specification 5 ---------------------------------------------------------------

# What matches in a scope, None for no match.
Match = Sequence[Action] | None


@attr.s(auto_attribs=True, frozen=True, eq=False)
class Row:
    """One row: `result` is the sound that is pushed, "" for a push without, None for no push."""

    tags: tuple[str, ...]
    phone: Match
    global_: Match
    result: str | None

    def __str__(self) -> str:
        def match(actions: Match) -> str:
            return "none" if actions is None else "notify" if "notify" in actions else "silent"

        tags = ",".join(self.tags)
        return f"[{tags}]-phone {match(self.phone)}-global {match(self.global_)}"


TABLE = (
    Row(("phone", "global"), SIREN, NOTIFY, "siren"),
    Row(("phone", "global"), SILENT, NOTIFY, None),
    Row(("phone", "global"), None, BELL, "bell"),
    Row(("phone", "global"), None, SILENT, None),
    Row(("phone", "global"), SIREN, SILENT, "siren"),
    Row(("phone",), None, NOTIFY, None),
    Row(("global", "phone"), SIREN, SILENT, None),
    Row(("global", "phone"), SIREN, None, "siren"),
    Row(("other", "phone"), SIREN, BELL, "siren"),
    # What follows from the text around the table.
    Row(("phone", "global"), None, None, None),
    Row(("phone", "global"), DONT_NOTIFY, BELL, None),
    Row(("phone", "global"), [{"set_tweak": "sound", "value": "siren"}], BELL, None),
    Row(("phone",), SIREN, BELL, "siren"),
    Row(("phone",), SIREN, None, "siren"),
    Row(("global", "phone"), SIREN, BELL, "bell"),
    Row(("global", "phone"), SIREN, DONT_NOTIFY, None),
    Row(("global", "phone"), SILENT, None, None),
    Row(("other", "phone", "global"), None, BELL, "bell"),
    Row(("disabled", "phone"), NOTIFY, BELL, ""),
    Row(("disabled", "global"), SIREN, BELL, "bell"),
    Row(("global",), SIREN, BELL, "bell"),
    Row(("global",), SIREN, SILENT, None),
    Row(("global",), SIREN, None, None),
)

KINDS = ("override", "content", "room", "sender", "underride")


# A scope for each thing that may match in `phone`, and a user for each that may in `global`.
PHONES = {repr(row.phone): (f"phone {n}", row.phone) for n, row in enumerate(TABLE)}
GLOBALS = {repr(row.global_): row.global_ for row in TABLE}

Sounds = Mapping[tuple[str, Row], Sequence[str]]


@attr.s(auto_attribs=True, frozen=True)
class Stage:
    """For each kind of rule an event that only rules of this kind are about."""

    alice: Session
    carol: Session
    room: str
    quiet_room: str

    def send(self, kind: str) -> str:
        sender = self.carol if kind == "sender" else self.alice
        room = self.quiet_room if kind == "room" else self.room
        event_id: str = sender.send(room, {"body": f"Well, {kind} then"}, f"{THING}.{kind}")
        return event_id

    def put_rules(self, user: Session, scope: str, match: Match) -> None:
        """Write a rule of each kind that matches its event, or another where none is to."""
        for kind in KINDS:
            self._put_rule(user, scope, kind, match)

    def _put_rule(self, user: Session, scope: str, kind: str, match: Match) -> None:
        nothing = match is None
        actions = list(match or [])
        if kind == "content":
            pattern = "nothing" if nothing else kind
            user.put_rule(scope, kind, "rule", {"pattern": pattern, "actions": actions})
        elif kind == "room":
            room = "!nothing:synapse.test" if nothing else self.quiet_room
            user.put_rule(scope, kind, room, on_all(actions))
        elif kind == "sender" and scope != "global":
            sender = "@nothing:synapse.test" if nothing else self.carol.user_id
            user.put_rule(scope, kind, sender, on_all(actions))
        else:
            # Synapse stores global sender rules in a form that never matches.
            name = "underride" if kind == "sender" else kind
            event_type = f"{THING}.{'nothing' if nothing else kind}"
            user.put_rule(scope, name, f"rule.{kind}", on_type(event_type, actions))


@pytest.fixture(scope="module")
def sounds(shared_deployment: Deployment) -> Iterator[Sounds]:
    """The sounds that each row's pusher made for the event of each kind."""
    alice, carol = shared_deployment.register(), shared_deployment.register()
    rooms = [alice.create_room(preset="public_chat") for _ in range(2)]
    stage = Stage(alice, carol, *rooms)
    carol.join(stage.room)
    users = {}
    for match, actions in GLOBALS.items():
        user = users[match] = shared_deployment.register()
        for room in rooms:
            user.join(room)
        stage.put_rules(user, "global", actions)
        user.put_rule("disabled", "override", "rule", on_all(SILENT))
        user.set_rule_enabled("disabled", "override", "rule", False)
        scopes = [PHONES[repr(row.phone)] for row in TABLE if repr(row.global_) == match]
        for scope, phone_actions in dict(scopes).items():
            stage.put_rules(user, scope, phone_actions)
            fence_off(user, scope)
        fence_off(user, "global")

    with Gateway() as gateway:
        pushers = {}
        for row in TABLE:
            scope, _ = PHONES[repr(row.phone)]
            tags = [scope if tag == "phone" else tag for tag in row.tags]
            pushers[row] = device(users[repr(row.global_)], gateway, tags)

        sent = {stage.send(kind): kind for kind in KINDS}
        fence = alice.send(stage.room, {"body": "fence"}, FENCE)

        made: dict[tuple[str, Row], list[str]] = {(k, row): [] for k in KINDS for row in TABLE}
        for row, pusher in pushers.items():
            for push in pusher.pushes_until(fence):
                made[sent[push.event_id or ""], row].append(push.tweaks.get("sound", ""))
        yield made
    shared_deployment.homeserver.close_sessions()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("row", TABLE, ids=str)
def test_the_first_scope_with_a_match_decides(sounds: Sounds, row: Row, kind: str) -> None:
    assert sounds[kind, row] == ([] if row.result is None else [row.result])


# --- The walk -----------------------------------------------------------------------------------


def test_the_pushers_of_one_user_each_push_with_their_own_tweaks(scene: Scene) -> None:
    scene.bob.put_rule("loud", "override", "r", on_type(THING, SIREN))
    scene.bob.put_rule("shiny", "room", scene.room, on_all(HIGHLIGHT))
    scene.bob.put_rule("global", "override", "r", on_type(THING, NOTIFY))
    loud, shiny = scene.device(["loud", "global"]), scene.device(["shiny"])
    plain, unchanged = scene.device(["missing", "global"]), scene.device()

    event_id = scene.thing()

    got = {d: d.wait_for(event_id) for d in (loud, shiny, plain, unchanged)}
    assert {d: push.tweaks for d, push in got.items()} == {
        loud: {"sound": "siren"},
        shiny: {"highlight": True},
        plain: {},
        unchanged: {},
    }
    assert [got[d].prio for d in (loud, shiny, plain, unchanged)] == ["high", "high", "low", "low"]
    assert {push.counts["unread"] for push in got.values()} == {1}


def test_event_id_only_follows_the_deciding_rule(scene: Scene) -> None:
    scene.bob.put_rule("loud", "override", "r", on_type(THING, SIREN))
    scene.bob.put_rule("calm", "override", "r", on_type(THING, NOTIFY))
    data = {"url": scene.gateway.url, "format": "event_id_only"}
    loud, calm = scene.device(["loud"], data=data), scene.device(["calm"], data=data)

    event_id = scene.thing()

    for pusher, prio in ((loud, "high"), (calm, "low")):
        push = pusher.wait_for(event_id)
        assert push.prio == prio
        assert push.tweaks == {}
        assert push.type is None
        assert push.notification["room_id"] == scene.room


def test_a_rule_about_one_of_two_rooms_leaves_the_other(scene: Scene) -> None:
    other = scene.alice.create_room(preset="public_chat")
    scene.bob.join(other)
    scene.bob.put_rule("phone", "room", scene.room, on_all(SILENT))
    phone = scene.device(["phone", "global"])

    scene.message()
    event_id = scene.alice.send(other, "There")

    assert [push.event_id for push in phone.pushes_until(event_id)] == []


def test_a_room_id_is_compared_exactly(scene: Scene) -> None:
    scene.bob.put_rule("phone", "room", scene.room.upper(), on_all(SIREN))
    scene.bob.put_rule("phone", "room", "!*", on_all(SIREN))
    scene.bob.put_rule("phone", "sender", "@*", on_all(SIREN))
    fence_off(scene.bob, "phone")
    phone = scene.device(["phone"])
    scene.thing()
    assert phone.pushes_until(scene.fence()) == []


def test_muting_everything_in_global_leaves_the_phone_what_it_asked_for(scene: Scene) -> None:
    scene.bob.set_rule_enabled("global", "override", ".m.rule.master", True)
    fire = {"kind": "event_match", "key": "content.body", "pattern": "fire"}
    scene.bob.put_rule("phone", "override", "r", {"conditions": [fire], "actions": SIREN})
    ways = {
        name: scene.device(tags)
        for name, tags in {
            "phone first": ["phone", "global"],
            "global first": ["global", "phone"],
            "only global": ["global"],
            "only phone": ["phone"],
        }.items()
    }

    scene.message("Lunch?")
    event_id = scene.message("The kitchen is on fire")

    assert ways["phone first"].pushes_until(event_id) == []
    assert ways["only phone"].pushes_until(event_id) == []
    assert unread_counts(scene.bob, scene.room)["notification_count"] == 0

    scene.bob.set_rule_enabled("global", "override", ".m.rule.master", False)
    fence = scene.message("It is out")
    assert ways["global first"].pushes_until(fence) == []
    assert ways["only global"].pushes_until(fence) == []


def test_a_server_default_rule_that_was_turned_off_does_not_match(scene: Scene) -> None:
    scene.bob.put_rule("phone", "underride", "r", on_all(SIREN))
    phone = scene.device(["global", "phone"])
    first = scene.message()
    assert phone.wait_for(first).tweaks.get("sound") != "siren"

    for rule in (".m.rule.message", ".m.rule.room_one_to_one"):
        scene.bob.set_rule_enabled("global", "underride", rule, False)
    second = scene.message()

    assert phone.wait_for(second).tweaks == {"sound": "siren"}


def test_a_server_default_rule_that_was_silenced_still_matches(scene: Scene) -> None:
    scene.bob.put_rule("phone", "underride", "r", on_all(SIREN))
    phone = scene.device(["global", "phone"])
    for rule in (".m.rule.message", ".m.rule.room_one_to_one"):
        scene.bob.set_rule_actions("global", "underride", rule, [])

    scene.message()
    event_id = scene.thing()

    assert [push.event_id for push in phone.pushes_until(event_id)] == []
    assert phone.pushes()[-1].tweaks == {"sound": "siren"}


def test_conditions_on_the_user_mean_what_they_mean_in_global(scene: Scene) -> None:
    scene.bob.call(
        "PUT",
        f"/_matrix/client/v3/profile/{scene.bob.user_id}/displayname",
        {"displayname": "Bobby Tables"},
    )
    # Only then into the room: in rooms that he is in, Synapse changes it later on.
    room = scene.alice.create_room(preset="public_chat")
    scene.bob.join(room)
    own_name = {"conditions": [{"kind": "contains_display_name"}], "actions": SIREN}
    scene.bob.put_rule("phone", "override", "name", own_name)
    allowed = {"kind": "sender_notification_permission", "key": "room"}
    scene.bob.put_rule("phone", "underride", "boss", {"conditions": [allowed], "actions": BELL})
    phone = scene.device(["phone"])

    named, boss = scene.thing("Hello Bobby Tables!", room), scene.thing("Hello Bobby", room)
    # The second sender may not notify the room.
    carol = scene.deployment.register()
    carol.join(room)
    carol.send(room, {"body": "Hello"}, THING)
    fence = carol.send(room, {"body": "I met Bobby Tables"}, THING)

    pushes = phone.pushes_until(fence)
    assert [(push.event_id, push.tweaks["sound"]) for push in pushes] == [
        (named, "siren"),
        (boss, "bell"),
    ]


def test_a_silent_event_in_the_phones_scope_still_counts_as_unread(scene: Scene) -> None:
    scene.bob.put_rule("phone", "room", scene.room, on_all(SILENT))
    fence_off(scene.bob, "phone")
    phone = scene.device(["phone", "global"])
    scene.message()
    fence = scene.fence()
    assert phone.pushes_until(fence) == []
    assert unread_counts(scene.bob, scene.room)["notification_count"] == 1


def test_what_a_muted_room_makes_loud_on_the_phone_is_not_counted(scene: Scene) -> None:
    scene.bob.put_rule("global", "room", scene.room, on_all(SILENT))
    scene.bob.put_rule("phone", "room", scene.room, on_all(HIGHLIGHT))
    phone = scene.device(["phone", "global"])

    push = phone.wait_for(scene.message())

    assert push.tweaks == {"highlight": True}
    assert push.counts.get("unread", 0) == 0
    counts = unread_counts(scene.bob, scene.room)
    assert (counts["notification_count"], counts["highlight_count"]) == (0, 0)
    assert notifications(scene.bob) == []


def test_counts_and_notifications_are_those_of_a_user_without_device_rules(scene: Scene) -> None:
    carol = scene.deployment.register()
    carol.join(scene.room)
    for user in (scene.bob, carol):
        user.put_rule("global", "content", "word", {"pattern": "urgent", "actions": HIGHLIGHT})
        user.put_rule("global", "content", "mute", {"pattern": "boring", "actions": SILENT})
    phones = [device(carol, scene.gateway)]
    for n, actions in enumerate((SILENT, SIREN, HIGHLIGHT)):
        scene.bob.put_rule(f"phone{n}", "room", scene.room, on_all(actions))
        phones.append(scene.device([f"phone{n}", "global"]))
    phones.append(scene.device(["global", "phone1"]))

    bodies = ("One", "An urgent one", "A boring one", "urgent and boring", "Last")
    event_ids = [scene.message(body) for body in bodies]

    # Of the last event, on all but the silent phone; and badges are those of `global`.
    pushes = [phones[n].wait_for(event_ids[-1]) for n in (0, 2, 3, 4)]
    assert {push.counts["unread"] for push in pushes} == {1}
    seen = [
        (
            unread_counts(user, scene.room),
            [
                (entry["event"]["event_id"], entry["actions"], entry["read"], entry["room_id"])
                for entry in notifications(user)
            ],
            user.call("GET", "/_matrix/client/v3/notifications?only=highlight&limit=3")[
                "notifications"
            ],
        )
        for user in (scene.bob, carol)
    ]
    for _, _, highlights in seen:
        for entry in highlights:
            entry.pop("profile_tag", None)
            entry["event"].pop("unsigned", None)
    assert seen[0] == seen[1]
    assert len(seen[0][1]) == 3
    assert "msc3837" not in repr(seen)


def test_an_invite_goes_by_the_device_scope(scene: Scene) -> None:
    invited = {"kind": "event_match", "key": "content.membership", "pattern": "invite"}
    member = {"kind": "event_match", "key": "type", "pattern": "m.room.member"}
    me = {"kind": "event_match", "key": "state_key", "pattern": scene.bob.user_id}
    rule = {"conditions": [member, invited, me], "actions": SIREN}
    scene.bob.put_rule("phone", "override", "invites", rule)
    scene.bob.put_rule("calm", "override", "invites", {**rule, "actions": SILENT})
    scene.bob.put_rule("calm", "override", "things", on_type(THING, NOTIFY))
    phone, calm = scene.device(["phone"]), scene.device(["calm", "global"])

    room = scene.alice.create_room(invite=[scene.bob.user_id])
    fence = scene.thing()

    push = scene.gateway.wait_for(pushkey=phone.pushkey)
    assert (push.room_id, push.type, push.tweaks) == (room, "m.room.member", {"sound": "siren"})
    assert push.notification["user_is_target"] is True
    assert calm.pushes_until(fence) == []


def test_a_room_rule_also_matches_the_invite_to_the_room(scene: Scene) -> None:
    room = scene.alice.create_room()
    scene.bob.put_rule("phone", "room", room, on_all(SIREN))
    scene.bob.put_rule("phone", "sender", scene.alice.user_id, on_all(BELL))
    phone = scene.device(["phone", "global"])

    scene.alice.invite(room, scene.bob.user_id)
    push = scene.gateway.wait_for(pushkey=phone.pushkey)
    assert (push.room_id, push.type, push.tweaks["sound"]) == (room, "m.room.member", "siren")

    scene.alice.create_room(invite=[scene.bob.user_id])
    push = scene.gateway.wait_for(lambda push: push.room_id != room, pushkey=phone.pushkey)
    assert (push.type, push.tweaks["sound"]) == ("m.room.member", "bell")


def test_a_sender_rule_is_about_that_sender(scene: Scene) -> None:
    carol = scene.deployment.register()
    carol.join(scene.room)
    scene.bob.put_rule("phone", "sender", carol.user_id, on_all(SIREN))
    phone = scene.device(["phone"])

    scene.thing()
    event_id = carol.send(scene.room, {"body": "Hello"}, THING)

    assert phone.pushes_until(event_id) == []
    assert phone.pushes()[-1].tweaks == {"sound": "siren"}


def test_an_event_by_oneself_never_pushes(scene: Scene) -> None:
    scene.bob.put_rule("phone", "room", scene.room, on_all(SIREN))
    scene.bob.put_rule("phone", "sender", scene.bob.user_id, on_all(SIREN))
    phone = scene.device(["phone", "global"])
    scene.bob.send(scene.room, "To myself")
    assert phone.pushes_until(scene.fence()) == []


def test_no_user_is_affected_by_the_rules_of_another(scene: Scene) -> None:
    carol = scene.deployment.register()
    carol.join(scene.room)
    scene.bob.put_rule("phone", "room", scene.room, on_all(SILENT))
    carol.put_rule("phone", "room", scene.room, on_all(SIREN))
    bobs, carols = scene.device(["phone", "global"]), device(carol, scene.gateway, ["phone"])
    fence_off(scene.bob, "phone")

    event_id = scene.message()

    assert carols.wait_for(event_id).tweaks == {"sound": "siren"}
    assert bobs.pushes_until(scene.fence()) == []


def test_the_order_of_rules_decides_within_a_scope(scene: Scene) -> None:
    bob = scene.bob
    bob.put_rule("phone", "underride", "u", on_all(NOTIFY))
    phone = scene.device(["phone"])

    def sound() -> str | None:
        sound: str | None = phone.wait_for(scene.thing()).tweaks.get("sound")
        return sound

    def sounding(name: str) -> list[Action]:
        return ["notify", {"set_tweak": "sound", "value": name}]

    assert sound() is None
    for kind, rule_id in (
        ("sender", scene.alice.user_id),
        ("room", scene.room),
        ("content", "c"),
        ("override", "o"),
    ):
        body = on_all(sounding(kind))
        bob.put_rule("phone", kind, rule_id, {**body, "pattern": "hello"})
        assert sound() == kind
    bob.put_rule("phone", "override", "o2", on_all(sounding("o2")), after="o")
    assert sound() == "override"
    bob.put_rule("phone", "override", "o3", on_all(sounding("o3")), before="o")
    assert sound() == "o3"
    bob.set_rule_enabled("phone", "override", "o3", False)
    assert sound() == "override"
    bob.delete_rule("phone", "override", "o")
    assert sound() == "o2"
    bob.set_rule_actions("phone", "override", "o2", sounding("new"))
    assert sound() == "new"


def test_the_old_profile_tag_means_nothing(scene: Scene) -> None:
    scene.bob.put_rule("phone", "room", scene.room, on_all(SILENT))
    pusher = scene.device(profile_tag="phone")
    pusher.wait_for(scene.message())
    stored = pusher.stored()
    assert stored is not None
    assert (stored["profile_tag"], stored["profile_tags"]) == ("phone", ["global"])


def test_a_reply_in_a_thread_goes_by_the_device_scope(scene: Scene) -> None:
    scene.bob.put_rule("global", "room", scene.room, on_all(SILENT))
    scene.bob.put_rule("phone", "content", "r", {"pattern": "fire", "actions": SIREN})
    phone = scene.device(["phone", "global"])
    root = scene.message("Lunch?")
    relation = {"rel_type": "m.thread", "event_id": root}
    reply = {"msgtype": "m.text", "body": "It is on fire", "m.relates_to": relation}

    event_id = scene.alice.send(scene.room, reply)

    assert phone.pushes_until(event_id) == []


# --- Between evaluation and push ----------------------------------------------------------------


def failing(scene: Scene, tags: Sequence[str]) -> Device:
    """A pusher whose gateway fails for now."""
    pusher = scene.device(tags)
    scene.gateway.behave(pusher.pushkey, Behaviour.ERROR)
    return pusher


def delivered(pusher: Device) -> list[tuple[str | None, JsonDict]]:
    """What the gateway accepted."""
    return [(p.event_id, p.tweaks) for p in pusher.pushes() if p.behaviour is Behaviour.OK]


def wait_for_delivery(pusher: Device, event_id: str) -> None:
    pusher.gateway.wait_for(
        lambda push: push.behaviour is Behaviour.OK, pushkey=pusher.pushkey, event_id=event_id
    )


def test_a_rule_changed_after_an_event_does_not_change_its_outcome(scene: Scene) -> None:
    scene.bob.put_rule("phone", "override", "r", on_body("first", SIREN))
    scene.bob.put_rule("phone", "override", "s", on_body("second", SILENT))
    pusher = failing(scene, ["phone", "global"])
    first = scene.thing("first")
    pusher.wait_for(first)
    scene.message("second")

    scene.bob.set_rule_actions("phone", "override", "r", [])
    scene.bob.set_rule_actions("phone", "override", "s", BELL)
    scene.bob.put_rule("global", "override", "all", on_all(SILENT))
    scene.thing("first")
    fourth = scene.message("second")
    scene.gateway.behave(pusher.pushkey, Behaviour.OK)

    wait_for_delivery(pusher, fourth)
    assert delivered(pusher) == [(first, {"sound": "siren"}), (fourth, {"sound": "bell"})]


def test_deleting_a_scope_does_not_undo_what_it_decided(scene: Scene) -> None:
    scene.bob.put_rule("phone", "override", "r", on_type(THING, SIREN))
    pusher = failing(scene, ["phone", "global"])
    first = scene.thing()
    pusher.wait_for(first)
    scene.bob.delete_rule("phone", "override", "r")
    scene.gateway.behave(pusher.pushkey, Behaviour.OK)
    wait_for_delivery(pusher, first)
    assert delivered(pusher) == [(first, {"sound": "siren"})]


def test_what_was_read_meanwhile_is_not_pushed(scene: Scene) -> None:
    scene.bob.put_rule("global", "room", scene.room, on_all(SILENT))
    scene.bob.put_rule("phone", "room", scene.room, on_all(SIREN))
    pusher = failing(scene, ["phone", "global"])
    first = scene.thing("one")
    pusher.wait_for(first)
    second = scene.thing("two")
    scene.bob.read(scene.room, second)
    third = scene.thing("three")
    # Once the gateway sees this one, no attempt from before the receipt is on its way.
    pusher.wait_for(third)
    scene.gateway.behave(pusher.pushkey, Behaviour.OK)
    wait_for_delivery(pusher, third)
    assert delivered(pusher) == [(third, {"sound": "siren"})]


# --- When something of ours is broken -----------------------------------------------------------


def fallbacks(deployment: Deployment) -> float:
    """How often the module fell back to what Synapse does, by its metric."""
    lines = deployment.metrics().splitlines()
    name = "synapse_msc3881_fallbacks_total{"
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


@pytest.mark.parametrize("column", ["conditions", "actions", "kind"])
def test_a_broken_row_costs_its_user_that_row(scene: Scene, column: str) -> None:
    carol = scene.deployment.register()
    carol.join(scene.room)
    for user in (scene.bob, carol):
        user.put_rule("phone", "underride", "fine", on_type(THING, SIREN))
        user.put_rule("phone", "override", "r", on_type(THING, SILENT))
        user.put_rule("global", "override", "r", on_type(THING, BELL))
    bobs = scene.device(["phone", "global"])
    carols = device(carol, scene.gateway, ["phone", "global"])
    scene.deployment.sql(
        f"UPDATE synapse_msc3881_device_rules SET {column} = 'broken'"
        " WHERE user_id = ? AND rule_id = 'r'",
        [scene.bob.user_id],
    )
    before = fallbacks(scene.deployment)

    event_id = scene.thing()

    assert bobs.wait_for(event_id).tweaks == {"sound": "siren"}
    fence_off(carol, "phone")
    assert carols.pushes_until(scene.fence()) == []
    assert fallbacks(scene.deployment) > before
    errors = [line for line in scene.deployment.log_text().splitlines() if " ERROR " in line]
    assert any(scene.bob.user_id in line and "'r' of the device scope" in line for line in errors)
    assert unread_counts(scene.bob, scene.room)["notification_count"] == 1

# SPDX-License-Identifier: AGPL-3.0-or-later
"""`GET …/explain/{room_id}/{event_id}`: why did my phone (not) ring?"""

import json
import time

import pytest

from demo.client import JsonDict, Session
from demo.gateway import Behaviour, Gateway
from tests.conftest import FreshDeployment
from tests.harness.deployment import Deployment
from tests.harness.waiting import wait_until
from tests.server.cascade_helpers import (
    EXPLAIN,
    NOTIFY,
    SILENT,
    SIREN,
    THING,
    Device,
    Scene,
    ask,
    device,
    explained,
    failing_since,
    make_scene,
    on_all,
    on_type,
    wait_until_recorded,
)
from tests.server.helpers import assert_ok, assert_refused
from tests.server.mail_server import MailServer, mail_pusher


def at(answer: JsonDict, device: Device) -> JsonDict:
    (found,) = (one for one in answer["pushers"] if one["pushkey"] == device.pushkey)
    return dict(found)


# --- What was decided, and what became of it ----------------------------------------------------


def test_each_pusher_is_explained(scene: Scene) -> None:
    bob = scene.bob
    bob.put_rule("phone", "override", "things", on_type(THING, SIREN))
    bob.put_rule("quiet", "room", scene.room, on_all(SILENT))
    phone = scene.device(["phone", "global"])
    quiet = scene.device(["phoney", "quiet", "phone"])
    plain = scene.device()
    before = int(time.time() * 1000)

    event_id = scene.thing()
    phone.wait_for(event_id)
    wait_until_recorded(scene.deployment, phone, event_id)

    answer = explained(scene, event_id)
    assert answer["recorded"] is True
    assert (answer["room_id"], answer["event_id"]) == (scene.room, event_id)
    assert answer["read"] is False
    now = int(time.time() * 1000)
    assert before <= answer["received_ts"] <= now

    rang = at(answer, phone)
    assert rang["device_id"] == bob.device_id
    assert rang["walk"] == [
        {
            "profile_tag": "phone",
            "result": "notify",
            "rule": "override/things",
            "actions": SIREN,
        }
    ]
    assert rang["outcome"] == "push"
    assert rang["delivery"].keys() == {"state", "sent_ts"}
    assert rang["delivery"]["state"] == "sent"
    assert answer["received_ts"] <= rang["delivery"]["sent_ts"] <= now

    silenced = at(answer, quiet)
    assert silenced["walk"] == [
        {"profile_tag": "phoney", "result": "no_match"},
        {
            "profile_tag": "quiet",
            "result": "silent",
            "rule": f"room/{scene.room}",
            "actions": [],
        },
    ]
    assert silenced["outcome"] == "silent"
    assert silenced["delivery"] == {"state": "not_sent", "reason": "silent"}

    # No rule of `global` notifies of such an event: its row is there for the phone alone.
    ordinary = at(answer, plain)
    assert ordinary["walk"] == [{"profile_tag": "global", "result": "not_notifying"}]
    assert ordinary["delivery"] == {"state": "not_sent", "reason": "no_match"}


def test_a_rule_that_is_gone_or_written_anew(scene: Scene) -> None:
    bob = scene.bob
    for name in ("first", "second"):
        bob.put_rule(name, "override", "things", on_type(THING, SIREN))
    phone, tablet = scene.device(["first"]), scene.device(["second"])
    event_id = scene.thing()
    for pusher in (phone, tablet):
        pusher.wait_for(event_id)

    bob.delete_rule("first", "override", "things")
    bob.put_rule("second", "override", "things", on_type(THING, SILENT))

    answer = explained(scene, event_id)
    assert at(answer, phone)["walk"] == [
        {"profile_tag": "first", "result": "notify", "actions": SIREN}
    ]
    assert at(answer, tablet)["walk"] == [
        {
            "profile_tag": "second",
            "result": "notify",
            "rule": "override/things",
            "actions": SIREN,
        }
    ]


def test_what_global_decided_is_told_by_its_actions(scene: Scene) -> None:
    plain = scene.device()
    event_id = scene.message()
    plain.wait_for(event_id)
    wait_until_recorded(scene.deployment, plain, event_id)

    found = at(explained(scene, event_id), plain)

    (step,) = found["walk"]
    assert (step["profile_tag"], step["result"]) == ("global", "notify")
    assert "notify" in step["actions"]
    assert "rule" not in step
    assert found["delivery"]["state"] == "sent"


def test_a_push_that_fails_is_waiting(scene: Scene) -> None:
    scene.bob.put_rule("phone", "room", scene.room, on_all(NOTIFY))
    phone = scene.device(["phone"])
    scene.gateway.behave(phone.pushkey, Behaviour.ERROR)
    before = int(time.time() * 1000)
    event_id = scene.thing()
    phone.wait_for(event_id)
    # Not by asking for explanations, of which there are only so many in a second.
    wait_until(lambda: failing_since(scene.deployment, phone) is not None, "a failure")

    found = at(explained(scene, event_id), phone)
    assert found["delivery"] == {"state": "waiting"}
    assert found["failing_since"] >= before
    assert found["outcome"] == "push"

    # Reading it ends the waiting. Synapse tidies the row away within half a minute.
    scene.bob.read(scene.room, event_id)
    answer = explained(scene, event_id)
    assert answer["read"] is True
    if answer["recorded"]:
        assert at(answer, phone)["delivery"] == {"state": "not_sent", "reason": "read"}


def test_a_disabled_pusher_is_told(scene: Scene) -> None:
    scene.bob.put_rule("phone", "room", scene.room, on_all(NOTIFY))
    phone, off = scene.device(["phone"]), scene.device(["phone"], enabled=False)
    event_id = scene.thing()
    phone.wait_for(event_id)
    found = at(explained(scene, event_id), off)
    assert found["enabled"] is False
    assert found["outcome"] == "push"
    assert found["delivery"] == {"state": "not_sent", "reason": "disabled"}


def test_what_a_pusher_did_before_it_was_set_is_not_claimed(scene: Scene) -> None:
    scene.bob.put_rule("phone", "room", scene.room, on_all(NOTIFY))
    phone, mute = scene.device(["phone"]), scene.device(["other"])
    event_id = scene.thing()
    phone.wait_for(event_id)
    wait_until_recorded(scene.deployment, phone, event_id)

    phone.set(profile_tags=["other"])
    mute.set(profile_tags=["phone"])

    answer = explained(scene, event_id)
    # It did send it, with the tags that it had then; only that it was set since is recorded.
    assert at(answer, phone)["delivery"] == {"state": "unknown", "reason": "set_since"}
    # This one has never sent anything.
    assert at(answer, mute)["delivery"] == {"state": "not_sent", "reason": "set_since"}


@pytest.mark.one_deployment
def test_a_mail_is_told(fresh_deployment: FreshDeployment, gateway: Gateway) -> None:
    with MailServer() as mail_server:
        email = {
            "smtp_host": "127.0.0.1",
            "smtp_port": mail_server.port,
            "require_transport_security": False,
            "enable_tls": False,
            "notif_from": "Matrix <noreply@synapse.test>",
            "enable_notifs": True,
            "notif_delay_before_mail": "3s",
        }
        scene = make_scene(fresh_deployment(extra={"email": email}), gateway)
        scene.bob.put_rule("mail", "room", scene.room, on_all(NOTIFY))
        address = mail_pusher(scene.deployment, scene.bob, ["mail"])

        def mailed(event_id: str) -> JsonDict:
            (found,) = explained(scene, event_id)["pushers"]
            return dict(found)

        mail_server.hold()
        event_id = scene.message()
        assert mailed(event_id)["delivery"] == {"state": "waiting"}
        mail_server.release()
        mail_server.wait_for(address)
        # The last thing that Synapse writes of a mail.
        throttles = (
            "SELECT 1 FROM pusher_throttle AS t JOIN pushers AS p ON p.id = t.pusher"
            " WHERE p.pushkey = ?"
        )
        wait_until(lambda: scene.deployment.sql(throttles, [address]) != [], "the throttle")
        found = mailed(event_id)
        assert found["delivery"] == {"state": "sent", "sent_by_ts": found["last_success"]}
        # A mail about this room comes after that time only.
        received = explained(scene, event_id)["received_ts"]
        assert found["throttled_until"] >= received + 6000


# --- Nothing recorded ---------------------------------------------------------------------------


def test_what_nothing_notifies_of_is_not_recorded(scene: Scene) -> None:
    scene.bob.put_rule("phone", "room", scene.room, on_all(SILENT))
    phone = scene.device(["phone", "global"])
    answer = explained(scene, scene.thing())
    assert answer["recorded"] is False
    assert answer["not_recorded"] == ["nothing_notifies"]
    found = at(answer, phone)
    assert found["enabled"] is True
    assert "walk" not in found


def test_ones_own_event_is_not_recorded(scene: Scene) -> None:
    scene.device()
    answer = explained(scene, scene.bob.send(scene.room, "mine"))
    assert answer["not_recorded"] == ["own_event"]


def test_a_redacted_event_is_not_recorded_any_more(scene: Scene) -> None:
    scene.device()
    event_id = scene.message()
    assert explained(scene, event_id)["recorded"] is True
    scene.alice.redact(scene.room, event_id)
    wait_until(lambda: not explained(scene, event_id)["recorded"], "the redaction")
    assert explained(scene, event_id)["not_recorded"] == ["redacted", "nothing_notifies"]


def test_what_was_read_or_is_old_may_have_been_recorded(scene: Scene) -> None:
    """As after Synapse's rotation, which takes half a minute or a day."""
    scene.device()
    event_id = scene.message()
    scene.bob.read(scene.room, event_id)
    scene.deployment.sql("DELETE FROM event_push_actions WHERE event_id = ?", [event_id])
    assert explained(scene, event_id)["not_recorded"] == ["read", "nothing_notifies"]
    scene.deployment.sql(
        "UPDATE events SET received_ts = received_ts - 86400000 WHERE event_id = ?", [event_id]
    )
    assert explained(scene, event_id)["not_recorded"] == ["read", "old", "nothing_notifies"]


# --- What was tampered with ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "row",
    [
        "{",
        "5",
        '["notify", {"org.matrix.msc3837.outcomes": 5}]',
        '["notify", {"org.matrix.msc3837.outcomes": {"phone": {"a": 1}}}]',
    ],
)
def test_a_corrupt_row_is_explained_as_it_is_pushed(
    deployment: Deployment, scene: Scene, row: str
) -> None:
    scene.bob.put_rule("phone", "room", scene.room, on_all(SIREN))
    phone = scene.device(["phone", "global"])
    event_id = scene.message()
    phone.wait_for(event_id)
    deployment.sql("UPDATE event_push_actions SET actions = ? WHERE event_id = ?", [row, event_id])
    deployment.sql(
        "UPDATE synapse_msc3881_pusher_tags SET profile_tags = '5' WHERE user_id = ?",
        [scene.bob.user_id],
    )
    answer = explained(scene, event_id)
    assert answer["evaluation_failed"] is True
    found = at(answer, phone)
    assert found["profile_tags"] == ["global"]
    assert [step["profile_tag"] for step in found["walk"]] == ["global"]
    assert found["outcome"] == "push"


# --- Whose business it is -----------------------------------------------------------------------


def test_an_invisible_event_is_answered_as_an_unknown_one(scene: Scene) -> None:
    secret = scene.alice.create_room(preset="private_chat")
    hidden = scene.alice.send(secret, "a secret")
    stranger = scene.deployment.register()
    seen = scene.message()
    unknown = "$" + "x" * 43

    answers = {
        ask(stranger, room, event_id).body
        for room, event_id in (
            (secret, hidden),
            (secret, unknown),
            ("!nowhere:synapse.test", hidden),
            ("!nowhere:synapse.test", unknown),
            (secret, seen),  # Another room's.
        )
    }

    assert len(answers) == 1
    refused = ask(stranger, secret, hidden)
    assert_refused(refused, 404, "M_NOT_FOUND")
    assert {refused.body} == answers


def test_what_came_before_one_joined_is_hidden_where_the_room_hides_it(scene: Scene) -> None:
    room = scene.alice.create_room(
        preset="public_chat",
        initial_state=[
            {
                "type": "m.room.history_visibility",
                "state_key": "",
                "content": {"history_visibility": "joined"},
            }
        ],
    )
    before = scene.alice.send(room, "before")
    scene.bob.join(room)
    after = scene.alice.send(room, "after")
    assert_refused(ask(scene.bob, room, before), 404, "M_NOT_FOUND")
    assert_ok(ask(scene.bob, room, after))


def test_an_invite_that_rang_is_explained_to_whom_it_was_for(
    scene: Scene, gateway: Gateway
) -> None:
    carol, dan = scene.deployment.register(), scene.deployment.register()
    room = scene.alice.create_room(preset="private_chat")
    phone = device(carol, gateway)
    scene.alice.invite(room, carol.user_id)
    rang = gateway.wait_for(lambda push: not push.is_badge_update, pushkey=phone.pushkey)
    assert rang.event_id is not None
    wait_until_recorded(scene.deployment, phone, rang.event_id)

    response = ask(carol, room, rang.event_id)
    assert_ok(response)
    (pusher,) = response.json["pushers"]
    assert (pusher["outcome"], pusher["delivery"]["state"]) == ("push", "sent")

    # It is for nobody else, and other events of the room are not for the invited.
    before = scene.alice.send(room, "before")
    assert_refused(ask(dan, room, rang.event_id), 404, "M_NOT_FOUND")
    assert_refused(ask(carol, room, before), 404, "M_NOT_FOUND")
    assert_refused(ask(carol, scene.room, rang.event_id), 404, "M_NOT_FOUND")
    # Turned down, it still rang.
    carol.leave(room)
    assert_ok(ask(carol, room, rang.event_id))


def test_one_sees_ones_own_pushers_only(scene: Scene) -> None:
    carol = scene.deployment.register()
    carol.join(scene.room)
    carol.put_rule("phone", "room", scene.room, on_all(SIREN))
    carol.set_pusher("of-carol", "org.example.app", scene.gateway.url, profile_tags=["phone"])
    mine = scene.device()
    event_id = scene.message()
    mine.wait_for(event_id)
    answer = explained(scene, event_id)
    assert [pusher["pushkey"] for pusher in answer["pushers"]] == [mine.pushkey]
    assert "siren" not in json.dumps(answer)
    assert "carol" not in json.dumps(answer)


# --- Bad input, and too much --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("room", "event_id", "names"),
    [
        ("%23room:synapse.test", "%24x", "room_id"),
        ("", "%24x", "room_id"),
        ("%21x", "", "event_id"),
        ("%21x", "x", "event_id"),
        ("%21x%00", "%24x", "room_id"),
        ("%21x", "%24x%00", "event_id"),
        ("%21x", "%24" + "x" * 255, "event_id"),
        ("%21" + "%C3%A4" * 128, "%24x", "room_id"),
    ],
)
def test_what_is_no_id_is_refused(alice: Session, room: str, event_id: str, names: str) -> None:
    response = alice.request("GET", f"{EXPLAIN}/{room}/{event_id}")
    assert_refused(response, 400, "M_INVALID_PARAM", names=names)


@pytest.mark.parametrize("event_id", ["%24x%FF", "%24%2F..%2F", "%24%ED%A0%80", "%24%25"])
def test_strange_ids_are_unknown(alice: Session, event_id: str) -> None:
    response = alice.request("GET", f"{EXPLAIN}/%21x/{event_id}")
    assert_refused(response, 404, "M_NOT_FOUND")


def test_a_token_is_needed(alice: Session) -> None:
    response = alice.request("GET", f"{EXPLAIN}/%21x/%24x", token=False)
    assert_refused(response, 401, "M_MISSING_TOKEN")


def test_other_methods_are_not_there(alice: Session) -> None:
    assert_refused(alice.request("PUT", f"{EXPLAIN}/%21x/%24x", {}), 405, "M_UNRECOGNIZED")


def test_asking_too_often_is_refused(deployment: Deployment, alice: Session, bob: Session) -> None:
    deployment.sql("INSERT INTO ratelimit_override VALUES (?, 0, 0)", [bob.user_id])
    answers = [ask(alice, "!x", "$x") for _ in range(50)]
    assert {response.status for response in answers} == {404}

    further = (ask(alice, "!x", "$x") for _ in range(1000))
    limited = next(response for response in further if response.status != 404)

    assert_refused(limited, 429, "M_LIMIT_EXCEEDED")
    assert limited.json["retry_after_ms"] > 0
    # Each user has a limit of their own, and an admin may lift it.
    assert {ask(bob, "!x", "$x").status for _ in range(100)} == {404}

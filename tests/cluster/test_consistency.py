# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is written on one process is in force on the others within the replication delay."""

from collections.abc import Callable
from urllib.parse import quote

import attr
import pytest

from demo.client import JsonDict, Session, path
from demo.gateway import Behaviour, Gateway
from tests.cluster.syncing import (
    assert_eventually,
    push_rules_in,
    until_push_rules,
    waiting_sync,
)
from tests.harness.cluster import (
    CLIENT_WORKERS,
    MAIN,
    PUSH_RULES_WRITER,
    PUSHERS,
    WORKERS,
    Cluster,
)
from tests.server.cascade_helpers import (
    BELL,
    FENCE,
    NOTIFY,
    SILENT,
    SIREN,
    THING,
    Device,
    fence_off,
    make_scene,
    new_pushkey,
    on_all,
    on_body,
    on_type,
)


@attr.s(auto_attribs=True, frozen=True)
class Actor:
    """A user with a session on each process that clients talk to."""

    cluster: Cluster
    user: Session

    def on(self, name: str) -> Session:
        """The user's session on one process, which does not wait for the others."""
        return self.cluster.session_on(self.user, name)

    @property
    def writer(self) -> Session:
        return self.on(PUSH_RULES_WRITER)

    @property
    def main(self) -> Session:
        return self.on(MAIN)


@attr.s(auto_attribs=True, frozen=True)
class Stage:
    """Alice, who sends; Bob, who is pushed to; a room with both."""

    cluster: Cluster
    gateway: Gateway
    alice: Actor
    bob: Actor
    room: str

    def device(self, **fields: object) -> Device:
        """A new pusher of Bob's, set on the main process."""
        made = Device(self.bob.main, new_pushkey(), self.gateway)
        made.set(**fields)
        return made

    def thing(self, worker: str, body: str = "Hello", event_type: str = THING) -> str:
        """Alice sends an event through one of the client workers."""
        return self.alice.on(worker).send(self.room, {"body": body}, event_type)


@pytest.fixture
def stage(cluster: Cluster, gateway: Gateway) -> Stage:
    scene = make_scene(cluster, gateway)
    cluster.settle()
    return Stage(
        cluster, gateway, Actor(cluster, scene.alice), Actor(cluster, scene.bob), scene.room
    )


# --- Rules --------------------------------------------------------------------------------------


@pytest.mark.parametrize("worker", CLIENT_WORKERS)
def test_a_rule_is_in_force_on_each_process_that_evaluates(stage: Stage, worker: str) -> None:
    phone = stage.device(profile_tags=["phone"])
    fence_off(stage.bob.writer, "phone")

    def sound_of_the_next() -> object:
        event_id = stage.thing(worker)
        fence = stage.thing(worker, event_type=FENCE)
        # Both client workers have known the fence since before the rule that is looked at.
        phone.wait_for(fence)
        push = next((p for p in phone.pushes() if p.event_id == event_id), None)
        return None if push is None else push.tweaks.get("sound", "")

    stage.cluster.settle()
    assert sound_of_the_next() is None
    for actions, sound in ((SIREN, "siren"), (BELL, "bell"), (SILENT, None)):
        stage.bob.writer.put_rule("phone", "room", stage.room, on_all(actions))
        assert_eventually(sound_of_the_next, lambda heard, sound=sound: heard == sound)  # type: ignore[misc]
    stage.bob.writer.set_rule_actions("phone", "room", stage.room, NOTIFY)
    assert_eventually(sound_of_the_next, lambda heard: heard == "")
    stage.bob.writer.set_rule_enabled("phone", "room", stage.room, False)
    assert_eventually(sound_of_the_next, lambda heard: heard is None)


def test_after_the_replication_delay_the_very_next_event_goes_by_the_rule(stage: Stage) -> None:
    phone = stage.device(profile_tags=["phone", "global"])
    for n in range(5):
        stage.bob.writer.put_rule("phone", "override", f"r{n}", on_body(f"{n}", SIREN))
        stage.cluster.settle()
        event_id = stage.thing(CLIENT_WORKERS[n % 2], f"{n}")
        assert phone.wait_for(event_id).tweaks == {"sound": "siren"}


@pytest.mark.parametrize("worker", [*CLIENT_WORKERS, MAIN, PUSH_RULES_WRITER])
def test_a_waiting_sync_on_any_process_returns_each_change(stage: Stage, worker: str) -> None:
    """The first change is the user's very first device rule."""
    bob = stage.bob.on(worker)
    since = bob.sync()["next_batch"]
    changes: list[tuple[Callable[[Session], None], Callable[[JsonDict], bool]]] = [
        (
            lambda s: s.put_rule("phone", "room", "!a", on_all(SIREN)),
            lambda rules: rules["device"]["phone"]["room"][0]["actions"] == SIREN,
        ),
        (
            lambda s: s.set_rule_enabled("phone", "room", "!a", False),
            lambda rules: rules["device"]["phone"]["room"][0]["enabled"] is False,
        ),
        (lambda s: s.delete_rule("phone", "room", "!a"), lambda rules: "device" not in rules),
    ]
    for change, shows in changes:
        with waiting_sync(bob, since) as answered:
            change(stage.bob.writer)
            answer = until_push_rules(bob, answered())
        rules = push_rules_in(answer)
        assert rules is not None
        assert shows(rules)
        since = answer["next_batch"]


@pytest.mark.parametrize("worker", [*CLIENT_WORKERS, MAIN])
def test_reading_agrees_on_each_process(stage: Stage, worker: str) -> None:
    stage.bob.writer.put_rule("a/b", "override", "r", on_type(THING, SIREN))
    bob = stage.bob.on(worker)
    rules = bob.get_rules()
    assert rules["device"]["a/b"]["override"][0]["rule_id"] == "r"
    assert bob.get_rules("a/b") == rules["device"]["a/b"]
    data = bob.call("GET", path("user", bob.user_id, "account_data", "m.push_rules"))
    assert data["device"] == rules["device"]


@pytest.mark.parametrize("worker", [*CLIENT_WORKERS, MAIN])
def test_a_process_that_does_not_write_push_rules_says_so(stage: Stage, worker: str) -> None:
    """Synapse answers 500 to the same request for `global`; a wrong proxy should be easy to see."""
    bob = stage.bob.on(worker)
    refused = bob.request("PUT", path("pushrules", "device", "phone", "room", "!a"), on_all(SIREN))
    assert refused.status == 405
    assert PUSH_RULES_WRITER in refused.json["error"]
    assert stage.bob.writer.request("GET", path("pushrules", "device", "phone", "")).status == 404


@pytest.mark.parametrize("worker", [name for name, served in WORKERS.items() if "client" in served])
def test_each_process_tells_of_the_proposals(stage: Stage, worker: str) -> None:
    for token in (True, False):
        answer = stage.bob.on(worker).call("GET", "/_matrix/client/versions", token=token)
        for flag in ("org.matrix.msc3881", "org.matrix.msc3881.stable", "org.matrix.msc3837"):
            assert answer["unstable_features"][flag] is True


# --- Tags ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("worker", CLIENT_WORKERS)
def test_tags_are_in_force_on_each_process_that_evaluates(stage: Stage, worker: str) -> None:
    """Also of a user who had none: only a device scope makes this event a push."""
    stage.bob.writer.put_rule("phone", "override", "r", on_type(THING, SIREN))
    phone = stage.device(profile_tags=["phone"])
    stage.cluster.settle()

    first = stage.thing(worker)
    assert phone.wait_for(first).tweaks == {"sound": "siren"}

    phone.set(profile_tags=["other"])
    stage.bob.writer.put_rule("other", "override", "r", on_type(THING, BELL))
    stage.cluster.settle()
    second = stage.thing(worker)
    assert phone.wait_for(second).tweaks == {"sound": "bell"}


# --- Toggles ------------------------------------------------------------------------------------


@pytest.mark.parametrize("pusher_worker", PUSHERS)
def test_a_toggle_stops_the_pusher_on_its_worker(
    cluster: Cluster, gateway: Gateway, pusher_worker: str
) -> None:
    scene = make_scene(cluster, gateway)
    while cluster.pusher_of(scene.bob) != pusher_worker:
        scene = make_scene(cluster, gateway)
    phone, desktop = scene.device(["global"]), scene.device(["global"])
    first = scene.message()
    phone.wait_for(first)

    phone.set(enabled=False)
    second = scene.message()
    desktop.wait_for(second)
    phone.set(enabled=True)
    third = scene.message()

    phone.wait_for(third)
    assert phone.event_ids() == [first, third]
    log = cluster.log_text()
    stopped = f"Stopping pusher {scene.bob.user_id}"
    assert any(stopped in line and f" {pusher_worker} " in line for line in log.splitlines())


def test_a_toggle_ends_a_retry_loop_on_the_pusher_worker(stage: Stage) -> None:
    phone = stage.device()
    stage.gateway.behave(phone.pushkey, Behaviour.ERROR)
    first = stage.alice.on("client1").send(stage.room, "one")
    phone.wait_for(first)

    phone.set(enabled=False)
    stage.cluster.settle()
    phone.set(enabled=True)
    stage.cluster.settle()
    # Refused still, or else a try of the first that was under way would be accepted.
    second = stage.alice.on("client2").send(stage.room, "two")
    phone.wait_for(second)
    stage.gateway.behave(phone.pushkey, Behaviour.OK)
    last = stage.alice.on("client1").send(stage.room, "three")

    phone.wait_for(last)
    accepted = [p.event_id for p in phone.pushes() if p.behaviour is Behaviour.OK]
    assert accepted == [second, last]


def test_a_rejected_pushkey_is_removed_with_its_tags_from_a_pusher_worker(stage: Stage) -> None:
    phone = stage.device(profile_tags=["phone", "global"])
    stage.gateway.behave(phone.pushkey, Behaviour.REJECT)
    stage.cluster.settle()
    stage.alice.on("client1").send(stage.room, "one")
    assert_eventually(phone.stored, lambda stored: stored is None)
    assert_eventually(
        lambda: stage.cluster.sql(
            "SELECT * FROM synapse_msc3881_pusher_tags WHERE pushkey = ?", [phone.pushkey]
        ),
        lambda rows: not rows,
    )


@pytest.mark.parametrize("worker", [*CLIENT_WORKERS, PUSH_RULES_WRITER, MAIN])
def test_each_process_explains_what_was_pushed_from_another(stage: Stage, worker: str) -> None:
    stage.bob.writer.put_rule("phone", "room", stage.room, on_all(SIREN))
    phone = stage.device(profile_tags=["phone"])
    stage.cluster.settle()
    event_id = stage.thing(CLIENT_WORKERS[0])
    phone.wait_for(event_id)
    asked = quote(stage.room, safe=""), quote(event_id, safe="")
    where = "/".join(["/_matrix/client/unstable/org.matrix.msc3837/explain", *asked])

    def became() -> JsonDict:
        (found,) = stage.bob.on(worker).call("GET", where)["pushers"]
        return dict(found)

    found = assert_eventually(became, lambda pusher: pusher["delivery"]["state"] == "sent")
    assert [step.get("rule") for step in found["walk"]] == [f"room/{stage.room}"]

# SPDX-License-Identifier: AGPL-3.0-or-later
"""What pushers do with what was decided: drop, push, stop, start again (specification 2 and 5)."""

import re
import time
from collections.abc import Mapping
from email import message_from_bytes
from email.message import Message

import pytest

from demo.gateway import Behaviour, Gateway, Push
from synapse_msc3881 import seams
from tests.conftest import FreshDeployment
from tests.harness import copied_events, metrics
from tests.harness.deployment import Deployment
from tests.harness.waiting import wait_until
from tests.server.cascade_helpers import (
    NOTIFY,
    SILENT,
    SIREN,
    THING,
    Device,
    Scene,
    device,
    failing_since,
    fence_off,
    make_scene,
    on_all,
    on_body,
    position,
    stream_ordering,
    tags_in_database,
    wait_until_recorded,
)
from tests.server.mail_server import MailServer, email_config, mail_pusher, set_mail_pusher

# Synapse tries again after 1 s, then 2 s: what did not come in this time will not come.
LONGER_THAN_THE_FIRST_RETRY, LONGER_THAN_A_RETRY = 1.5, 2.5

# How long a server waits with a mail that is to be sent late.
LATE_SECONDS = 40

# How long Synapse waits with one more mail about a room, in milliseconds.
TEN_MINUTES, A_DAY = 600_000, 86_400_000


@pytest.fixture(scope="module")
def own_deployment(
    module_deployment: FreshDeployment, mail_server: MailServer, addresses: Mapping[str, str]
) -> Deployment:
    """A server that a test may restart, and that sends its mails to ours, at once."""
    assert addresses  # What is mailed late is begun first, and waited for last.
    extra = {
        "email": email_config(mail_server, delay="0s"),
        "experimental_features": {"msc4076_enabled": True},
    }
    return module_deployment(extra=extra)


def in_flight(deployment: Deployment, process: str) -> float:
    """How many of Synapse's background processes of that name are at work."""
    name = "synapse_background_process_in_flight_count"
    samples = metrics.scrape(deployment)
    assert any(s.name == name and s.labels["name"] == process for s in samples), process
    return metrics.value(samples, name, name=process)


def wait_until_pushers_rest(deployment: Deployment) -> None:
    """Return when the gateway has seen all pushes that were under way.

    What comes later, a timer brings, or something new.
    """
    deployment.settle()
    wait_until(lambda: in_flight(deployment, "httppush.process") == 0, "the pushers at rest")


def nothing_comes(pusher: Device, seconds: float) -> bool:
    """Whether nothing at all reaches the gateway for a pusher in a while, badges included."""
    before = len(pusher.gateway.pushes(pusher.pushkey))
    time.sleep(seconds)
    return len(pusher.gateway.pushes(pusher.pushkey)) == before


def decisions(deployment: Deployment) -> float:
    """How many events pushers have decided about since the server's start."""
    return metrics.value(metrics.scrape(deployment), metrics.DECISIONS)


def disable(pusher: Device, tags: list[str]) -> None:
    pusher.set(enabled=False, profile_tags=tags)


# --- Dropping -----------------------------------------------------------------------------------


def test_after_200_dropped_events_the_next_is_pushed_and_never_again(
    own_deployment: Deployment, gateway: Gateway
) -> None:
    deployment = own_deployment
    scene = make_scene(deployment, gateway)
    scene.bob.put_rule("phone", "room", scene.room, on_all(SILENT))
    scene.bob.put_rule("phone", "override", "alarm", on_body("alarm", SIREN))
    phone, native = scene.device(["phone", "global"]), scene.device()
    started_at = position(deployment, phone)

    for number in range(200):
        scene.message(f"Number {number}")
    alarm = scene.message("alarm")

    assert phone.pushes_until(alarm) == []
    ordering = stream_ordering(deployment, alarm)
    assert started_at < ordering
    wait_until(lambda: position(deployment, phone) == ordering, "the position of the phone")
    native.wait_for(alarm)

    # What is dropped after the last push is dropped again after a restart.
    last_dropped = scene.message("One more")
    native.wait_for(last_dropped)
    deployment.restart()
    again = scene.message("alarm")
    phone.wait_for(again)
    assert phone.event_ids() == [alarm, again]


def test_a_pusher_that_was_off_the_air_walks_its_tags_at_the_restart(
    own_deployment: Deployment, gateway: Gateway
) -> None:
    deployment = own_deployment
    scene = make_scene(deployment, gateway)
    scene.bob.put_rule("global", "room", scene.room, on_all(SILENT))
    scene.bob.put_rule("phone", "override", "alarm", on_body("alarm", SIREN))
    phone = scene.device(["phone", "global"])
    disabled = scene.device(["phone"])
    disable(disabled, ["phone"])
    gateway.behave(phone.pushkey, Behaviour.CLOSE)
    scene.message("dropped")
    alarm = scene.message("alarm")
    phone.wait_for(alarm)

    deployment.kill()
    gateway.clear()
    gateway.behave(phone.pushkey, Behaviour.OK)
    deployment.restart()

    # Nothing but the start itself wakes the pusher up: the row does not count for `global`.
    assert phone.wait_for(alarm).tweaks == {"sound": "siren"}
    assert phone.event_ids() == [alarm]
    stored = disabled.stored()
    assert stored is not None
    assert (stored["enabled"], stored["profile_tags"]) == (False, ["phone"])
    disabled.set(profile_tags=["phone"])
    again = scene.message("alarm")
    assert disabled.pushes_until(again) == []


def test_a_pusher_that_sleeps_through_what_it_drops_wakes_up_for_what_it_pushes(
    scene: Scene,
) -> None:
    scene.bob.put_rule("phone", "room", scene.room, on_all(SILENT))
    for scope in ("phone", "loud"):
        scene.bob.put_rule(scope, "override", "alarm", on_body("alarm", SIREN))
    tags = ["phone", "global"]
    # Two of one user, one of which pushes; and one without tags, which pushes all.
    phone, tablet, other = scene.device(tags), scene.device(["tablet", "global"]), scene.device()
    alarms: list[str] = []
    all_of_them: list[str] = []

    def drop_and_ring(rings: bool = True) -> None:
        messages = [scene.message(f"Number {number}") for number in range(3)]
        alarm = scene.message("alarm")
        alarms.extend([alarm] if rings else [])
        all_of_them.extend([*messages, alarm])
        for pusher in (phone, other, tablet) if rings else (other, tablet):
            pusher.wait_for(alarm)

    drop_and_ring()
    disable(phone, tags)
    drop_and_ring(rings=False)
    phone.set(profile_tags=tags)
    drop_and_ring()
    phone.set(profile_tags=tags)  # The same again.
    drop_and_ring()
    phone.set(profile_tags=["loud"])
    drop_and_ring()
    phone.set(profile_tags=tags)
    drop_and_ring()

    assert phone.event_ids() == alarms
    assert other.event_ids() == tablet.event_ids() == all_of_them


def test_a_burst_that_comes_while_a_push_is_under_way_is_pushed_after_it(scene: Scene) -> None:
    scene.bob.put_rule("phone", "room", scene.room, on_all(SILENT))
    scene.bob.put_rule("phone", "override", "alarm", on_body("alarm", SIREN))
    phone = scene.device(["phone", "global"])
    scene.gateway.behave(phone.pushkey, Behaviour.HANG)
    first = scene.message("alarm")
    phone.wait_for(first)
    alarms = []
    # More than a pusher takes at once, and than it is handed while it does not push.
    for number in range(125):
        alarms.append(scene.message("alarm"))
        if number % 5 == 0:
            scene.message("dropped")
    read, redacted = alarms.pop(3), alarms.pop(-3)
    scene.alice.redact(scene.room, redacted)
    scene.deployment.sql("DELETE FROM event_push_actions WHERE event_id = ?", [read])

    scene.gateway.release(phone.pushkey)

    def are_all_pushed() -> bool:
        # A pusher takes 20 at once, and goes on when something wakes it up, here as in Synapse.
        scene.message("dropped")
        return phone.event_ids()[-1] == alarms[-1]

    wait_until(are_all_pushed, "all alarms")
    assert phone.event_ids() == [first, *alarms]


def test_a_pusher_that_dropped_all_starts_as_one_that_had_nothing_to_drop(
    own_deployment: Deployment, gateway: Gateway
) -> None:
    deployment = own_deployment
    scene = make_scene(deployment, gateway)
    scene.bob.put_rule("phone", "room", scene.room, on_all(SILENT))
    scene.bob.put_rule("phone", "override", "alarm", on_body("alarm", SIREN))
    phone = scene.device(["phone", "global"])
    before = decisions(deployment)
    last = [scene.message() for _ in range(30)][-1]
    wait_until(lambda: decisions(deployment) == before + 30, "the phone's decisions")
    assert position(deployment, phone) < stream_ordering(deployment, last)

    deployment.restart()

    assert position(deployment, phone) >= stream_ordering(deployment, last)
    alarm = scene.message("alarm")
    phone.wait_for(alarm)
    assert phone.event_ids() == [alarm]


#: The transactions that read or move pushers, as they are counted from the start of the process.
_TRANSACTIONS = re.compile(
    r"^synapse_storage_transaction_time_count(?:_total)?\{[^}]*"
    r'desc="msc3881_(which_have_any|push_action\w*|move_pushers|users_to_wake)"[^}]*\} (\S+)$',
    re.MULTILINE,
)


def transactions(deployment: Deployment) -> Mapping[str, float]:
    return {desc: float(n) for desc, n in _TRANSACTIONS.findall(deployment.metrics())}


def transactions_of_the_start(deployment: Deployment) -> Mapping[str, float]:
    """What the start of a server costs the one pusher with tags: until it was asked for."""
    wait_until(lambda: "which_have_any" in transactions(deployment), "the pusher's start")
    return transactions(deployment)


def test_after_100_000_dropped_messages_a_pusher_starts_as_after_none(
    fresh_deployment: FreshDeployment, gateway: Gateway
) -> None:
    deployment = fresh_deployment(
        further_modules=[copied_events.MODULE], extra={"send_federation": False}
    )
    scene = make_scene(deployment, gateway)
    scene.bob.put_rule("phone", "room", scene.room, on_all(SILENT))
    scene.bob.put_rule("phone", "override", "alarm", on_body("alarm", SIREN))
    phone = scene.device(["phone", "global"])
    deployment.restart()
    after_none = transactions_of_the_start(deployment)

    message = scene.message()
    wait_until(lambda: decisions(deployment) == 1, "the phone's decision")
    newest = copied_events.copy(deployment, message, 100_000)
    assert newest - stream_ordering(deployment, message) >= 100_000
    # It was written all the while, each time after 1,000.
    wait_until(lambda: position(deployment, phone) > newest - 1000, "the position")
    deployment.restart()
    assert transactions_of_the_start(deployment) == after_none
    assert position(deployment, phone) == newest
    first = scene.message("alarm")
    phone.wait_for(first)
    wait_until_recorded(deployment, phone, first)
    assert transactions(deployment).get("push_action_rows", 0) <= 1

    # After an end without a warning it reads less than 1,000 of them again, 100 at once.
    newest = copied_events.copy(deployment, message, 10_500)
    wait_until(lambda: position(deployment, phone) > newest - 1000, "the position")
    deployment.kill()
    deployment.restart()
    second = scene.message("alarm")
    phone.wait_for(second)
    assert transactions(deployment).get("push_action_rows", 0) <= 10
    assert phone.event_ids() == [first, second]


# --- Stopping and starting ----------------------------------------------------------------------

TAGS = pytest.mark.parametrize("tags", [["global"], ["phone", "global"]], ids=",".join)


@TAGS
def test_a_disabled_pusher_pushes_nothing_and_starts_from_the_present(
    scene: Scene, tags: list[str]
) -> None:
    scene.bob.put_rule("phone", "override", "alarm", on_body("alarm", SIREN))
    pusher, witness = scene.device(tags), scene.device()
    first = scene.message("one")
    pusher.wait_for(first)

    disable(pusher, tags)
    second, third = scene.message("alarm"), scene.message("three")
    witness.wait_for(third)
    scene.bob.read(scene.room, second)
    scene.bob.read(scene.room, third)
    scene.gateway.wait_for(lambda push: push.is_badge_update, pushkey=witness.pushkey)
    wait_until_pushers_rest(scene.deployment)
    wait_until_receipts_are_told(scene.deployment)
    assert [push.event_id for push in scene.gateway.pushes(pusher.pushkey)] == [first]
    scene.message("four")

    pusher.set(enabled=True, profile_tags=tags)
    fifth = scene.message("five")
    pusher.wait_for(fifth)
    assert pusher.event_ids() == [first, fifth]


@TAGS
def test_disabling_ends_a_retry_loop(scene: Scene, tags: list[str]) -> None:
    scene.bob.put_rule("phone", "override", "alarm", on_body("alarm", SIREN))
    pusher = scene.device(tags)
    scene.gateway.behave(pusher.pushkey, Behaviour.ERROR)
    lost = scene.message("alarm")
    pusher.wait_for(lost)

    disable(pusher, tags)
    wait_until_pushers_rest(scene.deployment)
    scene.gateway.behave(pusher.pushkey, Behaviour.OK)
    assert nothing_comes(pusher, LONGER_THAN_A_RETRY)

    pusher.set(enabled=True, profile_tags=tags)
    event_id = scene.message("alarm")
    pusher.wait_for(event_id)
    assert [p.event_id for p in pusher.pushes() if p.behaviour is Behaviour.OK] == [event_id]


def device_whose_push_hangs(scene: Scene, tags: list[str]) -> tuple[Device, str]:
    """A device with a push under way, the event of that, and a second event behind it."""
    scene.bob.put_rule("phone", "override", "alarm", on_body("alarm", SIREN))
    pusher = scene.device(tags)
    scene.gateway.behave(pusher.pushkey, Behaviour.HANG)
    first = scene.message("alarm")
    pusher.wait_for(first)
    scene.message("alarm")
    return pusher, first


@TAGS
@pytest.mark.parametrize("then", [Behaviour.OK, Behaviour.ERROR], ids=lambda b: b.name.lower())
def test_disabling_while_a_push_hangs_ends_it_there(
    scene: Scene, tags: list[str], then: Behaviour
) -> None:
    pusher, first = device_whose_push_hangs(scene, tags)

    disable(pusher, tags)
    scene.gateway.behave(pusher.pushkey, then)
    wait_until_pushers_rest(scene.deployment)
    if then is Behaviour.ERROR:
        assert nothing_comes(pusher, LONGER_THAN_THE_FIRST_RETRY)
    assert pusher.event_ids() == [first]
    last = position(scene.deployment, pusher)

    scene.gateway.behave(pusher.pushkey, Behaviour.OK)
    pusher.set(enabled=True, profile_tags=tags)
    third = scene.message("alarm")
    pusher.wait_for(third)
    assert pusher.event_ids() == [first, third]
    assert last <= position(scene.deployment, pusher)


@TAGS
def test_off_and_on_again_while_a_push_hangs_delivers_nothing_twice(
    scene: Scene, tags: list[str]
) -> None:
    pusher, first = device_whose_push_hangs(scene, tags)

    disable(pusher, tags)
    pusher.set(enabled=True, profile_tags=tags)
    scene.gateway.release(pusher.pushkey)
    third = scene.message("alarm")
    pusher.wait_for(third)
    fourth = scene.message("alarm")
    pusher.wait_for(fourth)
    assert pusher.event_ids() == [first, third, fourth]
    wait_until(
        lambda: position(scene.deployment, pusher) == stream_ordering(scene.deployment, fourth),
        "the pusher's position",
    )


@TAGS
def test_disabling_ends_what_was_begun_before_the_pusher_was_set_again(
    scene: Scene, tags: list[str]
) -> None:
    pusher, first = device_whose_push_hangs(scene, tags)

    for _ in range(2):
        pusher.set(profile_tags=tags)
    disable(pusher, tags)
    scene.gateway.release(pusher.pushkey)
    wait_until_pushers_rest(scene.deployment)
    assert pusher.event_ids() == [first]


def test_removing_a_pusher_while_a_push_hangs_ends_it_there(scene: Scene) -> None:
    scene.bob.put_rule("phone", "room", scene.room, on_all(SIREN))
    pusher = scene.device(["phone"])
    scene.gateway.behave(pusher.pushkey, Behaviour.HANG)
    first = scene.message()
    pusher.wait_for(first)
    scene.message()
    scene.bob.delete_pusher(pusher.pushkey, pusher.app_id)
    scene.gateway.release(pusher.pushkey)
    wait_until_pushers_rest(scene.deployment)
    assert pusher.event_ids() == [first]
    assert pusher.stored() is None
    assert tags_in_database(scene.deployment, scene.bob) == {}


def test_a_pusher_that_is_set_again_while_it_fails_goes_by_its_new_tags(scene: Scene) -> None:
    scene.bob.put_rule("loud", "room", scene.room, on_all(SIREN))
    scene.bob.put_rule("calm", "room", scene.room, on_all(NOTIFY))
    pusher = scene.device(["loud"])
    scene.gateway.behave(pusher.pushkey, Behaviour.ERROR)
    lost = scene.message()
    pusher.wait_for(lost)
    wait_until(lambda: failing_since(scene.deployment, pusher) is not None, "the failure")

    pusher.set(profile_tags=["calm"])
    wait_until_pushers_rest(scene.deployment)
    scene.gateway.behave(pusher.pushkey, Behaviour.OK)
    event_id = scene.message()

    assert pusher.wait_for(event_id).tweaks == {}
    assert nothing_comes(pusher, LONGER_THAN_A_RETRY)
    accepted = [push.event_id for push in pusher.pushes() if push.behaviour is Behaviour.OK]
    assert accepted == [event_id]
    wait_until(lambda: failing_since(scene.deployment, pusher) is None, "the success")


def test_setting_the_same_again_while_a_push_hangs_delivers_it_once(scene: Scene) -> None:
    scene.bob.put_rule("phone", "room", scene.room, on_all(SIREN))
    pusher = scene.device(["phone"])
    scene.gateway.behave(pusher.pushkey, Behaviour.HANG)
    first = scene.message()
    pusher.wait_for(first)
    pusher.set(profile_tags=["phone"])
    scene.gateway.release(pusher.pushkey)
    second = scene.message()
    pusher.wait_for(second)
    assert pusher.event_ids() == [first, second]


def test_a_rejected_pushkey_is_removed_with_its_tags(scene: Scene) -> None:
    scene.bob.put_rule("phone", "room", scene.room, on_all(SIREN))
    rejected, kept = scene.device(["phone"]), scene.device(["phone", "global"])
    assert set(tags_in_database(scene.deployment, scene.bob)) == {rejected.pushkey, kept.pushkey}
    scene.gateway.behave(rejected.pushkey, Behaviour.REJECT)

    first = scene.message()
    rejected.wait_for(first)
    wait_until(lambda: rejected.stored() is None, "the removal")
    second = scene.message()
    kept.wait_for(second)

    assert tags_in_database(scene.deployment, scene.bob) == {kept.pushkey: '["phone","global"]'}
    assert rejected.event_ids() == [first]


@TAGS
def test_what_was_redacted_while_the_gateway_failed_is_not_pushed(
    scene: Scene, tags: list[str]
) -> None:
    scene.bob.put_rule("phone", "override", "alarm", on_body("alarm", SIREN))
    pusher = scene.device(tags)
    scene.gateway.behave(pusher.pushkey, Behaviour.ERROR)
    redacted, gone, kept = (scene.message("alarm") for _ in range(3))
    pusher.wait_for(redacted)

    scene.alice.redact(scene.room, redacted)
    # As Synapse does once an event is a day old.
    scene.deployment.sql("DELETE FROM event_push_actions WHERE event_id = ?", [gone])
    # Once the gateway sees this one, no attempt from before the redaction is on its way.
    pusher.wait_for(kept)
    scene.gateway.behave(pusher.pushkey, Behaviour.OK)
    last = scene.message("alarm")
    pusher.wait_for(last)

    accepted = [push.event_id for push in pusher.pushes() if push.behaviour is Behaviour.OK]
    assert accepted == [kept, last]


def test_changing_tags_takes_effect_with_the_next_event(scene: Scene) -> None:
    scene.bob.put_rule("loud", "room", scene.room, on_all(SIREN))
    pusher = scene.device()
    native = pusher.wait_for(scene.message())
    assert native.tweaks.get("sound") != "siren"
    for tags, sound in ((["loud"], "siren"), (["global"], None), (["nothing", "loud"], "siren")):
        pusher.set(profile_tags=tags)
        got = pusher.wait_for(scene.message()).tweaks.get("sound")
        assert sound in (got, None)
        assert (got == "siren") == (sound == "siren")
    # Left out, they are the default again.
    pusher.set()
    assert pusher.wait_for(scene.message()).tweaks.get("sound") != "siren"
    assert tags_in_database(scene.deployment, scene.bob) == {}


def test_a_receipt_updates_the_badge_of_a_pusher_with_tags(scene: Scene) -> None:
    scene.bob.put_rule("phone", "room", scene.room, on_all(SILENT))
    fence_off(scene.bob, "phone")
    pusher = scene.device(["phone", "global"])
    event_id = scene.message()
    scene.bob.read(scene.room, event_id)

    def is_empty_badge(push: Push) -> bool:
        return push.is_badge_update and push.counts == {"unread": 0}

    scene.gateway.wait_for(is_empty_badge, pushkey=pusher.pushkey)
    assert pusher.pushes_until(scene.fence()) == []


# --- Badges -------------------------------------------------------------------------------------


def badges(pusher: Device) -> int:
    return sum(push.is_badge_update for push in pusher.gateway.pushes(pusher.pushkey))


def wait_until_receipts_are_told(deployment: Deployment) -> None:
    """Synapse answers a receipt before its pushers have looked whether the badge is another."""
    process = "http_pusher.on_new_receipts"
    wait_until(lambda: in_flight(deployment, process) == 0, "the pushers that look at receipts")


def ring(scene: Scene, phone: Device) -> str:
    """Have a phone ring for its scope alone: `global` says nothing about things."""
    alarm = scene.thing("alarm")
    phone.wait_for(alarm)
    wait_until_recorded(scene.deployment, phone, alarm)
    return alarm


def test_after_a_push_of_a_scope_alone_the_next_receipt_updates_the_badge_once(
    scene: Scene,
) -> None:
    scene.bob.put_rule("phone", "override", "alarm", on_body("alarm", SIREN))
    tags = ["phone", "global"]
    phone, off, _ = pushers = scene.device(tags), scene.device(tags), scene.device()

    def wait_for_badges(*counts: int) -> None:
        try:
            wait_until(lambda: tuple(map(badges, pushers)) == counts, "the badges")
        except AssertionError as error:
            came = [(p.pushkey, p.event_id, p.counts) for p in scene.gateway.pushes()]
            raise AssertionError(f"{error}; these came: {came}") from None

    # So that each of them has told the count.
    message = scene.message()
    for pusher in pushers:
        pusher.wait_for(message)
        wait_until_recorded(scene.deployment, pusher, message)
    scene.bob.read(scene.room, message)
    wait_for_badges(1, 1, 1)

    alarm = ring(scene, phone)
    off.wait_for(alarm)
    disable(off, tags)
    scene.bob.read(scene.room, alarm)
    wait_for_badges(2, 1, 1)

    # Nothing rang since, so this receipt says nothing new.
    scene.bob.read(scene.room, scene.thing("unheard"))
    wait_until_receipts_are_told(scene.deployment)
    again = ring(scene, phone)
    wait_for_badges(2, 1, 1)
    scene.bob.read(scene.room, again)
    wait_for_badges(3, 1, 1)


def test_a_thread_that_only_a_scope_rang_for_has_counts_of_zero(scene: Scene) -> None:
    scene.bob.put_rule("phone", "override", "alarm", on_body("alarm", SIREN))
    phone = scene.device(["phone", "global"])
    root = scene.message()
    phone.wait_for(root)
    relation = {"rel_type": "m.thread", "event_id": root}
    reply = scene.alice.send(scene.room, {"body": "alarm", "m.relates_to": relation}, THING)
    phone.wait_for(reply)

    timeline = {"unread_thread_notifications": True}
    joined = scene.bob.sync(sync_filter={"room": {"timeline": timeline}})["rooms"]["join"]
    counts = joined[scene.room]
    assert counts["unread_notifications"] == {"notification_count": 1, "highlight_count": 0}
    threads = counts.get("unread_thread_notifications", {})
    assert threads == {root: {"notification_count": 0, "highlight_count": 0}}


def test_a_pusher_without_badges_gets_none_after_a_push_of_a_scope_alone(
    own_deployment: Deployment, gateway: Gateway
) -> None:
    if "disable_badge_count" not in seams.HttpPusher.__init__.__code__.co_names:
        pytest.skip("this Synapse knows no pushers without badges")
    scene = make_scene(own_deployment, gateway)
    scene.bob.put_rule("phone", "override", "alarm", on_body("alarm", SIREN))
    data = {"url": gateway.url, "org.matrix.msc4076.disable_badge_count": True}
    without = scene.device(["phone", "global"], data=data)
    phone = scene.device(["phone", "global"])
    alarm = ring(scene, without)
    ring(scene, phone)
    scene.bob.read(scene.room, alarm)

    wait_until_receipts_are_told(own_deployment)
    assert (badges(phone), badges(without)) == (1, 0)


# --- E-mail -------------------------------------------------------------------------------------


def about(mail: Message) -> str:
    """The mail as text, to look for what it tells about."""
    part = next(part for part in mail.walk() if part.get_content_type() == "text/plain")
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)
    return content.decode()


def test_a_mail_is_sent_for_what_the_tags_say(
    own_deployment: Deployment, mail_server: MailServer, gateway: Gateway
) -> None:
    scene = make_scene(own_deployment, gateway)
    loud = scene.alice.create_room(preset="public_chat")
    scene.bob.join(loud)
    scene.bob.put_rule("mail", "room", scene.room, on_all(SILENT))
    scene.bob.put_rule("mail", "room", loud, on_all(NOTIFY))
    scene.bob.put_rule("global", "room", loud, on_all(SILENT))
    address = mail_pusher(own_deployment, scene.bob, ["mail", "global"])
    witness = device(scene.bob, gateway)

    silenced = scene.message("A silenced word")
    witness.wait_for(silenced)
    assert mail_server.mails(address) == []
    scene.alice.send(loud, "A loud word")

    mail = about(message_from_bytes(mail_server.wait_for(address)))
    assert "A loud word" in mail
    assert "A silenced word" not in mail


def test_a_disabled_mail_pusher_sends_nothing(
    own_deployment: Deployment, mail_server: MailServer, gateway: Gateway
) -> None:
    scene = make_scene(own_deployment, gateway)
    scene.bob.put_rule("mail", "room", scene.room, on_all(NOTIFY))
    address = mail_pusher(own_deployment, scene.bob, ["mail"])
    set_mail_pusher(scene.bob, address, ["mail"], enabled=False)
    witness = scene.device(["mail"])
    witness.wait_for(scene.message("Unheard"))

    set_mail_pusher(scene.bob, address, ["mail"], enabled=True)
    scene.message("Heard")

    mail = about(message_from_bytes(mail_server.wait_for(address)))
    assert "Heard" in mail
    assert len(mail_server.mails(address)) == 1


@pytest.mark.parametrize("tags", [None, ["mail", "global"]], ids=["native", "tags"])
def test_what_is_dropped_leaves_the_throttle_of_mails_as_it_is(
    own_deployment: Deployment,
    mail_server: MailServer,
    gateway: Gateway,
    tags: list[str] | None,
) -> None:
    """A room that was mailed about waits, and the next mail about another has what waited."""
    scene = make_scene(own_deployment, gateway)
    rooms = [scene.alice.create_room(preset="public_chat", name=name) for name in ("One", "Two")]
    for room in rooms:
        scene.bob.join(room)
    scene.bob.put_rule("mail" if tags else "global", "room", scene.room, on_all(SILENT))
    address = mail_pusher(own_deployment, scene.bob, tags or ["global"])

    own_deployment.sql(
        "INSERT INTO pusher_throttle (pusher, room_id, last_sent_ts, throttle_ms)"
        " SELECT id, ?, ?, ? FROM pushers WHERE pushkey = ?",
        [rooms[0], int(time.time() * 1000), TEN_MINUTES, address],
    )

    def throttles() -> dict[str, int]:
        rows = own_deployment.sql(
            "SELECT t.room_id, t.throttle_ms FROM pusher_throttle t"
            " JOIN pushers p ON p.id = t.pusher WHERE p.pushkey = ?",
            [address],
        )
        return {str(room): int(ms) for room, ms in rows}

    def drop() -> None:
        for number in range(5):
            scene.message(f"A silenced word {number}")

    drop()
    scene.alice.send(rooms[0], "A word that waits")
    drop()
    assert throttles() == {rooms[0]: TEN_MINUTES}
    scene.alice.send(rooms[1], "Another word")

    mail = about(message_from_bytes(mail_server.wait_for(address)))
    assert "A word that waits" in mail
    assert "Another word" in mail
    assert "silenced" not in mail
    # Longer for the one, and as long as mails are delayed here for the other.
    wait_until(lambda: throttles() == {rooms[0]: A_DAY, rooms[1]: 0}, "the throttles")
    assert len(mail_server.mails(address)) == 1


@pytest.fixture(scope="module")
def patient_deployment(module_deployment: FreshDeployment, mail_server: MailServer) -> Deployment:
    """A server that waits before it sends a mail, for longer than a busy machine takes to read."""
    return module_deployment(extra={"email": email_config(mail_server, delay=f"{LATE_SECONDS}s")})


@pytest.fixture(scope="module")
def addresses(patient_deployment: Deployment) -> Mapping[str, str]:
    """Where the mails of the two tests below go: they wait for them at the same time."""
    with Gateway() as gateway:
        stories = {"redacted": redact_in_time, "read": read_in_time}
        return {
            name: story(make_scene(patient_deployment, gateway)) for name, story in stories.items()
        }


def redact_in_time(scene: Scene) -> str:
    regretted = scene.alice.create_room(preset="public_chat", name="Regret")
    scene.bob.join(regretted)
    scene.bob.put_rule("mail", "override", "regret", on_body("A regretted word", NOTIFY))
    address = mail_pusher(scene.deployment, scene.bob, ["mail", "global"])
    event_id = scene.alice.send(regretted, "A regretted word")
    scene.message("A kept word")
    scene.alice.redact(regretted, event_id)
    return address


def read_in_time(scene: Scene) -> str:
    busy = scene.alice.create_room(preset="public_chat")
    scene.bob.join(busy)
    scene.bob.put_rule("mail", "override", "all", on_all(NOTIFY))
    address = mail_pusher(scene.deployment, scene.bob, ["mail", "global"])
    scene.message("A direct word")
    last = [scene.alice.send(busy, f"Chatter {number}") for number in range(25)][-1]
    scene.bob.read(busy, last)
    return address


def late_mail(mail_server: MailServer, address: str) -> bytes:
    return mail_server.wait_for(address, timeout=LATE_SECONDS + 30)


def test_what_was_redacted_before_the_mail_is_not_in_it(
    addresses: Mapping[str, str], mail_server: MailServer
) -> None:
    mail = about(message_from_bytes(late_mail(mail_server, addresses["redacted"])))
    assert "A kept word" in mail
    assert "Regret" not in mail


def test_an_unread_message_is_mailed_though_newer_ones_were_read(
    addresses: Mapping[str, str], mail_server: MailServer
) -> None:
    mail = about(message_from_bytes(late_mail(mail_server, addresses["read"])))
    assert "A direct word" in mail
    assert "Chatter" not in mail

# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the pushers of a device with settings of its own push (specification 9)."""

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from demo.client import MatrixError, Session
from demo.gateway import Behaviour, Gateway
from tests.conftest import FreshDeployment
from tests.harness.deployment import Deployment
from tests.harness.held_start import SLOW_READ
from tests.server.cascade_helpers import (
    NOTIFY,
    SILENT,
    SIREN,
    THING,
    Device,
    Scene,
    device,
    explained,
    fence_off,
    make_scene,
    on_all,
    on_type,
    unread_counts,
    wait_until_recorded,
)
from tests.server.own_settings_helpers import (
    CHANGES,
    EVENTS,
    Home,
    invites,
    make_home,
    message,
    switch,
)


@pytest.fixture(scope="module")
def shared_home(shared_deployment: Deployment) -> Iterator[Home]:
    with Gateway() as gateway:
        home = make_home(shared_deployment, gateway)
        switch(home.bob, on=True)
        yield home


@pytest.fixture
def home(shared_home: Home, deployment: Deployment) -> Home:
    """One that several tests share; a traceback in the server's log fails the test."""
    assert deployment is shared_home.deployment
    return shared_home


def settle(home: Home, *devices: Device) -> None:
    """Wait until the devices have pushed everything so far: the last event rings on all."""
    last = message()(home)
    for each in devices or home.devices:
        each.wait_for(last)


@pytest.mark.parametrize("name", [None, *CHANGES])
def test_each_device_rings_as_if_its_settings_were_global(home: Home, name: str | None) -> None:
    """For every kind of event, and whatever is changed on the phone."""
    change = CHANGES[name] if name is not None else None
    settle(home)
    since = [len(each.pushes()) for each in home.devices]
    for user in (home.bob, home.carol):
        if change is not None:
            change.do(user, home)
    events = {send(home): kind for kind, send in EVENTS.items()}
    events.update(dict.fromkeys(invites(home), "invite"))
    for user in (home.bob, home.carol):
        if change is not None:
            change.undo(user, home)
    settle(home)

    found = [home.pushed(each, since[number]) for number, each in enumerate(home.devices)]
    phone, desk, as_global, plain = (
        {events.get(str(event_id), "others"): push for event_id, push in each.items()}
        for each in found
    )
    assert phone == as_global
    assert desk == plain
    assert len(desk) > 5
    if change is not None:
        assert phone != desk


def test_a_sender_rule_works_on_the_device(home: Home) -> None:
    """As in any device scope (specification 4): Synapse's never match in `global`."""
    settle(home)
    since = len(home.phone.pushes())
    home.bob.put_rule("global", "sender", home.alice.user_id, on_all(SILENT))
    event_id = message()(home)
    home.bob.delete_rule("global", "sender", home.alice.user_id)
    settle(home)
    home.desk.wait_for(event_id)
    assert event_id not in home.pushed(home.phone, since)


# --- Which tags hold ----------------------------------------------------------------------------


@pytest.fixture
def fresh(deployment: Deployment, gateway: Gateway) -> Home:
    return make_home(deployment, gateway)


def tags(what: Device) -> list[str]:
    stored = what.stored()
    assert stored is not None
    assert stored["profile_tags"] == stored["org.matrix.msc3837.profile_tags"]
    found: list[str] = stored["profile_tags"]
    return found


def mute_on_phone(home: Home) -> None:
    home.bob.put_rule("global", "override", "mute", on_all(SILENT))


def test_the_device_s_pushers_go_by_its_settings_while_it_has_them(fresh: Home) -> None:
    home = fresh
    switch(home.desk_session, on=True, device_id=home.bob.device_id)
    mute_on_phone(home)
    assert (tags(home.phone), tags(home.desk)) == ([home.bob.device_id], ["global"])
    silent = message()(home)
    home.desk.wait_for(silent)

    switch(home.desk_session, on=False, device_id=home.bob.device_id)
    assert tags(home.phone) == ["global"]
    loud = message()(home)
    home.phone.wait_for(loud)
    home.desk.wait_for(loud)
    assert home.phone.event_ids() == [loud]
    assert home.desk.event_ids() == [silent, loud]


def test_a_list_that_the_app_sends_holds(fresh: Home) -> None:
    home = fresh
    home.bob.put_rule("tablet", "override", "things", on_type(THING, SIREN))
    home.phone.set(profile_tags=["tablet"])
    switch(home.bob, on=True)
    assert tags(home.phone) == ["tablet"]
    thing = EVENTS["thing"](home)
    assert home.phone.wait_for(thing).tweaks == {"sound": "siren"}
    home.phone.set()
    assert tags(home.phone) == [home.bob.device_id]
    unheard = EVENTS["thing"](home)
    home.phone.wait_for(message()(home))
    assert unheard not in home.phone.event_ids()


def test_a_pusher_that_lists_the_scope_walks_on_from_it(fresh: Home) -> None:
    """As `global` does: what it silences is silent, and what it does not know it leaves."""
    home = fresh
    switch(home.bob, on=True)
    home.bob.put_rule("global", "override", "words", on_type("org.example.quiet", SILENT))
    home.desk_session.put_rule("loud", "override", "all", on_all(SIREN))
    home.desk.set(profile_tags=[home.bob.device_id, "loud"])
    quiet = home.alice.send(home.room, {"body": "x"}, "org.example.quiet")
    thing = EVENTS["thing"](home)
    assert home.desk.wait_for(thing).tweaks == {"sound": "siren"}
    assert quiet not in home.desk.event_ids()
    text = message()(home)
    assert home.desk.wait_for(text).tweaks == home.plain.wait_for(text).tweaks
    home.phone.wait_for(text)
    assert home.phone.event_ids() == [text]


def test_an_app_that_sends_back_what_it_read_chooses_nothing(fresh: Home) -> None:
    home = fresh
    switch(home.bob, on=True)
    shown = home.phone.stored()
    assert shown is not None
    assert shown["org.matrix.msc3881.as_read"]["own"] is True
    home.desk_session.call(
        "POST",
        "/_matrix/client/v3/pushers/set",
        {**shown, "org.matrix.msc3881.enabled": False, "append": True},
    )
    assert tags(home.phone) == [home.bob.device_id]
    switch(home.bob, on=False)
    assert tags(home.phone) == ["global"]


def test_a_pusher_that_comes_later_goes_by_the_settings(fresh: Home) -> None:
    home = fresh
    session = home.deployment.login(home.bob, "TABLET")
    switch(session, on=True)
    session.put_rule("global", "override", "mute", on_all(SILENT))
    message()(home)  # Evaluated while no pusher goes by the settings.
    tablet = device(session, home.gateway)
    assert tags(tablet) == ["TABLET"]
    silent = message()(home)
    session.delete_rule("global", "override", "mute")
    loud = message()(home)
    tablet.wait_for(loud)
    assert tablet.event_ids() == [loud]
    home.plain.wait_for(silent)


# --- What only the device rings for -------------------------------------------------------------


def test_an_event_that_only_the_device_rings_for_is_pushed_and_not_counted(fresh: Home) -> None:
    home = fresh
    switch(home.bob, on=True)
    home.desk_session.put_rule("global", "room", home.room, on_all(SILENT))
    event_id = message()(home)
    push = home.phone.wait_for(event_id)
    assert push.counts.get("unread", 0) == 0
    assert unread_counts(home.bob, home.room)["notification_count"] == 0
    home.desk_session.delete_rule("global", "room", home.room)
    last = message()(home)
    home.desk.wait_for(last)
    assert home.desk.event_ids() == [last]


def test_it_is_explained(fresh: Home) -> None:
    home = fresh
    switch(home.bob, on=True)
    home.desk_session.put_rule("global", "room", home.room, on_all(SILENT))
    event_id = message()(home)
    home.phone.wait_for(event_id)
    scene = Scene(home.deployment, home.gateway, home.alice, home.bob, home.room)
    by_device = {each["device_id"]: each for each in explained(scene, event_id)["pushers"]}
    phone, desk = by_device[home.bob.device_id], by_device["DESK"]
    assert (phone["profile_tags"], phone["own"]) == ([home.bob.device_id], True)
    (step,) = phone["walk"]
    assert step["profile_tag"] == home.bob.device_id
    assert step["result"] == "notify"
    assert step["rule"] == "underride/.m.rule.message"
    assert "own" not in desk
    assert desk["outcome"] != "push"

    home.desk_session.delete_rule("global", "room", home.room)
    event_id = message()(home)
    home.phone.wait_for(event_id)
    by_device = {each["device_id"]: each for each in explained(scene, event_id)["pushers"]}
    (step,) = by_device[home.bob.device_id]["walk"]
    assert (step["profile_tag"], step["result"]) == (home.bob.device_id, "notify")
    assert step["as_global"] is True


# --- While it is switched -----------------------------------------------------------------------


def test_what_waits_is_neither_lost_nor_pushed_twice(fresh: Home) -> None:
    home = fresh
    home.gateway.behave(home.phone.pushkey, Behaviour.ERROR)
    first = message()(home)
    home.phone.wait_for(first)
    switch(home.bob, on=True)
    mute_on_phone(home)
    silent = message()(home)
    home.bob.delete_rule("global", "override", "mute")
    second = message()(home)
    switch(home.bob, on=False)
    third = message()(home)
    home.gateway.behave(home.phone.pushkey, Behaviour.OK)
    home.gateway.wait_for(
        lambda push: push.behaviour is Behaviour.OK, pushkey=home.phone.pushkey, event_id=third
    )
    delivered = [p.event_id for p in home.phone.pushes() if p.behaviour is Behaviour.OK]
    assert delivered == [first, second, third]
    home.desk.wait_for(silent)


@pytest.mark.one_deployment
def test_once_a_switch_is_answered_the_pusher_has_changed_over(
    fresh_deployment: FreshDeployment, gateway: Gateway
) -> None:
    """Also where the database takes its time."""
    scene = make_scene(fresh_deployment(further_modules=[SLOW_READ]), gateway)
    fence_off(scene.bob, "global")
    phone = scene.device()
    switch(scene.bob, on=True)
    scene.bob.put_rule("global", "override", "mute", on_type("m.room.message", SILENT))
    scene.message()
    fence = scene.fence()
    assert phone.pushes_until(fence) == []
    switch(scene.bob, on=False)
    phone.wait_for(scene.message())


def test_what_was_dropped_behind_a_push_that_waited_stays_silent(fresh: Home) -> None:
    """When the settings are switched off, the position can only be written up to that push."""
    home = fresh
    switch(home.bob, on=True)
    home.phone.set()  # It follows the settings from its start.
    home.gateway.behave(home.phone.pushkey, Behaviour.ERROR)
    waiting = message()(home)
    home.phone.wait_for(waiting)
    mute_on_phone(home)
    silent = message()(home)
    home.desk.wait_for(silent)
    switch(home.bob, on=False)
    home.gateway.behave(home.phone.pushkey, Behaviour.OK)
    wait_until_recorded(home.deployment, home.phone, waiting)
    home.deployment.restart()
    last = message()(home)
    home.phone.wait_for(last)
    delivered = [p.event_id for p in home.phone.pushes() if p.behaviour is Behaviour.OK]
    assert delivered == [waiting, last]


def test_an_open_stream_of_events_survives_switching(fresh: Home) -> None:
    """Both sets of rules push all of them, so each comes once, whichever held."""
    home = fresh
    sent = []
    for number in range(24):
        if number % 3 == 0:
            switch(home.bob, on=number % 2 == 0)
        sent.append(message()(home))
    home.phone.wait_for(sent[-1])
    assert home.phone.event_ids() == sent


def test_after_a_restart_nothing_of_what_was_silent_comes(fresh: Home) -> None:
    """Neither while the device has settings of its own, nor once it has them no longer."""
    home = fresh
    switch(home.bob, on=True)
    mute_on_phone(home)
    silent = [message()(home) for _ in range(3)]
    home.desk.wait_for(silent[-1])
    home.deployment.restart()
    home.bob.delete_rule("global", "override", "mute")
    second = message()(home)
    home.phone.wait_for(second)
    wait_until_recorded(home.deployment, home.phone, second)
    mute_on_phone(home)
    silent.append(message()(home))
    home.desk.wait_for(silent[-1])
    switch(home.bob, on=False)
    home.deployment.restart()
    third = message()(home)
    home.phone.wait_for(third)
    assert home.phone.event_ids() == [second, third]


def test_logging_out_ends_it(fresh: Home) -> None:
    home = fresh
    session = home.deployment.login(home.bob, "TABLET")
    switch(session, on=True)
    tablet = device(session, home.gateway)
    assert tags(tablet) == ["TABLET"]
    session.logout()
    assert len(home.bob.get_pushers()) == 2
    message()(home)
    settle(home)
    assert tablet.event_ids() == []


def test_notify_alone_is_not_what_global_says(fresh: Home) -> None:
    """The tweaks are the device's own."""
    home = fresh
    switch(home.bob, on=True)
    home.bob.put_rule("global", "room", home.room, on_all(NOTIFY))
    event_id = message()(home)
    assert home.phone.wait_for(event_id).tweaks == {}
    assert home.desk.wait_for(event_id).tweaks == home.plain.wait_for(event_id).tweaks


def test_what_rings_is_what_the_devices_read_after_races(fresh: Home) -> None:
    """Switching, the device's own app and another session's write at once, again and again.

    Each write may be refused or land in the account's rules: whatever won, what each device reads
    is what its pusher goes by.
    """
    home = fresh
    sound = random.Random(5)
    phone, desk = home.deployment.direct(home.bob), home.deployment.direct(home.desk_session)
    switcher = home.deployment.direct(home.desk_session)
    device_id = home.bob.device_id

    def soon(*work: Callable[[], object]) -> None:
        for each in work:
            time.sleep(sound.random() * 0.02)
            with contextlib.suppress(MatrixError):  # A rule that is not there, say.
                each()

    for _ in range(6):
        with ThreadPoolExecutor(3) as pool:
            done = [
                pool.submit(
                    soon,
                    lambda: switch(switcher, on=False, device_id=device_id),
                    lambda: switch(switcher, on=True, device_id=device_id),
                ),
                pool.submit(
                    soon,
                    lambda: phone.put_rule("global", "override", "mute", on_all(SILENT)),
                    lambda: phone.delete_rule("global", "override", "mute"),
                ),
                pool.submit(
                    soon,
                    lambda: desk.put_rule(device_id, "override", "mute", on_all(SILENT)),
                    lambda: desk.set_rule_enabled(
                        device_id, "override", "mute", sound.random() < 0.5
                    ),
                ),
            ]
        for each in done:
            each.result()
        event_id = message()(home)
        home.plain.wait_for(event_id)
        muted = [is_muted(home.bob), is_muted(home.desk_session)]
        for session in (home.bob, home.desk_session):
            with contextlib.suppress(MatrixError):
                session.delete_rule("global", "override", "mute")
        fence = message()(home)
        for device_, is_silent in zip((home.phone, home.desk), muted, strict=True):
            device_.wait_for(fence)
            assert (event_id not in device_.event_ids()) is is_silent
    for session in (phone, desk, switcher):
        session.close()


def is_muted(session: Session) -> bool:
    rules = session.get_rules("global")["override"]
    return any(each["rule_id"] == "mute" and each["enabled"] for each in rules)

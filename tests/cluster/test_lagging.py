# SPDX-License-Identifier: AGPL-3.0-or-later
"""Processes that lag behind, that start in another order, or that lack the module."""

from collections.abc import Callable, Iterator

import pytest

from demo.client import Session
from demo.gateway import Behaviour, Gateway
from tests.conftest import FreshDeployment
from tests.harness.cluster import CLIENT_WORKERS, MAIN, WORKERS, Cluster
from tests.harness.held_start import HELD_START
from tests.harness.held_start import PATH as RELEASE
from tests.harness.waiting import wait_until
from tests.server.cascade_helpers import (
    SIREN,
    THING,
    device,
    fence_off,
    make_scene,
    on_all,
    on_type,
)

# --- A pusher worker that lags behind -----------------------------------------------------------


@pytest.mark.parametrize("tags", [["global"], ["phone", "global"]], ids=",".join)
def test_what_happened_while_off_is_not_pushed_by_a_worker_that_was_down(
    cluster: Cluster, gateway: Gateway, tags: list[str]
) -> None:
    """The worker never saw the pusher disabled."""
    scene = make_scene(cluster, gateway)
    phone, other = scene.device(tags), scene.device(tags)
    first = scene.message("one")
    phone.wait_for(first)

    pusher_worker = cluster.pusher_of(scene.bob)
    cluster.kill_process(pusher_worker)
    before = scene.message("two")
    phone.set(enabled=False, profile_tags=tags)
    while_off = scene.message("three")
    phone.set(enabled=True, profile_tags=tags)
    cluster.start_process(pusher_worker)
    last = scene.message("four")

    phone.wait_for(last)
    other.wait_for(last)
    # It starts from the moment at which it was enabled.
    assert phone.event_ids() == [first, last]
    assert other.event_ids()[-3:] == [before, while_off, last]


@pytest.mark.parametrize("tags", [["global"], ["phone", "global"]], ids=",".join)
def test_off_and_on_ends_a_retry_loop_also_where_it_is_seen_at_once(
    cluster: Cluster, gateway: Gateway, tags: list[str]
) -> None:
    scene = make_scene(cluster, gateway)
    phone = scene.device(tags)
    gateway.behave(phone.pushkey, Behaviour.ERROR)
    first = scene.message("one")
    phone.wait_for(first)
    cluster.settle()

    main = cluster.session_on(scene.bob, MAIN)
    phone = type(phone)(main, phone.pushkey, gateway)
    with cluster.paused(cluster.pusher_of(scene.bob)):
        phone.set(enabled=False, profile_tags=tags)
        phone.set(enabled=True, profile_tags=tags)
    cluster.settle()
    second = scene.message("two")

    # Refused still: whoever goes on trying the first does not get to this one.
    phone.wait_for(second)


def test_a_worker_that_was_away_pushes_what_a_new_scope_decided(
    cluster: Cluster, gateway: Gateway
) -> None:
    """It hears of the user's first tags and of an event that only they push, at once."""
    scene = make_scene(cluster, gateway)
    scene.bob.put_rule("phone", "override", "r", on_type(THING, SIREN))
    phone = scene.device()
    phone.wait_for(scene.message())
    cluster.settle()

    main = cluster.session_on(scene.bob, MAIN)
    alice = cluster.session_on(scene.alice, CLIENT_WORKERS[0])
    phone = type(phone)(main, phone.pushkey, gateway)
    pusher_worker = cluster.pusher_of(scene.bob)
    with cluster.paused(pusher_worker):
        phone.set(profile_tags=["phone"])
        cluster.homeserver.catch_up(without=pusher_worker)
        event_id = alice.send(scene.room, {"body": "Hello"}, THING)

    assert phone.wait_for(event_id).tweaks == {"sound": "siren"}


@pytest.fixture
def held(cluster: Cluster) -> Iterator[Callable[[str], Session]]:
    """Call it with a pusher worker: it starts again, and holds its pushers once it read them.

    What it gives asks that worker: `GET` of RELEASE whether they are read, `PUT` lets them go on.
    """
    homeserver = cluster.homeserver
    started: list[str] = []
    sessions: list[Session] = []

    def hold(name: str) -> Session:
        started.append(name)
        modules = [*homeserver.config()["modules"], HELD_START]
        homeserver.worker_options = {name: {"modules": modules}}
        restart(name)
        url = f"http://127.0.0.1:{homeserver.replication_ports[name]}"
        sessions.append(Session(route=lambda *_: url))
        return sessions[-1]

    def restart(name: str) -> None:
        cluster.kill_process(name)
        homeserver._write_config()
        cluster.start_process(name)

    yield hold
    for session in sessions:
        session.close()
    homeserver.worker_options = {}
    for name in started:
        restart(name)


def test_what_changes_while_a_worker_starts_its_pushers_holds(
    cluster: Cluster, gateway: Gateway, held: Callable[[str], Session]
) -> None:
    scene = make_scene(cluster, gateway)
    scene.bob.put_rule("phone", "override", "thing", on_type(THING, SIREN))
    scene.bob.put_rule("quiet", "override", "thing", on_type(THING, []))
    fence_off(scene.bob, "phone", "quiet")
    off, quiet, gone, witness = (scene.device(["phone"]) for _ in range(4))
    worker = held(cluster.pusher_of(scene.bob))
    wait_until(lambda: worker.call("GET", RELEASE, token=False) is True, "the read of the pushers")

    off.set(profile_tags=["phone"], enabled=False)
    quiet.set(profile_tags=["quiet"])
    scene.bob.delete_pusher(gone.pushkey, gone.app_id)
    cluster.settle()
    worker.call("PUT", RELEASE, {}, token=False)

    thing = scene.thing()
    fence = scene.fence()
    for phone in (witness, quiet):
        phone.wait_for(fence)
    assert witness.event_ids() == [thing, fence]
    assert (off.event_ids(), quiet.event_ids(), gone.event_ids()) == ([], [fence], [])


# --- Other orders -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vanilla(make_deployment: FreshDeployment) -> Iterator[Cluster]:
    cluster = make_deployment("cluster", with_module=False)
    assert isinstance(cluster, Cluster)
    yield cluster
    cluster.stop()
    cluster.assert_log_is_clean()


def test_workers_may_start_before_the_main_process_has_made_the_tables(
    vanilla: Cluster, gateway: Gateway
) -> None:
    """On the day that the module comes into the config, with pushers from before."""
    scene = make_scene(vanilla, gateway)
    old = scene.device()
    old.wait_for(scene.message())
    vanilla.with_module = True
    homeserver = vanilla.homeserver
    homeserver.prepare(vanilla.options())
    homeserver.spawn(*WORKERS)
    homeserver.wait(*WORKERS)
    homeserver.spawn(MAIN)
    homeserver.wait(MAIN)

    vanilla.settle()
    old.wait_for(scene.message())
    scene.bob.put_rule("phone", "override", "r", on_type(THING, SIREN))
    new = device(scene.bob, gateway, ["phone"])
    event_id = scene.thing()
    assert new.wait_for(event_id).tweaks == {"sound": "siren"}
    vanilla.assert_log_is_clean()


def test_a_worker_without_the_module_evaluates_global_alone(
    make_deployment: FreshDeployment, gateway: Gateway
) -> None:
    """A mistake in the config, as docs/workers.md describes what comes of it."""
    positions = {"module": "tests.harness.positions.Positions", "config": {}}
    forgotten = CLIENT_WORKERS[1]
    cluster = make_deployment("cluster", worker_options={forgotten: {"modules": [positions]}})
    assert isinstance(cluster, Cluster)
    try:
        scene = make_scene(cluster, gateway)
        scene.bob.put_rule("phone", "room", scene.room, on_all(SIREN))
        both, alone = scene.device(["phone", "global"]), scene.device(["phone"])
        cluster.settle()
        through = {
            name: cluster.session_on(scene.alice, name).send(scene.room, "Hello")
            for name in CLIENT_WORKERS
        }
        good, bad = (through[name] for name in CLIENT_WORKERS)
        fence = cluster.session_on(scene.alice, CLIENT_WORKERS[0]).send(scene.room, "Fence")
        for pusher in (both, alone):
            pusher.wait_for(fence)
        assert both.wait_for(good).tweaks == {"sound": "siren"}
        assert both.wait_for(bad).tweaks != {"sound": "siren"}
        assert alone.event_ids() == [good, fence]
    finally:
        cluster.stop()
    cluster.assert_log_is_clean()

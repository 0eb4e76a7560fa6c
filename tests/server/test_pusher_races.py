# SPDX-License-Identifier: AGPL-3.0-or-later
"""Requests and removals that meet: what one after the other could have given (specification 2)."""

import random
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from demo.client import Session, path
from demo.gateway import Behaviour, Gateway
from tests.conftest import FreshDeployment
from tests.harness.deployment import Deployment
from tests.harness.held_start import HELD_SET, HELD_START
from tests.harness.held_start import PATH as RELEASE
from tests.harness.waiting import wait_until
from tests.server.cascade_helpers import (
    NOTIFY,
    SILENT,
    THING,
    Device,
    device,
    fence_off,
    make_scene,
    on_type,
    tags_in_database,
)
from tests.server.helpers import assert_ok, assert_refused, get_pusher, set_pusher

ROUNDS = 25
MOST_APART = 0.02

LOGOUT = path("logout")

# What Synapse logs when all its pushers are started.
STARTED = "Started pushers"


Direct = Callable[[Session], Session]


@pytest.fixture
def direct(deployment: Deployment) -> Iterator[Direct]:
    """Call it with a session for another of the same device, for a thread of its own."""
    made: list[Session] = []

    def make(session: Session) -> Session:
        made.append(deployment.direct(session))
        return made[-1]

    yield make
    for session in made:
        session.close()


@contextmanager
def two_threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def at_once(pool: ThreadPoolExecutor, *calls: tuple[float, Callable[[], Any]]) -> list[Any]:
    """Make each call after so many seconds, on a thread of its own."""

    def later(seconds: float, call: Callable[[], Any]) -> Any:
        time.sleep(seconds)
        return call()

    made = [pool.submit(later, *call) for call in calls]
    return [one.result(60) for one in made]


def holders(sessions: Sequence[Session], pushkey: str) -> list[Session]:
    """Whose pusher has this pushkey."""
    return [
        session
        for session in sessions
        if any(shown["pushkey"] == pushkey for shown in session.get_pushers())
    ]


# Two accounts on one phone


def test_of_two_accounts_that_set_one_pushkey_at_once_one_has_it(
    direct: Direct, alice: Session, bob: Session
) -> None:
    """An app that registers its accounts together at each start."""
    sessions = [direct(alice), direct(bob)]
    dice = random.Random(11)
    with two_threads() as pool:
        for number in range(ROUNDS):
            pushkey = f"shared-{number}-{secrets.token_hex(4)}"
            answers = at_once(
                pool,
                (0.0, partial(set_pusher, sessions[0], pushkey, profile_tags=["a"])),
                (dice.uniform(0, 0.004), partial(set_pusher, sessions[1], pushkey)),
            )
            assert [answer.status for answer in answers] == [200, 200]
            found = holders([alice, bob], pushkey)
            assert len(found) == 1, f"round {number}: {len(found)} of two accounts have the pusher"


# Tags and the ways a pusher goes


def test_a_pusher_that_outlives_a_logout_has_the_tags_that_it_was_set_with(
    deployment: Deployment, direct: Direct, alice: Session
) -> None:
    main = direct(alice)
    dice = random.Random(12)
    with two_threads() as pool:
        for number in range(ROUNDS):
            phone = direct(deployment.login(alice, f"PHONE{number}"))
            again = direct(phone)
            pushkey = f"key-{number}"
            assert_ok(set_pusher(phone, pushkey, profile_tags=["phone", "global"]))
            set_again, _ = at_once(
                pool,
                (
                    dice.uniform(0, MOST_APART),
                    partial(set_pusher, again, pushkey, profile_tags=["phone", "global"]),
                ),
                (dice.uniform(0, MOST_APART), partial(phone.request, "POST", LOGOUT, {})),
            )
            shown = [p for p in main.get_pushers() if p["pushkey"] == pushkey]
            # One after the other: it is set and then goes, or the token is unknown.
            assert set_again.status in (200, 401), f"round {number}: {set_again}"
            assert shown == [], f"round {number}: set gave {set_again.status}, {shown}"


@pytest.mark.one_deployment
def test_a_pusher_that_is_made_while_its_device_logs_out_goes_with_it(
    fresh_deployment: FreshDeployment,
) -> None:
    deployment = fresh_deployment(further_modules=[HELD_SET])
    alice = deployment.register()
    phone = deployment.login(alice, "PHONE")
    again = deployment.direct(phone)
    with two_threads() as pool:
        made = pool.submit(partial(set_pusher, again, "key", profile_tags=["phone"]))
        wait_until(lambda: alice.request("GET", RELEASE).json is True, "the write of the pusher")
        # The logout looks for pushers of the device, and finds none yet.
        assert_ok(phone.request("POST", LOGOUT, {}))
        assert_ok(alice.request("PUT", RELEASE))
        answer = made.result(60)
    again.close()
    assert_refused(answer, 401, "M_UNKNOWN_TOKEN")
    assert alice.get_pushers() == []
    assert tags_in_database(deployment, alice) == {}
    # Somebody else's session, which is still there, is not concerned.
    assert_ok(set_pusher(alice, "key"))
    assert len(alice.get_pushers()) == 1


def test_a_pusher_that_is_removed_and_set_at_once_has_all_its_tags_or_is_gone(
    direct: Direct, alice: Session
) -> None:
    one, other = direct(alice), direct(alice)
    dice = random.Random(120)
    tags = ["phone", "global"]
    with two_threads() as pool:
        for number in range(ROUNDS):
            pushkey = f"key-{number}"
            assert_ok(set_pusher(one, pushkey, profile_tags=tags))
            at_once(
                pool,
                (dice.uniform(0, 0.01), partial(set_pusher, one, pushkey, profile_tags=tags)),
                (dice.uniform(0, 0.01), partial(set_pusher, other, pushkey, kind=None)),
            )
            shown = [p["profile_tags"] for p in alice.get_pushers() if p["pushkey"] == pushkey]
            assert shown in ([], [tags]), f"round {number}: {shown}"


def test_a_pusher_that_a_gateway_rejects_while_it_is_set_has_all_its_tags_or_is_gone(
    deployment: Deployment, direct: Direct, gateway: Gateway
) -> None:
    scene = make_scene(deployment, gateway)
    fence_off(scene.bob, "phone", "global")
    tags = ["phone", "global"]
    dice = random.Random(121)
    with two_threads() as pool:
        for number in range(ROUNDS):
            phone = device(scene.bob, gateway, tags)
            gateway.behave(phone.pushkey, Behaviour.REJECT)
            again = direct(scene.bob)
            at_once(
                pool,
                (0.0, scene.fence),
                (
                    dice.uniform(0.005, 0.04),
                    partial(Device(again, phone.pushkey, gateway).set, profile_tags=tags),
                ),
            )
            stored = phone.stored()
            assert stored is None or stored["profile_tags"] == tags, f"round {number}: {stored}"


# A limit that was lowered


@pytest.mark.one_deployment
def test_a_pusher_with_more_tags_than_the_limit_of_today_can_be_changed(
    fresh_deployment: FreshDeployment,
) -> None:
    deployment = fresh_deployment()
    alice = deployment.register()
    tags = ["a", "b", "c"]
    assert_ok(set_pusher(alice, profile_tags=tags))
    deployment.restart(module_config={"limits": {"profile_tags_per_pusher": 2}})
    echo = get_pusher(alice)
    for change in (
        {"enabled": False, "org.matrix.msc3881.enabled": False},
        {"enabled": True, "org.matrix.msc3881.enabled": True, "profile_tags": tags},
        {"org.matrix.msc3837.profile_tags": ["c"]},
    ):
        assert_ok(set_pusher(alice, **{**echo, **change}), change)
    assert get_pusher(alice)["profile_tags"] == ["c"]
    assert set_pusher(alice, profile_tags=tags).status == 400, "it is not as stored any more"


# A change while the server starts


@pytest.mark.one_deployment
def test_what_changes_while_the_pushers_start_holds(
    fresh_deployment: FreshDeployment, gateway: Gateway
) -> None:
    deployment = fresh_deployment()
    scene = make_scene(deployment, gateway)
    for scope in ("phone", "quiet"):
        actions = NOTIFY if scope == "phone" else SILENT
        scene.bob.put_rule(scope, "override", "thing", on_type(THING, actions))
    fence_off(scene.bob, "phone", "quiet", "global")
    off, quiet, gone, witness = (scene.device(["phone"]) for _ in range(4))
    before = scene.fence()
    for phone in (off, quiet, gone, witness):
        phone.wait_for(before)

    starts = deployment.log_text().count(STARTED)
    deployment.further_modules = [HELD_START]
    deployment.restart()
    wait_until(lambda: scene.bob.request("GET", RELEASE).json is True, "the read of the pushers")
    off.set(profile_tags=["phone"], enabled=False)
    quiet.set(profile_tags=["quiet"])
    scene.bob.delete_pusher(gone.pushkey, gone.app_id)
    assert_ok(scene.bob.request("PUT", RELEASE, {}))
    wait_until(lambda: deployment.log_text().count(STARTED) > starts, "the start")

    scene.thing()
    fence = scene.fence()
    witness.wait_for(fence)
    quiet.wait_for(fence)
    for phone in (off, quiet, gone):
        pushed = [push for push in phone.pushes() if push.event_id not in (before, fence)]
        assert pushed == [], "it was changed before the start was over"
    assert fence not in [*off.event_ids(), *gone.event_ids()]

# SPDX-License-Identifier: AGPL-3.0-or-later
"""A device with settings of its own, on several processes (specification 9).

The switch is made where push rules are written, events are evaluated on other processes, and its
pushers run on yet others.
"""

import time

import pytest

from demo.client import Session
from demo.gateway import Gateway
from tests.cluster.syncing import DELAY_SECONDS
from tests.harness.cluster import CLIENT_WORKERS, MAIN, PUSH_RULES_WRITER, Cluster
from tests.server.cascade_helpers import (
    FENCE,
    NOTIFY,
    SILENT,
    Device,
    make_scene,
    new_pushkey,
    on_all,
    on_type,
)
from tests.server.own_settings_helpers import switch


@pytest.mark.parametrize("worker", CLIENT_WORKERS)
def test_the_pushers_go_by_the_settings_wherever_they_run(
    cluster: Cluster, gateway: Gateway, worker: str
) -> None:
    scene = make_scene(cluster, gateway)
    bob, alice = scene.bob, cluster.session_on(scene.alice, worker)
    desk_session = cluster.login(bob, "DESK")
    cluster.settle()
    phone = Device(cluster.session_on(bob, MAIN), new_pushkey(), gateway)
    desk = Device(cluster.session_on(desk_session, MAIN), new_pushkey(), gateway)
    phone.set()
    desk.set()
    writer = cluster.session_on(bob, PUSH_RULES_WRITER)
    writer.put_rule("global", "override", "fence", on_type(FENCE, NOTIFY))
    cluster.settle()

    switch(writer, on=True, device_id=bob.device_id)
    writer.put_rule("global", "override", "mute", on_all(SILENT), after="fence")
    sent = [_until(alice, scene.room, phone, desk, rings=False)]
    writer.delete_rule("global", "override", "mute")
    sent.append(_until(alice, scene.room, phone, desk, rings=True))
    writer.put_rule("global", "override", "mute", on_all(SILENT), after="fence")
    sent.append(_until(alice, scene.room, phone, desk, rings=False))
    switch(writer, on=False, device_id=bob.device_id)
    sent.append(_until(alice, scene.room, phone, desk, rings=True))

    for pushed in (phone.event_ids(), desk.event_ids()):
        assert len(pushed) == len({*pushed})
    rung = phone.event_ids()
    assert [event_id in rung for event_id in sent] == [False, True, False, True]


def _until(alice: Session, room: str, phone: Device, desk: Device, *, rings: bool) -> str:
    """Send messages until one rings on the phone, or is silent there; returns that one.

    On the desk all of them ring.
    """
    deadline = time.monotonic() + DELAY_SECONDS
    while True:
        event_id = alice.send(room, "Hello")
        phone.wait_for(alice.send(room, {"body": "fence"}, FENCE))
        desk.wait_for(event_id)
        if (event_id in phone.event_ids()) is rings:
            return event_id
        assert time.monotonic() < deadline, f"not within {DELAY_SECONDS} s"

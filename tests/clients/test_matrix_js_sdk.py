# SPDX-License-Identifier: AGPL-3.0-or-later
"""matrix-js-sdk, on which Element Web stands: what it asks and sends."""

from typing import Any

import pytest

from demo.client import CLIENT
from tests.clients.conftest import MakeWorld, World, needs_js_sdk
from tests.clients.matrix_js_sdk import JsError, JsSession, MatrixJsSdk, Node
from tests.conftest import FreshDeployment
from tests.harness.deployment import Deployment

pytestmark = needs_js_sdk

FLAG = "org.matrix.msc3881"
ENABLED = "org.matrix.msc3881.enabled"
AS_READ = "org.matrix.msc3881.as_read"


def sessions_of(world: World) -> tuple[JsSession, JsSession]:
    phone, desktop = world.phone, world.desktop
    assert isinstance(phone, JsSession)
    assert isinstance(desktop, JsSession)
    return phone, desktop


def test_it_finds_the_switch_and_sends_the_whole_pusher_back(
    deployment: Deployment, make_world: MakeWorld, node: Node
) -> None:
    world = make_world(deployment, MatrixJsSdk(node))
    phone, desktop = sessions_of(world)
    phone.set_pusher({**world.pusher("phone"), "profile_tags": ["phone", "global"]})
    for flag in (FLAG, f"{FLAG}.stable", "org.matrix.msc3837"):
        assert desktop.call("doesServerSupportUnstableFeature", flag) is True

    (shown,) = desktop.get_pushers()
    desktop.sent()
    desktop.set_pusher({**shown, ENABLED: False})

    # Both names of a field, of which one is new; and fields that the SDK does not know.
    body = {**shown, ENABLED: False}
    assert desktop.sent() == [{"method": "POST", "path": f"{CLIENT}/pushers/set", "body": body}]
    assert (body["enabled"], body["profile_tags"]) == (True, ["phone", "global"])
    # So comes what was read, from which the server knows which name is the change.
    as_read = {**shown[AS_READ], "enabled": False}
    assert phone.get_pushers() == [{**body, "enabled": False, AS_READ: as_read}]


def test_a_scope_reaches_the_path_as_it_is(
    deployment: Deployment, make_world: MakeWorld, node: Node
) -> None:
    """So a profile tag has to be percent-encoded by whoever calls it."""
    world = make_world(deployment, MatrixJsSdk(node))
    phone, _ = sessions_of(world)
    phone.put_rule("device/a%2Fb", "room", "!a:example.org", {"actions": []})
    (request,) = phone.sent()
    assert request["path"] == f"{CLIENT}/pushrules/device/a%2Fb/room/!a%3Aexample.org"
    assert list(phone.call("getPushRules")["device"]) == ["a/b"]


def test_its_call_that_mutes_a_room_takes_a_device_scope(
    deployment: Deployment, make_world: MakeWorld, node: Node
) -> None:
    world = make_world(deployment, MatrixJsSdk(node))
    phone, _ = sessions_of(world)
    phone.next_push_rules()
    phone.call("setRoomMutePushRule", "device/phone", world.room, True)
    (shown,) = phone.next_push_rules()["device"]["phone"]["room"]
    assert (shown["rule_id"], "notify" in shown["actions"]) == (world.room, False)


def test_without_the_module_it_has_neither(
    fresh_deployment: FreshDeployment, make_world: MakeWorld, node: Node
) -> None:
    world = make_world(fresh_deployment(with_module=False), MatrixJsSdk(node))
    phone, desktop = sessions_of(world)
    mine = world.pusher("phone")
    phone.set_pusher(mine)
    for flag in (FLAG, f"{FLAG}.stable", "org.matrix.msc3837"):
        assert desktop.call("doesServerSupportUnstableFeature", flag) is False

    # The SDK's own work: the server says nothing of it.
    (shown,) = desktop.get_pushers()
    assert shown[ENABLED] is True
    desktop.set_pusher({**shown, ENABLED: False})
    event_id = world.bob.send(world.room, "pushed all the same")
    world.gateway.wait_for(pushkey=mine["pushkey"], event_id=event_id)

    refused: list[tuple[Any, ...]] = [
        ("addPushRule", "device/phone", "room", world.room, {"actions": []}),
        ("deletePushRule", "device/phone", "room", world.room),
    ]
    for call in refused:
        with pytest.raises(JsError) as error:
            phone.call(*call)
        assert (error.value.status, error.value.errcode) == (400, "M_UNRECOGNIZED")

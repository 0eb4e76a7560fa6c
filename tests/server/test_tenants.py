# SPDX-License-Identifier: AGPL-3.0-or-later
"""Two homeservers in one process, one without the module: that one is as Synapse is alone."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from demo.client import Session, path, rules_path
from demo.gateway import Gateway
from tests.conftest import FreshDeployment
from tests.harness import two_homeservers
from tests.harness.deployment import Deployment
from tests.server.cascade_helpers import (
    EXPLAIN,
    SILENT,
    SIREN,
    Scene,
    device,
    make_scene,
    notifications,
    on_all,
    on_body,
)
from tests.server.helpers import get_pusher, pusher

pytestmark = pytest.mark.skipif(
    not two_homeservers.is_possible(), reason="this Synapse has one homeserver in a process"
)

_AT_ONCE = 15


@pytest.fixture(scope="module")
def alone(make_deployment: FreshDeployment) -> Iterator[Deployment]:
    """A Synapse without the module, in a process of its own."""
    deployment = make_deployment("sqlite", with_module=False)
    yield deployment
    deployment.stop()
    deployment.assert_log_is_clean()


@pytest.fixture(scope="module", params=[True, False], ids=["module first", "module last"])
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Deployment, Deployment]]:
    """One with the module and one without."""

    def make(name: str, with_module: bool) -> Deployment:
        directory: Path = tmp_path_factory.mktemp(name)
        return Deployment(
            kind="sqlite", directory=directory, with_module=with_module, server_name=f"{name}.test"
        )

    ours, plain = make("ours", True), make("plain", False)
    in_order = (ours, plain) if request.param else (plain, ours)
    with two_homeservers.in_one_process(in_order):
        yield ours, plain


def answers(deployment: Deployment, gateway: Gateway) -> dict[str, Any]:
    """What a homeserver says of all that the module changes, without names."""
    scene = make_scene(deployment, gateway)
    bob = scene.bob
    seen: dict[str, Any] = {}

    def ask(name: str, method: str, where: str, body: Any = None) -> None:
        response = bob.request(method, where, body)
        seen[name] = (response.status, response.errcode)

    ask("device rule", "PUT", rules_path("phone", "room", scene.room), on_all(SIREN))
    ask("device rules", "GET", rules_path("phone", ""))
    ask("own settings", "GET", f"{path('pushrules', 'device', 'PHONE')}/org.matrix.msc3837.own")
    tagged = pusher("tagged", enabled=False, profile_tags=["phone"], data={"url": gateway.url})
    ask("set with tags", "POST", path("pushers", "set"), tagged)
    ask("set badly", "POST", path("pushers", "set"), {**tagged, "profile_tags": 5})
    # Nothing is off here: a vanilla Synapse knows neither field.
    phone = device(bob, gateway, ["phone"], enabled=False)
    shown = get_pusher(bob, phone.pushkey)
    seen["pusher"] = {name: shown[name] for name in shown.keys() - {"pushkey", "data"}}
    seen["rules"] = sorted(bob.get_rules())
    event_id = scene.message()
    seen["tweaks"] = phone.wait_for(event_id).tweaks
    ask("explain", "GET", f"{EXPLAIN}/{scene.room}/{event_id}")
    seen["notifications"] = [listed["actions"] for listed in notifications(bob)]
    seen["rows"] = deployment.sql(
        "SELECT actions, notif FROM event_push_actions WHERE user_id = ?", [bob.user_id]
    )
    seen["tables"] = deployment.sql("SELECT name FROM sqlite_master WHERE name LIKE '%msc3881%'")
    features = bob.call("GET", "/_matrix/client/versions")["unstable_features"]
    seen["versions"] = {name: on for name, on in features.items() if "msc38" in name}
    return seen


def switches_and_rings(scene: Scene) -> None:
    """What the module is there for, in short."""
    scene.bob.put_rule("phone", "room", scene.room, on_all(SILENT))
    scene.bob.put_rule("phone", "override", "alarm", on_body("alarm", SIREN))
    phone = scene.device(["phone", "global"])
    scene.message("dropped")
    first = scene.thing("alarm")
    assert phone.wait_for(first).tweaks == {"sound": "siren"}
    phone.set(profile_tags=["phone", "global"], enabled=False)
    witness = scene.device(["phone"])
    witness.wait_for(scene.thing("alarm"))
    phone.set(profile_tags=["phone", "global"])
    last = scene.thing("alarm")
    phone.wait_for(last)
    assert phone.event_ids() == [first, last]


def test_the_one_without_is_as_synapse_is_alone(
    both: tuple[Deployment, Deployment], alone: Deployment, gateway: Gateway
) -> None:
    ours, plain = both
    expected = answers(alone, gateway)
    assert answers(plain, gateway) == expected
    switches_and_rings(make_scene(ours, gateway))
    assert answers(plain, gateway) == expected
    features = ours.register().call("GET", "/_matrix/client/versions")["unstable_features"]
    assert features.items() - expected["versions"].items() >= {("org.matrix.msc3837", True)}


def test_both_evaluate_at_once(both: tuple[Deployment, Deployment], gateway: Gateway) -> None:
    """What an event of one is evaluated with is nothing to the other's."""
    ours, plain = (make_scene(deployment, gateway) for deployment in both)
    ours.bob.put_rule("phone", "override", "all", on_all(SIREN))
    phone, native = ours.device(["phone"]), plain.device()

    def send(session: Session, room: str) -> list[str]:
        return [session.send(room, "Hello") for _ in range(_AT_ONCE)]

    with ThreadPoolExecutor(2) as pool:
        sending = [pool.submit(send, scene.alice, scene.room) for scene in (ours, plain)]
        to_ours, to_plain = (each.result(60) for each in sending)
    for pushers, events in ((phone, to_ours), (native, to_plain)):
        pushers.wait_for(events[-1])
        assert pushers.event_ids() == events
    assert {push.tweaks.get("sound") for push in phone.pushes()} == {"siren"}
    assert {push.tweaks.get("sound") for push in native.pushes()} == {"default"}

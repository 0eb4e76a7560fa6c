# SPDX-License-Identifier: AGPL-3.0-or-later
"""Events and invites from another homeserver, over TLS on loopback, cascade like any.

Verification is off here only, because the certificates are self-signed. On a cluster the
federation receiver terminates TLS and evaluates what it receives.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import attr
import pytest

from demo.client import JsonDict, Session, path
from demo.gateway import Gateway
from demo.homeserver import Homeserver, Options
from demo.process import free_port
from tests.conftest import FreshDeployment
from tests.harness.deployment import Deployment
from tests.harness.tls import Certificate, make_certificate
from tests.server.cascade_helpers import (
    BELL,
    NOTIFY,
    SILENT,
    SIREN,
    THING,
    Device,
    device,
    fence_off,
    on_all,
    on_body,
    on_type,
)


@attr.s(auto_attribs=True, frozen=True)
class Far:
    """The other homeserver, which never heard of the module, and a user of it."""

    homeserver: Homeserver
    dora: Session


def federating(certificate: Certificate) -> JsonDict:
    """What both homeservers need in their config to speak to each other on loopback."""
    return {
        "tls_certificate_path": str(certificate.certificate),
        "tls_private_key_path": str(certificate.key),
        "federation_verify_certificates": False,
        "federation_domain_whitelist": None,
        "ip_range_blacklist": [],
        "federation_ip_range_blacklist": [],
        "trusted_key_servers": [],
        "suppress_key_server_warning": True,
        "rc_federation": {"concurrent": 100, "reject_limit": 1000, "sleep_limit": 1000},
    }


def tls_listener(port: int) -> JsonDict:
    return {
        "port": port,
        "type": "http",
        "tls": True,
        "bind_addresses": ["127.0.0.1", "::1"],
        "resources": [{"names": ["federation"]}],
    }


class FederatingHomeserver(Homeserver):
    """A homeserver with a TLS listener for federation, after which it is named."""

    def _listeners(self) -> list[JsonDict]:
        port = int(self.options.server_name.partition(":")[2])
        return [*super()._listeners(), tls_listener(port)]


@attr.s(auto_attribs=True, kw_only=True)
class FederatingDeployment(Deployment):
    """One process with the module, which other homeservers reach at its name."""

    def _make_homeserver(self) -> Homeserver:
        return FederatingHomeserver(self.directory, self.options())


@pytest.fixture(scope="module", params=["sqlite", "cluster"])
def near(
    request: pytest.FixtureRequest,
    make_deployment: FreshDeployment,
    certificate: Certificate,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Deployment]:
    """The homeserver with the module: one process, then a cluster."""
    extra = federating(certificate)
    name = f"localhost:{free_port()}"
    deployment: Deployment
    if request.param == "sqlite":
        directory = tmp_path_factory.mktemp("near")
        deployment = FederatingDeployment(
            kind="sqlite", directory=directory, extra=extra, server_name=name
        ).start()
    else:
        listener = tls_listener(int(name.partition(":")[2]))
        deployment = make_deployment(
            "cluster",
            extra=extra,
            server_name=name,
            # A worker only loads the certificate if the main process's listeners need it, too:
            # real deployments have a proxy for that. This has it believe so.
            worker_options={
                "federation": {"further_listeners": [listener], "listeners": [listener]}
            },
        )
    yield deployment
    deployment.stop()
    deployment.assert_log_is_clean()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def far(certificate: Certificate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Far]:
    options = Options(server_name=f"localhost:{free_port()}", extra=federating(certificate))
    with FederatingHomeserver(tmp_path_factory.mktemp("far"), options) as homeserver:
        yield Far(homeserver, homeserver.register("dora"))


def joined(near: Deployment, far: Far) -> tuple[Session, str]:
    """A new user here, in a new room of the other homeserver."""
    bob = near.register()
    room = far.dora.create_room(preset="public_chat")
    far_name = far.homeserver.options.server_name
    bob.call("POST", f"{path('join', room)}?server_name={far_name}", {}, timeout=60)
    return bob, room


def sounds(pusher: Device, event_ids: Sequence[str]) -> list[Any]:
    """What a pusher played for these events, the last of which it pushes; None for no push."""
    pusher.gateway.wait_for(pushkey=pusher.pushkey, event_id=event_ids[-1], timeout=60)
    pushes = {push.event_id: push.tweaks.get("sound", "") for push in pusher.pushes()}
    return [pushes.get(event_id) for event_id in event_ids]


def test_events_from_another_homeserver_cascade(
    near: Deployment, far: Far, gateway: Gateway
) -> None:
    bob, room = joined(near, far)
    for word, actions in (("loud", SIREN), ("silent", SILENT)):
        bob.put_rule("phone", "override", word, on_body(word, actions))
    bob.put_rule("phone", "sender", far.dora.user_id, on_type(THING, BELL))
    bob.put_rule("global", "room", room, on_all(NOTIFY))
    fence_off(bob, "phone", "global")
    phone = device(bob, gateway, ["phone", "global"])
    both = device(bob, gateway, ["global", "phone"])
    near.settle()

    event_ids = [
        far.dora.send(room, {"body": body}, "org.example.fence" if body == "fence" else THING)
        for body in ("loud", "silent", "other", "fence")
    ]

    assert sounds(phone, event_ids) == ["siren", None, "bell", ""]
    assert sounds(both, event_ids) == ["", "", "", ""]


def test_an_invite_from_another_homeserver_cascades(
    near: Deployment, far: Far, gateway: Gateway
) -> None:
    bob, _ = joined(near, far)
    invite = {"kind": "event_match", "key": "content.membership", "pattern": "invite"}
    bob.put_rule("phone", "override", "i", {"conditions": [invite], "actions": SIREN})
    bob.put_rule("calm", "override", "i", {"conditions": [invite], "actions": SILENT})
    phone, calm = device(bob, gateway, ["phone"]), device(bob, gateway, ["calm", "global"])
    plain = device(bob, gateway)
    near.settle()

    room = far.dora.create_room(invite=[bob.user_id])

    push = gateway.wait_for(pushkey=phone.pushkey, timeout=60)
    assert (push.room_id, push.type, push.tweaks) == (room, "m.room.member", {"sound": "siren"})
    gateway.wait_for(lambda push: push.room_id == room, pushkey=plain.pushkey)
    assert [push.room_id for push in calm.pushes()] == []

# SPDX-License-Identifier: AGPL-3.0-or-later
"""Fixtures: the client libraries, and users that log in with them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import attr
import pytest

from demo.client import JsonDict, Session
from demo.gateway import Gateway, Push
from demo.homeserver import PASSWORD
from tests.clients import matrix_js_sdk
from tests.clients.libraries import ClientSession, Library
from tests.clients.matrix_js_sdk import MatrixJsSdk, Node
from tests.clients.matrix_nio import MatrixNio
from tests.clients.mautrix_python import Mautrix
from tests.harness.deployment import Deployment
from tests.server.cascade_helpers import new_pushkey

needs_js_sdk = pytest.mark.skipif(
    matrix_js_sdk.version() is None, reason="`make test-js` installs matrix-js-sdk"
)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path / "node.log")
    yield node
    node.close()


@pytest.fixture(params=["matrix-nio", "mautrix", pytest.param("matrix-js-sdk", marks=needs_js_sdk)])
def library(request: pytest.FixtureRequest) -> Library:
    if request.param == "matrix-js-sdk":
        return MatrixJsSdk(request.getfixturevalue("node"))
    libraries: dict[str, Callable[[], Library]] = {"matrix-nio": MatrixNio, "mautrix": Mautrix}
    return libraries[request.param]()


@attr.s(auto_attribs=True, frozen=True)
class World:
    """Alice with two devices that a library has logged in, and one more; Bob, who writes to her."""

    deployment: Deployment
    phone: ClientSession
    desktop: ClientSession
    alice: Session
    bob: Session
    room: str
    gateway: Gateway

    def pusher(self, name: str) -> JsonDict:
        """The body of a request that sets a pusher with a pushkey that nobody else has."""
        return {
            "kind": "http",
            "app_id": "org.example.app",
            "pushkey": new_pushkey(name),
            "app_display_name": "Example",
            "device_display_name": name,
            "lang": "en",
            "data": {"url": self.gateway.url},
            "append": True,
        }

    def pushes(self, pusher: JsonDict) -> list[Push]:
        """The events that the gateway got for a pusher, badge updates left out."""
        return [p for p in self.gateway.pushes(pusher["pushkey"]) if not p.is_badge_update]

    def pushed(self, pusher: JsonDict) -> list[str | None]:
        """The ids of the events that the gateway got for a pusher."""
        return [push.event_id for push in self.pushes(pusher)]


MakeWorld = Callable[[Deployment, Library], World]


@pytest.fixture
def make_world(gateway: Gateway) -> Iterator[MakeWorld]:
    """Call it with a server and a library."""
    sessions: list[ClientSession] = []

    def make(deployment: Deployment, library: Library) -> World:
        alice, bob = deployment.register(), deployment.register()
        room = bob.create_room(preset="public_chat")
        alice.join(room)
        base_url = deployment.homeserver.base_url
        sessions.extend(
            library.login(base_url, alice.user_id, PASSWORD, device_id)
            for device_id in ("PHONE", "DESKTOP")
        )
        phone, desktop = sessions[-2:]
        return World(deployment, phone, desktop, alice, bob, room, gateway)

    yield make
    for session in sessions:
        session.close()


@pytest.fixture
def world(make_world: MakeWorld, deployment: Deployment, library: Library) -> World:
    return make_world(deployment, library)

# SPDX-License-Identifier: AGPL-3.0-or-later
"""The example files for workers in docs/, started as they are: only places and ports differ."""

import time

from demo.client import Session
from demo.gateway import Gateway
from tests.cluster.example import ExampleHomeserver
from tests.harness.admin import command
from tests.harness.cluster import (
    CLIENT_WORKERS,
    PUSH_RULES_WRITER,
)
from tests.server.cascade_helpers import APP, SIREN, THING, on_type


def test_the_examples_work_as_they_are(example: ExampleHomeserver, gateway: Gateway) -> None:
    # Without our own module for tests, nothing tells how far replication came.
    example.route = example.route_at_once  # type: ignore[method-assign]
    alice, bob = example.register("alice"), example.register("bob")
    for session in (alice, bob):
        session.route = example.route_at_once
    room = alice.create_room(preset="public_chat")
    bob.join(room)
    assert bob.user_id == "@bob:example.org"
    bob.put_rule("phone", "override", "r", on_type(THING, SIREN))
    bob.set_pusher("key", APP, gateway.url, profile_tags=["phone", "global"])

    deadline = time.monotonic() + 30
    while not gateway.pushes("key"):
        assert time.monotonic() < deadline
        for name in CLIENT_WORKERS:
            _on(example, alice, name).send(room, {"body": "Hello"}, THING)
    assert gateway.pushes("key")[0].tweaks == {"sound": "siren"}
    assert "phone" in _on(example, bob, PUSH_RULES_WRITER).get_rules()["device"]
    assert "Traceback" not in example.log_text()

    directory = example.directory
    answer = command("check", "--json", "-c", directory / "homeserver.yaml", "-w", directory)
    assert (answer.status, answer.problems) == (0, [])
    assert [process["module"] for process in answer.json["processes"]] == ["yes"] * 9
    assert answer.json["database"]["answers"] is True


def _on(example: ExampleHomeserver, user: Session, name: str) -> Session:
    user.route = lambda *_: example.url_of(name)
    return user

# SPDX-License-Identifier: AGPL-3.0-or-later
"""The example files for workers in docs/, started as they are: only places and ports differ."""

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from demo.client import Session
from demo.gateway import Gateway
from demo.homeserver import Options
from tests.harness.admin import command
from tests.harness.cluster import (
    CLIENT_WORKERS,
    MAIN,
    PUSH_RULES_WRITER,
    WORKERS,
    ClusterHomeserver,
)
from tests.harness.deployment import CHECKOUT
from tests.harness.postgres import Postgres
from tests.harness.valkey import Valkey
from tests.server.cascade_helpers import APP, SIREN, THING, on_type

EXAMPLES = CHECKOUT / "docs" / "examples" / "workers"

#: The ports in the examples.
MAIN_PORT, MAIN_REPLICATION_PORT, VALKEY_PORT = 8008, 9093, 6379


class ExampleHomeserver(ClusterHomeserver):
    """The cluster that the example files describe."""

    def _write_config(self) -> None:
        super()._write_config()
        for file in EXAMPLES.glob("*.yaml"):
            (self.directory / file.name).write_text(self._filled_in(file.read_text()))
        # The gateway of the test is on loopback, where Synapse does not push to by itself.
        (self.directory / "test.yaml").write_text(
            json.dumps({"ip_range_whitelist": ["127.0.0.0/8"], "bcrypt_rounds": 4})
        )

    def _filled_in(self, text: str) -> str:
        assert self.options.database is not None
        database = self.options.database["args"]
        for found, wanted in (
            ("/etc/matrix-synapse", str(self.directory)),
            ("/var/lib/matrix-synapse", str(self.directory)),
            ("/var/run/postgresql", database["host"]),
            ("user: synapse", f"user: {database['user']}"),
            ("dbname: synapse", f"dbname: {database['dbname']}"),
            ("CHANGE-ME-registration", self._shared_secret),
        ):
            text = text.replace(found, wanted)
        ports = {
            MAIN_PORT: self.port,
            MAIN_REPLICATION_PORT: self.replication_ports[MAIN],
            VALKEY_PORT: self.valkey.port,
        }
        for number, name in enumerate(WORKERS, start=1):
            ports[9100 + number] = self.replication_ports[name]
            ports[8100 + number] = self.worker_ports.get(name, 0)
        return re.sub(r"(?<=port: )\d+", lambda match: str(ports[int(match.group())]), text)

    def _config_files(self, name: str) -> list[Path]:
        return [*super()._config_files(name), self.directory / "test.yaml"]


@pytest.fixture
def example(start_postgres: Callable[[], Postgres], tmp_path: Path) -> Iterator[ExampleHomeserver]:
    postgres = start_postgres()
    database = postgres.create_database()
    valkey = Valkey().start()
    options = Options(database=database.synapse_config(), python_path=[CHECKOUT])
    homeserver = ExampleHomeserver(tmp_path, options, valkey)
    try:
        yield homeserver.start()
    finally:
        homeserver.stop()
        valkey.stop()
        postgres.drop_database(database)


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

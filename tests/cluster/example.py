# SPDX-License-Identifier: AGPL-3.0-or-later
"""The cluster that the example files in docs/ describe: only places and ports differ."""

import json
import re
from pathlib import Path

from tests.harness.cluster import MAIN, WORKERS, ClusterHomeserver
from tests.harness.deployment import CHECKOUT

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

    def at_port(self, port: int) -> int:
        """Where that listens which has this port in the examples."""
        ports = {
            MAIN_PORT: self.port,
            MAIN_REPLICATION_PORT: self.replication_ports[MAIN],
            VALKEY_PORT: self.valkey.port,
        }
        for number, name in enumerate(WORKERS, start=1):
            ports[9100 + number] = self.replication_ports[name]
            ports[8100 + number] = self.worker_ports.get(name, 0)
        return ports[port]

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
        return re.sub(r"(?<=port: )\d+", lambda match: str(self.at_port(int(match.group()))), text)

    def _config_files(self, name: str) -> list[Path]:
        return [*super()._config_files(name), self.directory / "test.yaml"]

# SPDX-License-Identifier: AGPL-3.0-or-later
"""Where pushers are moved to. What writes it, and when, is tested against a real server."""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from synapse_msc3881.storage.pusher_positions import PusherPosition, PusherPositionStore
from synapse_msc3881.storage.pusher_tags import PusherKey


class Api:
    """As much of the module API as runs a transaction on a database of one's own."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def run_db_interaction(self, _name: str, function: Callable[..., None]) -> None:
        function(self)

    def execute_batch(self, statement: str, rows: Sequence[Any]) -> None:
        self._connection.executemany(statement, rows)


def test_a_pusher_moves_forward_alone() -> None:
    """One that was set meanwhile stands in the present, and is not to push what was before."""
    connection = sqlite3.connect(":memory:")
    connection.execute(
        "CREATE TABLE pushers (user_name, app_id, pushkey, last_stream_ordering INTEGER)"
    )
    connection.executemany(
        "INSERT INTO pushers VALUES (?, 'app', 'key', ?)", [("@a", 5), ("@b", 50), ("@c", 5)]
    )
    api: Any = Api(connection)
    positions = [PusherPosition(PusherKey(user, "app", "key"), 20) for user in ("@a", "@b", "@x")]
    asyncio.run(PusherPositionStore(api).move(positions))
    found = connection.execute("SELECT user_name, last_stream_ordering FROM pushers")
    assert dict(found.fetchall()) == {"@a": 20, "@b": 50, "@c": 5}
    connection.close()

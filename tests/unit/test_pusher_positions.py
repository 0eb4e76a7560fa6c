# SPDX-License-Identifier: AGPL-3.0-or-later
"""Where pushers are moved to. What else writes it, and when, is tested against a real server."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Collection, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from synapse_msc3881 import seams
from synapse_msc3881.delivery.positions import ROWS_PER_POSITION, Positions
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


class Pusher:
    """As much of Synapse's pusher as has a position."""

    user_id, app_id, pushkey = "@bob", "app", "key"
    last_stream_ordering = 0


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_pusher_that_was_replaced_meanwhile_writes_no_position(
    is_replaced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it dropped by its old tags is nothing to the one that runs in its place."""
    key = PusherKey("@bob", "app", "key")
    moved: list[PusherPosition] = []
    later: list[Callable[[], Awaitable[None]]] = []

    async def move(positions: Collection[PusherPosition]) -> None:
        moved.extend(positions)

    running = {"app:key": Pusher()}
    hs: Any = SimpleNamespace(get_pusherpool=lambda: SimpleNamespace(pushers={"@bob": running}))
    api: Any = SimpleNamespace(
        delayed_background_call=lambda _ms, write, desc: later.append(write)  # noqa: ARG005
    )
    monkeypatch.setattr(seams, "before_shutdown", lambda *_: None)
    store: Any = SimpleNamespace(move=move)
    positions = Positions(hs, api, store)
    backlog: Any = SimpleNamespace(dropped=ROWS_PER_POSITION, position=lambda _after: 2000)
    pusher: Any = running["app:key"]
    positions.note(pusher, backlog)
    if is_replaced:
        running["app:key"] = Pusher()
    (write,) = later
    asyncio.run(write())  # type: ignore[arg-type]
    assert moved == ([] if is_replaced else [PusherPosition(key, 2000)])

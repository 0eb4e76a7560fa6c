# SPDX-License-Identifier: AGPL-3.0-or-later
"""Where pushers are moved to. What else writes it, and when, is tested against a real server."""

import asyncio
import sqlite3
from collections.abc import Callable, Collection, Coroutine, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from synapse_msc3881 import seams
from synapse_msc3881.delivery.http_backlog import HttpBacklog
from synapse_msc3881.delivery.positions import MS_PER_POSITION, ROWS_PER_POSITION, Positions
from synapse_msc3881.delivery.pusher_store import PusherStore
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
    asyncio.run(PusherPositionStore(api, "").move(positions))
    found = connection.execute("SELECT user_name, last_stream_ordering FROM pushers")
    assert dict(found.fetchall()) == {"@a": 20, "@b": 50, "@c": 5}
    connection.close()


class Pusher:
    """As much of Synapse's pusher as has a position."""

    user_id, app_id, pushkey = "@bob", "app", "key"
    last_stream_ordering = 0
    store: PusherStore


KEY = PusherKey("@bob", "app", "key")


class Server:
    """A process that runs Bob's pusher, which has dropped some rows; nothing waits in it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, dropped: int) -> None:
        self.moved: list[PusherPosition] = []
        #: What is to be called, and after how many milliseconds.
        self.later: list[tuple[float, Callable[[], Coroutine[Any, Any, None]]]] = []
        self._running: dict[str, Any] = {}
        pool = SimpleNamespace(pushers={"@bob": self._running})
        hs: Any = SimpleNamespace(get_pusherpool=lambda: pool)
        api: Any = SimpleNamespace(
            delayed_background_call=lambda ms, write, desc: self.later.append((ms, write))  # noqa: ARG005
        )
        monkeypatch.setattr(seams, "before_shutdown", lambda *_: None)
        store: Any = SimpleNamespace(move=self._move)
        self.positions = Positions(hs, api, store)
        nothing: Any = None
        self.backlog = HttpBacklog(KEY, ["phone"], nothing, nothing, nothing, lambda: 0.0)
        self.pusher = self.start_pusher()
        self.drop(dropped)
        #: Called when positions are written.
        self.on_move: Callable[[], None] = lambda: None

    async def _move(self, positions: Collection[PusherPosition]) -> None:
        self.on_move()
        self.moved.extend(positions)

    def drop(self, rows: int) -> None:
        self.backlog.dropped += rows
        self.backlog.walked_to += rows

    def start_pusher(self) -> Any:
        """Start the pusher, or another one in its place."""
        pusher: Any = Pusher()
        pusher.store = PusherStore(None, pusher, self.backlog, self.positions.note)
        self._running["app:key"] = pusher
        return pusher

    def note(self) -> None:
        self.positions.note(self.pusher, self.backlog)

    def wait(self, milliseconds: float) -> None:
        due = [write for ms, write in self.later if ms <= milliseconds]
        self.later = [(ms, write) for ms, write in self.later if ms > milliseconds]
        for write in due:
            asyncio.run(write())


@pytest.mark.parametrize("is_replaced", [False, True])
@pytest.mark.parametrize(
    ("dropped", "milliseconds"), [(ROWS_PER_POSITION, 1000), (1, MS_PER_POSITION)]
)
def test_a_pusher_that_was_replaced_meanwhile_writes_no_position(
    dropped: int, milliseconds: float, is_replaced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it dropped by its old tags is nothing to the one that runs in its place."""
    server = Server(monkeypatch, dropped)
    server.note()
    if is_replaced:
        server.start_pusher()
    server.wait(milliseconds)
    assert server.moved == ([] if is_replaced else [PusherPosition(KEY, dropped)])


def test_one_dropped_row_is_written_after_some_minutes_and_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or else it rings if the process is killed and then starts without the module."""
    server = Server(monkeypatch, 1)
    server.note()
    server.drop(1)
    server.note()
    assert [ms for ms, _ in server.later] == [MS_PER_POSITION]
    server.wait(MS_PER_POSITION - 1)
    assert server.moved == []
    server.wait(MS_PER_POSITION)
    assert server.moved == [PusherPosition(KEY, 2)]
    # It has dropped nothing since, so nothing is to be written.
    server.note()
    assert server.later == []


def test_what_is_dropped_while_a_position_is_written_is_written_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = Server(monkeypatch, 1)
    server.note()
    server.on_move = lambda: server.drop(1)
    server.wait(MS_PER_POSITION)
    assert server.moved == [PusherPosition(KEY, 1)]
    assert [ms for ms, _ in server.later] == [MS_PER_POSITION]
    server.on_move = lambda: None
    server.wait(MS_PER_POSITION)
    assert server.moved == [PusherPosition(KEY, 1), PusherPosition(KEY, 2)]
    assert server.later == []


@pytest.mark.parametrize(
    ("dropped", "milliseconds"), [(ROWS_PER_POSITION, 1000), (1, MS_PER_POSITION)]
)
def test_a_position_that_could_not_be_written_is_tried_again(
    dropped: int, milliseconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without anything new that is dropped: nobody may write to that room any more."""

    def fail() -> None:
        raise OSError("away")

    server = Server(monkeypatch, dropped)
    server.note()
    server.on_move = fail
    for _ in range(2):
        with pytest.raises(OSError, match="away"):
            server.wait(milliseconds)
        milliseconds = MS_PER_POSITION
    server.on_move = lambda: None
    server.wait(MS_PER_POSITION)
    assert server.moved == [PusherPosition(KEY, dropped)]
    assert server.later == []

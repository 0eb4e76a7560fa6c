# SPDX-License-Identifier: AGPL-3.0-or-later
"""How PostgreSQL looks for what starting pushers may have to push."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

import pytest

from synapse_msc3881.storage.push_actions import PushActionStore
from tests.harness.postgres import Database, Postgres

_ROWS = 20_000

#: As Synapse has them: what a look may go through.
_TABLE = """
    CREATE TABLE event_push_actions (
        room_id text NOT NULL, event_id text NOT NULL, user_id text NOT NULL,
        actions text NOT NULL, topological_ordering bigint, stream_ordering bigint,
        notif smallint, highlight smallint
    );
    CREATE INDEX rm_tokens ON event_push_actions
        (user_id, room_id, topological_ordering, stream_ordering);
    CREATE INDEX room_id_user_id ON event_push_actions (room_id, user_id);
    CREATE INDEX stream_highlight ON event_push_actions (highlight, stream_ordering)
        WHERE highlight = 0;
    CREATE INDEX stream_ordering ON event_push_actions (stream_ordering, user_id);
    CREATE INDEX u_highlight ON event_push_actions (user_id, stream_ordering);
"""
_EVENTS = """
    INSERT INTO event_push_actions
    SELECT '!room', '$' || n, '@' || n %% %s, '', n, n, 1, 0 FROM generate_series(1, %s) AS n
"""


class Api:
    """As much of the module API as runs a transaction, and keeps how it is done."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._found: list[tuple[Any, ...]] = []
        self.plan = ""

    async def run_db_interaction(self, _name: str, function: Callable[..., Any]) -> Any:
        return function(self)

    def execute(self, statement: str, parameters: Sequence[Any]) -> None:
        statement = statement.replace("?", "%s")
        plan = self._database.execute(f"EXPLAIN {statement}", parameters)
        self.plan += "\n".join(line for (line,) in plan)
        self._found = self._database.execute(statement, parameters)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self._found)


@pytest.fixture(scope="module")
def rows_of(start_postgres: Callable[[], Postgres]) -> Callable[[int], Database]:
    """Call it for a database with many rows of so many users."""

    def make(users: int) -> Database:
        database = start_postgres().create_database()
        database.execute(_TABLE)
        database.execute(_EVENTS, (users, _ROWS))
        database.execute("ANALYZE event_push_actions")
        return database

    return make


def _look(api: Any, *pairs: tuple[str, int]) -> Coroutine[Any, Any, set[tuple[str, int]]]:
    return PushActionStore(None, api).which_have_any(pairs)  # type: ignore[arg-type]


@pytest.mark.parametrize("users", [2, 30, 2000])
def test_a_first_look_goes_through_the_rows_of_nobody_else(
    rows_of: Callable[[int], Database], users: int
) -> None:
    """Whatever PostgreSQL knows of the table: for a user who is not known yet it only guesses."""
    api = Api(rows_of(users))
    behind, done, between = ("@1", 0), ("@1", _ROWS), ("@0x", 0)
    assert asyncio.run(_look(api, behind, done, between)) == {behind}
    assert "Index Scan using u_highlight" in api.plan, api.plan

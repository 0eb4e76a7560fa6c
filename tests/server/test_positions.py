# SPDX-License-Identifier: AGPL-3.0-or-later
"""The positions of many pushers, written while these push themselves."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import psycopg2
import psycopg2.extensions
import pytest

from synapse_msc3881.storage.pusher_positions import PusherPosition, PusherPositionStore
from synapse_msc3881.storage.pusher_tags import PusherKey
from tests.harness.deployment import Deployment
from tests.harness.waiting import wait_until

# Not Synapse's own table.
_SCHEMA = "msc3881_test_positions"


class Api:
    """As much of the module API as runs a transaction, isolated as Synapse's are."""

    def __init__(self, connection: psycopg2.extensions.connection) -> None:
        self._connection = connection

    async def run_db_interaction(self, _name: str, function: Callable[["Api"], None]) -> None:
        with self._connection:
            function(self)

    def execute(self, statement: str) -> None:
        self._connection.cursor().execute(statement)

    def execute_batch(self, statement: str, rows: Sequence[Any]) -> None:
        self._connection.cursor().executemany(statement.replace("?", "%s"), rows)


def test_a_pusher_that_pushes_meanwhile_undoes_nothing(deployment: Deployment) -> None:
    """Its own position stays where it has put it, and the others' are written."""
    database = deployment._database
    if database is None:
        pytest.skip("on SQLite one transaction follows the other")
    with closing(database._connect()) as pushing, closing(database._connect()) as moving:
        pushing.cursor().execute(
            f"CREATE SCHEMA {_SCHEMA}; CREATE TABLE {_SCHEMA}.pushers"
            " (user_name TEXT, app_id TEXT, pushkey TEXT, last_stream_ordering BIGINT);"
            f"INSERT INTO {_SCHEMA}.pushers VALUES ('@a', 'app', 'key', 5), ('@b', 'app', 'key', 5)"
        )
        pushing.commit()
        try:
            moving.cursor().execute(f"SET search_path TO {_SCHEMA}; SET lock_timeout TO 30000")
            moving.commit()
            moving.set_isolation_level(psycopg2.extensions.ISOLATION_LEVEL_REPEATABLE_READ)
            pushing.cursor().execute(
                f"UPDATE {_SCHEMA}.pushers SET last_stream_ordering = 30 WHERE user_name = '@b'"
            )
            api: Any = Api(moving)
            store = PusherPositionStore(api, "SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
            positions = [PusherPosition(PusherKey(user, "app", "key"), 20) for user in ("@a", "@b")]
            with ThreadPoolExecutor() as pool:
                move = pool.submit(lambda: asyncio.run(store.move(positions)))
                waits = (
                    "SELECT COUNT(*) FROM pg_stat_activity WHERE pid = %s"
                    " AND wait_event_type = 'Lock'"
                )
                pid = moving.info.backend_pid
                wait_until(lambda: database.execute(waits, (pid,)) == [(1,)], "the move waiting")
                pushing.commit()
                move.result()
            found = database.execute(
                f"SELECT user_name, last_stream_ordering FROM {_SCHEMA}.pushers"
            )
            assert dict(found) == {"@a": 20, "@b": 30}
        finally:
            moving.close()
            pushing.rollback()
            pushing.cursor().execute(f"DROP SCHEMA {_SCHEMA} CASCADE")
            pushing.commit()

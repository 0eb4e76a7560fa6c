# SPDX-License-Identifier: AGPL-3.0-or-later
"""How the tags of pushers are looked for. What is found is tested against real databases."""

import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest

from synapse_msc3881.failures import Failures
from synapse_msc3881.storage.migrations import _statements, schema_files
from synapse_msc3881.storage.pusher_tags import PusherTagStore

WHERE = [
    {"user_name": "@a"},
    {"app_id": "app", "pushkey": "key"},
    {"app_id": "app", "pushkey": "key", "user_name": "@a"},
]


class Transaction:
    """Keeps the plan of what it executes."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.plan: list[str] = []

    def execute(self, statement: str, parameters: list[Any]) -> None:
        rows = self._connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
        self.plan += [detail for *_, detail in rows]

    def __iter__(self) -> Iterator[tuple[str, str, str, str]]:
        return iter(())


@pytest.mark.parametrize("where", WHERE, ids="+".join)
def test_no_read_of_some_pushers_goes_through_the_table(where: dict[str, str]) -> None:
    connection = sqlite3.connect(":memory:")
    # As Synapse has it.
    connection.execute(
        "CREATE TABLE pushers"
        " (user_name, app_id, pushkey, device_id, UNIQUE (app_id, pushkey, user_name))"
    )
    for file in schema_files():
        for statement in _statements(file.read_text()):
            connection.execute(statement)
    txn: Any = Transaction(connection)
    failures = Failures(lambda _: None, lambda: 0.0)
    store = PusherTagStore(None, lambda *_: None, failures)  # type: ignore[arg-type]
    store.get_txn(txn, where)
    connection.close()
    assert txn.plan
    assert any(step.startswith("SEARCH") for step in txn.plan)
    assert not any(step.startswith("SCAN") for step in txn.plan), txn.plan

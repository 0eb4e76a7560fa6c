# SPDX-License-Identifier: AGPL-3.0-or-later
"""Statements of ours in the transaction of a method of Synapse's store."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from synapse_msc3881.seams.database import Joined

Transaction = list[str]


class Pool:
    """Keeps what each transaction did, and whether it was left to commit by itself."""

    def __init__(self, attempts: int = 1) -> None:
        self.done: list[tuple[str, Transaction, bool]] = []
        self.attempts = attempts

    async def runInteraction(
        self, desc: str, func: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        autocommit = kwargs.pop("db_autocommit", False)
        for _ in range(self.attempts - 1):  # as where the database has it repeated
            func([], *args, **kwargs)
        txn: Transaction = []
        result = func(txn, *args, **kwargs)
        self.done.append((desc, txn, autocommit))
        return result

    async def simple_upsert(self, table: str, value: str, desc: str) -> str:
        answer: str = await self.runInteraction(
            desc, self.simple_upsert_txn, table, value, db_autocommit=True
        )
        return answer

    def simple_upsert_txn(self, txn: Transaction, table: str, value: str) -> str:
        txn.append(f"upsert {table} {value}")
        return "upserted"


class Store:
    def __init__(self, pool: Pool) -> None:
        self.db_pool = pool
        self.name = "store"

    async def add(self, value: str) -> str:
        await self.db_pool.simple_upsert("others", value, desc="first")
        result = await self.db_pool.simple_upsert("pushers", value, desc="add")
        await self.db_pool.runInteraction("after", lambda txn: txn.append(self.name))
        return result

    async def delete(self, value: str) -> str:
        def delete_txn(txn: Transaction, value: str) -> str:
            txn.append(f"delete {value}")
            return self.name

        result: str = await self.db_pool.runInteraction(desc="delete", func=delete_txn, value=value)
        await self.db_pool.runInteraction("after", lambda txn: txn.append("after"))
        return result

    async def add_in_some_other_way(self, value: str) -> str:
        return value


def ours(txn: Any) -> int:
    txn.append("ours")
    return len(txn)


@pytest.mark.parametrize("attempts", [1, 3])
def test_they_run_in_the_upsert_of_the_table_and_once(attempts: int) -> None:
    pool = Pool(attempts)
    joined = Joined(ours, "pushers")
    assert asyncio.run(joined.call(Store(pool).add, "x")) == "upserted"
    assert (joined.ran, joined.given) == (True, 2)
    assert pool.done == [
        ("first", ["upsert others x"], True),
        ("add", ["upsert pushers x", "ours"], False),
        ("after", ["store"], False),
    ]


def test_without_a_table_they_run_in_the_first_transaction() -> None:
    pool = Pool()
    joined = Joined(ours)
    assert asyncio.run(joined.call(Store(pool).delete, value="x")) == "store"
    assert (joined.ran, joined.given) == (True, 2)
    assert pool.done == [("delete", ["delete x", "ours"], False), ("after", ["after"], False)]


def test_a_method_without_that_transaction_is_called_and_it_shows() -> None:
    pool = Pool()
    for native in (Store(pool).add_in_some_other_way, lambda value: Store(pool).delete(value)):
        joined = Joined(ours, "pushers")
        assert asyncio.run(joined.call(native, "x")) in ("x", "store")
        assert (joined.ran, joined.given) == (False, None)


def test_what_fails_did_not_run() -> None:
    def refuse(_txn: Any) -> None:
        raise ValueError("refused")

    pool = Pool()
    joined = Joined(refuse, "pushers")
    with pytest.raises(ValueError, match="refused"):
        asyncio.run(joined.call(Store(pool).add, "x"))
    assert not joined.ran
    assert [desc for desc, _, _ in pool.done] == ["first"]

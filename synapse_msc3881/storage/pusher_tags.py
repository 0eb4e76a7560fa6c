# SPDX-License-Identifier: AGPL-3.0-or-later
"""Reads and writes the profile tags of pushers; a pusher without a row has ``["global"]``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from synapse_msc3881.cascade.profile_tags import DEFAULT_TAGS
from synapse_msc3881.cascade.rulesets import from_json, to_json
from synapse_msc3881.failures import Failures, Fallback

if TYPE_CHECKING:
    from synapse.module_api import LoggingTransaction, ModuleApi


#: How many users one statement asks for.
_BATCH = 500


class PusherKey(NamedTuple):
    """What names a pusher. A tuple, since one is made for each pusher at startup."""

    user_id: str
    app_id: str
    pushkey: str


# The columns of Synapse's table `pushers` by which pushers are read, and ours for the same.
_COLUMNS = {"user_name": "user_id", "app_id": "app_id", "pushkey": "pushkey"}

_TAGS = (
    "SELECT t.user_id, t.app_id, t.pushkey, t.profile_tags FROM synapse_msc3881_pusher_tags AS t"
)
_OF_PUSHERS = f"""
    {_TAGS} INNER JOIN pushers AS p
        ON t.user_id = p.user_name AND t.app_id = p.app_id AND t.pushkey = p.pushkey
"""


class PusherTagStore:
    """The table of profile tags. Written on the main process, as the pushers are."""

    def __init__(
        self,
        api: ModuleApi,
        invalidate_txn: Callable[[LoggingTransaction, str], None],
        failures: Failures,
    ) -> None:
        """
        Args:
            api: runs the statements.
            invalidate_txn: tells all processes, with the transaction, that a user's tags changed.
            failures: where bad rows are reported.
        """
        self._api = api
        self._invalidate_txn = invalidate_txn
        self._failures = failures

    def get_txn(
        self, txn: LoggingTransaction, keyvalues: Mapping[str, Any]
    ) -> dict[PusherKey, tuple[str, ...]]:
        """The tags of the pushers that match, in one statement.

        Args:
            txn: the transaction that reads the pushers themselves.
            keyvalues: columns of Synapse's `pushers` and their values. Those that we do not
                have are left out: the answer may hold more pushers than match.
        """
        conditions = {
            _COLUMNS[name]: value for name, value in keyvalues.items() if name in _COLUMNS
        }
        if conditions and "user_id" not in conditions:
            # Only Synapse's table has an index by app and pushkey.
            tags, where = _OF_PUSHERS, " AND ".join(f"p.{column} = ?" for column in conditions)
        else:
            tags, where = _TAGS, " AND ".join(f"t.{column} = ?" for column in conditions)
        txn.execute(tags + (f" WHERE {where}" if where else ""), list(conditions.values()))
        return {
            PusherKey(user_id, app_id, pushkey): self._parse(tags, user_id, app_id)
            for user_id, app_id, pushkey, tags in txn
        }

    async def get(self, keyvalues: Mapping[str, Any]) -> dict[PusherKey, tuple[str, ...]]:
        """The same in a transaction of its own, where the pushers' cannot be had."""
        return await self._api.run_db_interaction(
            "msc3881_get_pusher_tags", self.get_txn, keyvalues
        )

    async def lists_for_users(self, user_ids: Collection[str]) -> dict[str, list[tuple[str, ...]]]:
        """For each user, the tags of each of their pushers that has others than the default."""

        def lists_txn(txn: LoggingTransaction) -> dict[str, list[tuple[str, ...]]]:
            lists: dict[str, list[tuple[str, ...]]] = {user_id: [] for user_id in user_ids}
            remaining = list(lists)
            while remaining:
                batch, remaining = remaining[:_BATCH], remaining[_BATCH:]
                marks = ", ".join("?" * len(batch))
                txn.execute(
                    "SELECT user_id, app_id, profile_tags FROM synapse_msc3881_pusher_tags"
                    f" WHERE user_id IN ({marks})",
                    batch,
                )
                for user_id, app_id, tags in txn:
                    lists[user_id].append(self._parse(tags, user_id, app_id))
            return lists

        return await self._api.run_db_interaction("msc3881_get_tag_lists", lists_txn)

    def put_txn(self, txn: LoggingTransaction, key: PusherKey, tags: Sequence[str]) -> None:
        """Write a pusher's tags, in the transaction that writes the pusher."""
        if tuple(tags) == DEFAULT_TAGS:
            self.delete_txn(txn, key)
            return
        txn.execute(
            """
            INSERT INTO synapse_msc3881_pusher_tags (user_id, app_id, pushkey, profile_tags)
            VALUES (?, ?, ?, ?)
            ON CONFLICT (user_id, app_id, pushkey) DO UPDATE SET
                profile_tags = EXCLUDED.profile_tags
            """,
            (*key, to_json(list(tags))),
        )
        self._invalidate_txn(txn, key.user_id)

    async def put(self, key: PusherKey, tags: Sequence[str]) -> None:
        """The same in a transaction of its own."""
        await self._api.run_db_interaction("msc3881_put_pusher_tags", self.put_txn, key, tags)

    def delete_txn(self, txn: LoggingTransaction, key: PusherKey) -> None:
        """Delete a pusher's tags, if it has any, in the transaction that deletes the pusher."""
        txn.execute(
            "DELETE FROM synapse_msc3881_pusher_tags"
            " WHERE user_id = ? AND app_id = ? AND pushkey = ?",
            key,
        )
        if txn.rowcount:
            self._invalidate_txn(txn, key.user_id)

    async def delete(self, key: PusherKey) -> None:
        """The same in a transaction of its own."""
        await self._api.run_db_interaction("msc3881_delete_pusher_tags", self.delete_txn, key)

    def delete_all_txn(self, txn: LoggingTransaction, user_id: str) -> None:
        """Delete the tags of all pushers of a user, in the transaction that deletes these."""
        txn.execute("DELETE FROM synapse_msc3881_pusher_tags WHERE user_id = ?", (user_id,))
        if txn.rowcount:
            self._invalidate_txn(txn, user_id)

    async def delete_all(self, user_id: str) -> None:
        """The same in a transaction of its own."""
        await self._api.run_db_interaction(
            "msc3881_delete_all_pusher_tags", self.delete_all_txn, user_id
        )

    def _parse(self, tags: str, user_id: str, app_id: str) -> tuple[str, ...]:
        try:
            return parse_stored_tags(tags)
        except (ValueError, TypeError) as error:
            row = f"the tags of a pusher of {app_id!r}"
            self._failures.report(Fallback.READ_TAGS, user_id, error, row)
            return DEFAULT_TAGS


# Most users have the same few lists, which then are in memory once.
@functools.lru_cache(maxsize=1000)
def parse_stored_tags(stored: str) -> tuple[str, ...]:
    """The profile tags in a row.

    Raises:
        ValueError, TypeError: it holds no list of strings.
    """
    parsed = from_json(stored)
    if not isinstance(parsed, list) or not all(isinstance(tag, str) for tag in parsed):
        raise TypeError("the profile tags are no list of strings")
    return tuple(parsed) or DEFAULT_TAGS

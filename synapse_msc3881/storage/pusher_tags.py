# SPDX-License-Identifier: AGPL-3.0-or-later
"""Reads and writes the profile tags of pushers; a pusher without a row has ``["global"]``.

Such a pusher follows its device's own settings, if the device has any (specification 9). So the
devices that have them are read with the tags, in the same statement.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import attr

from synapse_msc3881.cascade.profile_tags import DEFAULT_TAGS
from synapse_msc3881.cascade.rulesets import from_json, to_json
from synapse_msc3881.failures import Failures, Fallback

if TYPE_CHECKING:
    from synapse.module_api import LoggingTransaction, ModuleApi

    from synapse_msc3881 import seams


#: How many users one statement asks for.
_BATCH = 500


class PusherKey(NamedTuple):
    """What names a pusher. A tuple, since one is made for each pusher at startup."""

    user_id: str
    app_id: str
    pushkey: str

    @classmethod
    def of(cls, config: seams.PusherConfig) -> PusherKey:
        """What names a pusher as Synapse stores it."""
        return cls(config.user_name, config.app_id, config.pushkey)


class Device(NamedTuple):
    """What names a device."""

    user_id: str
    device_id: str


@attr.s(auto_attribs=True, frozen=True, slots=True)
class StoredTags:
    """What is stored about some pushers.

    Attributes:
        tags: the profile tags of those that do not have the default.
        own: the devices with settings of their own.
    """

    tags: Mapping[PusherKey, tuple[str, ...]]
    own: Collection[Device] = ()

    def __bool__(self) -> bool:
        return bool(self.tags or self.own)


@attr.s(auto_attribs=True, slots=True)
class UserTags:
    """What a user's pushers follow.

    Attributes:
        lists: the profile tags of each pusher that does not have the default.
        own: the devices with their own settings, and whether a pusher follows them.
    """

    lists: list[tuple[str, ...]] = attr.Factory(list)
    own: dict[str, bool] = attr.Factory(dict)

    def __bool__(self) -> bool:
        return bool(self.lists or self.own)

    def go_by(self, device_id: str) -> bool:
        """Whether a pusher follows a device's own settings, or lists them as a scope."""
        return self.own.get(device_id, False) or any(device_id in tags for tags in self.lists)


# The columns of Synapse's table `pushers` by which pushers are read, and ours for the same.
_COLUMNS = {"user_name": "user_id", "app_id": "app_id", "pushkey": "pushkey"}

# A row of the first kind is a pusher with its tags, one of the second a device.
_ALL = """
    SELECT t.user_id, t.app_id, t.pushkey, t.profile_tags
    FROM synapse_msc3881_pusher_tags AS t WHERE {tags}
    UNION ALL
    SELECT o.user_id, NULL, o.device_id, NULL
    FROM synapse_msc3881_own_settings AS o WHERE {own}
"""
# Only Synapse's table has an index by app and pushkey.
_OF_PUSHERS = """
    SELECT t.user_id, t.app_id, t.pushkey, t.profile_tags
    FROM synapse_msc3881_pusher_tags AS t INNER JOIN pushers AS p
        ON t.user_id = p.user_name AND t.app_id = p.app_id AND t.pushkey = p.pushkey
    WHERE {pushers}
    UNION ALL
    SELECT o.user_id, NULL, o.device_id, NULL
    FROM synapse_msc3881_own_settings AS o INNER JOIN pushers AS p
        ON o.user_id = p.user_name AND o.device_id = p.device_id
    WHERE {pushers}
"""

_OF_USERS = """
    SELECT user_id, app_id, profile_tags, NULL, 0 FROM synapse_msc3881_pusher_tags
    WHERE user_id IN ({marks})
    UNION ALL
    SELECT o.user_id, NULL, NULL, o.device_id, CASE WHEN EXISTS (
        SELECT 1 FROM pushers AS p
        WHERE p.user_name = o.user_id AND p.device_id = o.device_id AND NOT EXISTS (
            SELECT 1 FROM synapse_msc3881_pusher_tags AS t
            WHERE t.user_id = p.user_name AND t.app_id = p.app_id AND t.pushkey = p.pushkey
        )
    ) THEN 1 ELSE 0 END
    FROM synapse_msc3881_own_settings AS o WHERE o.user_id IN ({marks})
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

    def get_txn(self, txn: LoggingTransaction, keyvalues: Mapping[str, Any]) -> StoredTags:
        """What is stored about the pushers that match, in one statement.

        Args:
            txn: the transaction that reads the pushers themselves.
            keyvalues: columns of Synapse's `pushers` and their values. Those that we do not have
                are left out: the answer may include more pushers than match.
        """
        conditions = {
            _COLUMNS[name]: value for name, value in keyvalues.items() if name in _COLUMNS
        }
        values = list(conditions.values())
        if conditions and "user_id" not in conditions:
            where = " AND ".join(f"p.{column} = ?" for column in conditions)
            txn.execute(_OF_PUSHERS.format(pushers=where), values * 2)
        else:
            where = " AND ".join(f"t.{column} = ?" for column in conditions) or "1 = 1"
            of_user = "o.user_id = ?" if conditions else "1 = 1"
            users = [conditions["user_id"]] if conditions else []
            txn.execute(_ALL.format(tags=where, own=of_user), values + users)
        tags: dict[PusherKey, tuple[str, ...]] = {}
        own: set[Device] = set()
        for user_id, app_id, name, stored in txn:
            if app_id is None:
                own.add(Device(user_id, name))
            else:
                tags[PusherKey(user_id, app_id, name)] = self._parse(stored, user_id, app_id)
        return StoredTags(tags, own)

    async def get(self, keyvalues: Mapping[str, Any]) -> StoredTags:
        """The same in a separate transaction, if the pushers' cannot be joined."""
        return await self._api.run_db_interaction(
            "msc3881_get_pusher_tags", self.get_txn, keyvalues
        )

    async def of_users(self, user_ids: Collection[str]) -> dict[str, UserTags]:
        """What the pushers of each of the users follow, besides `global`."""

        def of_users_txn(txn: LoggingTransaction) -> dict[str, UserTags]:
            found = {user_id: UserTags() for user_id in user_ids}
            remaining = list(found)
            while remaining:
                batch, remaining = remaining[:_BATCH], remaining[_BATCH:]
                txn.execute(_OF_USERS.format(marks=", ".join("?" * len(batch))), batch * 2)
                for user_id, app_id, tags, device_id, is_followed in txn:
                    if app_id is None:
                        found[user_id].own[device_id] = bool(is_followed)
                    else:
                        found[user_id].lists.append(self._parse(tags, user_id, app_id))
            return found

        return await self._api.run_db_interaction("msc3881_get_tag_lists", of_users_txn)

    async def invalidate(self, user_id: str) -> None:
        """Tell all processes that what a user's pushers follow may have changed."""
        await self._api.run_db_interaction("msc3881_invalidate_tags", self._invalidate_txn, user_id)

    def put_txn(
        self,
        txn: LoggingTransaction,
        key: PusherKey,
        tags: Sequence[str],
        may_be_first: bool = False,
    ) -> None:
        """Write a pusher's tags, in the transaction that writes the pusher.

        Args:
            txn: that one.
            key: the pusher.
            tags: its profile tags.
            may_be_first: whether the pusher may be the first to follow its device's own settings,
                so that all processes must hear of it even if its tags are the default.
        """
        if tuple(tags) == DEFAULT_TAGS:
            self.delete_txn(txn, key)
            if may_be_first:
                self._invalidate_txn(txn, key.user_id)
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

    async def put(self, key: PusherKey, tags: Sequence[str], may_be_first: bool = False) -> None:
        """The same in a transaction of its own."""
        await self._api.run_db_interaction(
            "msc3881_put_pusher_tags", self.put_txn, key, tags, may_be_first
        )

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

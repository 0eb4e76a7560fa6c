# SPDX-License-Identifier: AGPL-3.0-or-later
"""Counts the users with device rules, all pushers, and devices with own settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import attr

if TYPE_CHECKING:
    from synapse.module_api import LoggingTransaction, ModuleApi

_USERS = "SELECT COUNT(DISTINCT user_id) FROM synapse_msc3881_device_rules"

_OWN = "SELECT COUNT(*) FROM synapse_msc3881_own_settings"

_PUSHERS = """
    SELECT COALESCE(p.enabled, TRUE), t.user_id IS NOT NULL, COUNT(*)
    FROM pushers AS p
    LEFT JOIN synapse_msc3881_pusher_tags AS t
        ON t.user_id = p.user_name AND t.app_id = p.app_id AND t.pushkey = p.pushkey
    GROUP BY 1, 2
"""


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Stored:
    """How much is stored.

    Attributes:
        users: the users with device rules.
        pushers: how many there are, by whether they are enabled and have profile tags.
        own: the devices with settings of their own.
    """

    users: int
    pushers: Mapping[tuple[bool, bool], int]
    own: int = 0


class StoredCounts:
    """Reads how much is stored."""

    def __init__(self, api: ModuleApi) -> None:
        self._api = api

    async def read(self) -> Stored:
        """Count; this reads whole tables."""

        def read_txn(txn: LoggingTransaction) -> Stored:
            txn.execute(_USERS)
            ((users,),) = txn.fetchall()
            txn.execute(_PUSHERS)
            pushers = {(bool(on), bool(tagged)): count for on, tagged, count in txn.fetchall()}
            txn.execute(_OWN)
            ((own,),) = txn.fetchall()
            return Stored(users, pushers, own)

        return await self._api.run_db_interaction("msc3881_census", read_txn)

# SPDX-License-Identifier: AGPL-3.0-or-later
"""Writes how far pushers have got, into Synapse's table `pushers`."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple

from synapse.module_api import ModuleApi

from synapse_msc3881.storage.pusher_tags import PusherKey

if TYPE_CHECKING:
    from synapse.module_api import LoggingTransaction


class PusherPosition(NamedTuple):
    """The stream ordering up to which a pusher is done with all events."""

    key: PusherKey
    reached: int


class PusherPositionStore:
    """The positions of pushers. Written on the process that runs the pusher, as Synapse does."""

    def __init__(self, api: ModuleApi, see_what_commits: str) -> None:
        """
        Args:
            api: runs the statements.
            see_what_commits: from `seams.read_committed`.
        """
        self._api = api
        self._see_what_commits = see_what_commits

    async def move(self, positions: Collection[PusherPosition]) -> None:
        """Move pushers forward, never back: one that was set meanwhile is in the present."""

        def move_txn(txn: LoggingTransaction) -> None:
            if self._see_what_commits:
                # Otherwise PostgreSQL would undo all of it whenever one of the pushers pushes.
                txn.execute(self._see_what_commits)
            txn.execute_batch(
                "UPDATE pushers SET last_stream_ordering = ?"
                " WHERE user_name = ? AND app_id = ? AND pushkey = ? AND last_stream_ordering < ?",
                [(reached, *key, reached) for key, reached in positions],
            )

        await self._api.run_db_interaction("msc3881_move_pushers", move_txn)

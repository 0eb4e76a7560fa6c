# SPDX-License-Identifier: AGPL-3.0-or-later
"""Fire time: what a pusher does with the events that concern its user (SEMANTICS 5).

A pusher of Synapse reaches the database through its `store` attribute. `PusherStore` stands there
for a pusher with profile tags: it answers what there is to push, by walking the tags over each
stored outcome.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attr

from synapse_msc3881 import seams
from synapse_msc3881.cascade.profile_tags import Action, Decision
from synapse_msc3881.metrics import Failures, Metrics
from synapse_msc3881.storage.push_actions import PushActionRow, PushActionStore
from synapse_msc3881.storage.pusher_tags import PusherKey

#: How many rows one statement reads.
BATCH = 100

#: After so many rows without a push the pusher's position is written, to be there at a restart.
ROWS_PER_POSITION = 1000


@attr.s(auto_attribs=True, frozen=True, slots=True)
class DecidedRow:
    """A row that the pusher is to push, with the actions of the rule that decided."""

    row: PushActionRow
    actions: list[Action]


class Backlog:
    """What one pusher with profile tags has decided to push and has not pushed yet.

    Each row is walked over once: the cost of one more event does not grow with what was dropped
    before, nor with how long a push has been waiting.
    """

    __slots__ = (
        "_failures",
        "_key",
        "_metrics",
        "_rows",
        "_tags",
        "_waiting",
        "dropped",
        "walked_to",
    )

    def __init__(
        self,
        key: PusherKey,
        tags: Sequence[str],
        rows: PushActionStore,
        failures: Failures,
        metrics: Metrics,
    ) -> None:
        self._metrics = metrics
        self._key = key
        self._tags = tags
        self._rows = rows
        self._failures = failures
        self._waiting: list[DecidedRow] = []
        #: All rows up to this stream ordering were walked over.
        self.walked_to = 0
        #: How many rows were dropped since the pusher's position was last written.
        self.dropped = 0

    async def oldest(self, after: int, upto: int, limit: int) -> list[DecidedRow]:
        """The oldest unread rows to push in a range of stream orderings, the first excluded."""
        self._start(after)
        while True:
            while len(self._waiting) < limit and await self._walk_batch(upto, False):
                pass
            await self._drop_read()
            if len(self._waiting) >= limit or self.walked_to >= upto:
                return self._waiting[:limit]

    async def newest(self, after: int, upto: int, limit: int) -> list[DecidedRow]:
        """The newest unread rows to push in a range, the first excluded, in no certain order."""
        self._start(after)
        while await self._walk_batch(upto, True):
            self._waiting = self._waiting[-limit:]
        self._waiting = self._waiting[-limit:]
        await self._drop_read()
        return self._waiting

    def _start(self, after: int) -> None:
        self._waiting = [waiting for waiting in self._waiting if _ordering(waiting) > after]
        self.walked_to = max(self.walked_to, after)

    async def _walk_batch(self, upto: int, with_received_ts: bool) -> bool:
        """Walk over some more rows; returns whether there may be yet more."""
        if self.walked_to >= upto:
            return False
        rows = await self._rows.rows(
            self._key.user_id, self.walked_to, upto, BATCH, with_received_ts
        )
        for row in rows:
            decision = self._decide(row)
            self._metrics.decided(decision)
            if decision is not None and decision.pushes:
                self._waiting.append(DecidedRow(row, list(decision.actions)))
            else:
                self.dropped += 1
        if len(rows) < BATCH:
            self.walked_to = upto
            return False
        self.walked_to = rows[-1].stream_ordering
        return True

    def _decide(self, row: PushActionRow) -> Decision | None:
        def report_bad(error: Exception) -> None:
            self._failures.report("fire", self._key.user_id, error, "this push goes by `global`")

        return row.outcomes(report_bad).decide(self._tags)

    async def _drop_read(self) -> None:
        unread = await self._rows.unread(
            self._key.user_id, [waiting.row for waiting in self._waiting]
        )
        orderings = {row.stream_ordering for row in unread}
        self._waiting = [waiting for waiting in self._waiting if _ordering(waiting) in orderings]


def _ordering(waiting: DecidedRow) -> int:
    return waiting.row.stream_ordering


class PusherStore:
    """Synapse's store, as a pusher with profile tags sees it."""

    __slots__ = ("_backlog", "_pusher", "_store")

    def __init__(self, store: Any, pusher: seams.Pusher, backlog: Backlog) -> None:
        """
        Args:
            store: Synapse's store.
            pusher: whose store this becomes.
            backlog: decides what to push.
        """
        self._store = store
        self._pusher = pusher
        self._backlog = backlog

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def get_unread_push_actions_for_user_in_range_for_http(
        self,
        user_id: str,  # noqa: ARG002 - always the pusher's
        min_stream_ordering: int,
        max_stream_ordering: int,
        limit: int = 20,
    ) -> list[seams.HttpPushAction]:
        """What an http pusher has to push, oldest first."""
        waiting = await self._backlog.oldest(min_stream_ordering, max_stream_ordering, limit)
        if not waiting:
            await self._write_position()
        return [
            seams.HttpPushAction(
                event_id=decided.row.event_id,
                room_id=decided.row.room_id,
                stream_ordering=decided.row.stream_ordering,
                actions=decided.actions,  # type: ignore[arg-type]
            )
            for decided in waiting
        ]

    async def get_unread_push_actions_for_user_in_range_for_email(
        self,
        user_id: str,  # noqa: ARG002 - always the pusher's
        min_stream_ordering: int,
        max_stream_ordering: int,
        limit: int = 20,
    ) -> list[seams.EmailPushAction]:
        """What an email pusher has to push, newest first."""
        waiting = await self._backlog.newest(min_stream_ordering, max_stream_ordering, limit)
        waiting = sorted(waiting, key=lambda decided: decided.row.received_ts or 0, reverse=True)
        return [
            seams.EmailPushAction(
                event_id=decided.row.event_id,
                room_id=decided.row.room_id,
                stream_ordering=decided.row.stream_ordering,
                actions=decided.actions,  # type: ignore[arg-type]
                received_ts=decided.row.received_ts,
            )
            for decided in waiting
        ]

    async def _write_position(self) -> None:
        """Write how far the pusher came, once it has dropped enough to matter at a restart."""
        backlog, pusher = self._backlog, self._pusher
        if backlog.dropped < ROWS_PER_POSITION:
            return
        backlog.dropped = 0
        try:
            # By the pusher's store, which is another one if it was stopped meanwhile.
            await pusher.store.update_pusher_last_stream_ordering(
                pusher.app_id, pusher.pushkey, pusher.user_id, backlog.walked_to
            )
        except seams.StoreError:
            return  # The pusher was removed meanwhile.
        pusher.last_stream_ordering = backlog.walked_to

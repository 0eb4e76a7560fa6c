# SPDX-License-Identifier: AGPL-3.0-or-later
"""Fire time: what a pusher does with the events that concern its user (specification 5).

A pusher of Synapse reaches the database through its `store` attribute. `PusherStore` stands there
for a pusher with profile tags: it answers what there is to push, by walking the tags over each
stored outcome.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attr

from synapse_msc3881 import seams
from synapse_msc3881.cascade.profile_tags import Action, Decision
from synapse_msc3881.failures import Failures, Fallback
from synapse_msc3881.metrics import Metrics
from synapse_msc3881.storage.push_actions import PushActionRow, PushActionStore
from synapse_msc3881.storage.pusher_tags import PusherKey

#: How many rows one statement reads.
BATCH = 100

#: An e-mail pusher keeps so many rows in memory, the newest; it reads older ones again.
KEPT = 100

#: What was read within so many seconds, and not handed out yet, is taken to be there still.
FRESH_SECONDS = 0.5
_LONG_AGO = 0.0

#: After so many rows without a push the pusher's position is written, to be there at a restart.
ROWS_PER_POSITION = 1000


@attr.s(auto_attribs=True, slots=True)
class DecidedRow:
    """A row that the pusher is to push.

    Attributes:
        row: what is stored.
        actions: those of the rule that decided.
        read_at: when it was seen in the table, in seconds.
    """

    row: PushActionRow
    actions: list[Action]
    read_at: float

    @property
    def ordering(self) -> int:
        return self.row.stream_ordering


class Backlog:
    """What one pusher with profile tags has decided to push and has not pushed yet.

    Each row is walked over once: the cost of one more event does not grow with what was dropped
    before, nor with how long a push has been waiting.
    """

    # There is one for each pusher with profile tags.
    __slots__ = (
        "_failures",
        "_key",
        "_metrics",
        "_now",
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
        now: Callable[[], float],
    ) -> None:
        """
        Args:
            key: the pusher.
            tags: its profile tags.
            rows: reads what was decided for users.
            failures: where bad rows are reported.
            metrics: where decisions are counted, each once.
            now: the time in seconds.
        """
        self._metrics = metrics
        self._key = key
        self._tags = tags
        self._rows = rows
        self._failures = failures
        self._now = now
        # By rising stream ordering.
        self._waiting: list[DecidedRow] = []
        #: All rows up to this stream ordering were walked over.
        self.walked_to = 0
        #: How many rows were dropped since the pusher's position was last written.
        self.dropped = 0

    async def next(self, after: int, upto: int, limit: int) -> list[DecidedRow]:
        """What to push now of a range of stream orderings, the first excluded.

        Returns:
            The oldest rows to push that are neither read nor gone, by rising stream ordering.
        """
        self._forget(after)
        while True:
            while len(self._waiting) < limit and self.walked_to < upto:
                await self._walk_on(upto)
            await self._drop_read_and_gone()
            if len(self._waiting) >= limit or self.walked_to >= upto:
                return self._waiting[:limit]

    def is_of_a_scope_alone(self, stream_ordering: int) -> bool:
        """Whether a row that was handed out last is one that `global` has no part in."""
        return any(
            waiting.ordering == stream_ordering and not waiting.row.notif
            for waiting in self._waiting
        )

    def _forget(self, upto: int) -> None:
        """Forget what was pushed, or given up."""
        self._waiting = [waiting for waiting in self._waiting if waiting.ordering > upto]
        self.walked_to = max(self.walked_to, upto)

    async def _walk_on(self, upto: int, *, with_received_ts: bool = False) -> None:
        """Walk over some rows more, the oldest."""
        rows = await self._rows.rows(
            self._key.user_id, self.walked_to, upto, BATCH, with_received_ts=with_received_ts
        )
        self._waiting += self._walk(rows)
        self.walked_to = upto if len(rows) < BATCH else rows[-1].stream_ordering

    def _walk(self, rows: Sequence[PushActionRow], is_first_time: bool = True) -> list[DecidedRow]:
        """Decide about rows; returns those to push."""
        to_push = []
        for row in rows:
            decision = self._decide(row)
            pushes = decision is not None and decision.pushes
            if is_first_time:
                self._metrics.decided(decision)
                self.dropped += not pushes
            if decision is not None and pushes:
                to_push.append(DecidedRow(row, list(decision.actions), self._now()))
        return to_push

    def _decide(self, row: PushActionRow) -> Decision | None:
        def report_bad(error: Exception) -> None:
            self._failures.report(Fallback.FIRE, self._key.user_id, error)

        return row.outcomes(report_bad).decide(self._tags)

    async def _drop_read_and_gone(self) -> None:
        asked, now = list(self._waiting), self._now()
        old = [waiting for waiting in asked if now - waiting.read_at > FRESH_SECONDS]
        to_push = await self._rows.to_push(
            self._key.user_id,
            [waiting.row for waiting in asked],
            [waiting.row for waiting in old],
        )
        for waiting in asked:  # The next time they will have waited.
            waiting.read_at = _LONG_AGO
        dropped = {waiting.ordering for waiting in asked} - to_push
        self._waiting = [waiting for waiting in self._waiting if waiting.ordering not in dropped]


class MailBacklog(Backlog):
    """The backlog of an e-mail pusher, which wants the newest rows.

    What waits may do so for a day, so only the newest rows are kept. Where many of them were read
    meanwhile, the older ones are read again, newest first.
    """

    __slots__ = ("_kept_from", "_walked_from")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # All rows to push from here to `walked_to` are kept; the former excluded, the latter not.
        self._kept_from: int | None = None
        # All rows from here to `walked_to` were counted.
        self._walked_from = 0

    async def next(self, after: int, upto: int, limit: int) -> list[DecidedRow]:
        """What to mail now of a range of stream orderings, the first excluded.

        Returns:
            The newest rows to push that are neither read nor gone, by rising stream ordering.
        """
        if self._kept_from is None:  # Nothing was walked over yet: begin at the newest.
            self._kept_from = self._walked_from = self.walked_to = upto
        self._forget(after)
        while self.walked_to < upto:
            await self._walk_on(upto, with_received_ts=True)
            if len(self._waiting) > KEPT:
                self._kept_from = self._waiting[-KEPT - 1].ordering
                self._waiting = self._waiting[-KEPT:]
        while True:
            await self._drop_read_and_gone()
            if len(self._waiting) >= limit or self._kept_from <= after:
                return self._waiting[-limit:]
            self._kept_from = await self._walk_back(after, self._kept_from)

    async def _walk_back(self, after: int, upto: int) -> int:
        """Walk over some older rows; returns up to where rows were not."""
        rows = await self._rows.rows(
            self._key.user_id, after, upto, BATCH, newest_first=True, with_received_ts=True
        )
        rows.reverse()
        seen = [row for row in rows if row.stream_ordering > self._walked_from]
        unseen = [row for row in rows if row.stream_ordering <= self._walked_from]
        older = [*self._walk(unseen), *self._walk(seen, is_first_time=False)]
        self._waiting = [*older, *self._waiting]
        reached = after if len(rows) < BATCH else rows[0].stream_ordering - 1
        self._walked_from = min(self._walked_from, reached)
        return reached


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
        waiting = await self._backlog.next(min_stream_ordering, max_stream_ordering, limit)
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
        waiting = await self._backlog.next(min_stream_ordering, max_stream_ordering, limit)
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

    async def update_pusher_last_stream_ordering_and_success(
        self,
        app_id: str,
        pushkey: str,
        user_id: str,
        last_stream_ordering: int,
        last_success: int,
    ) -> bool:
        """Write that all up to here is pushed."""
        if self._backlog.is_of_a_scope_alone(last_stream_ordering):
            # The count is as before. Without this the next receipt would say so to nobody, and the
            # notification would stay on the phone.
            seams.forget_badge(self._pusher)
        still_exists: bool = await self._store.update_pusher_last_stream_ordering_and_success(
            app_id, pushkey, user_id, last_stream_ordering, last_success
        )
        return still_exists

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

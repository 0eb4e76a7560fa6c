# SPDX-License-Identifier: AGPL-3.0-or-later
"""Fire time: what a pusher does with the events that concern its user (specification 5).

A pusher of Synapse reaches the database through its `store` attribute. `PusherStore` stands there
for a pusher with profile tags: it answers what there is to push, by walking the tags over each
stored outcome.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
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

#: An http pusher keeps so many rows in memory, as many as Synapse asks for at once: a row takes a
#: kilobyte, and when a gateway fails they wait for all pushers there. The others are read later.
MAX_WAITING = 20

#: An e-mail pusher keeps so many rows in memory, the newest; it reads older ones again.
KEPT = 100

#: What was read within so many seconds, and not handed out yet, is taken to be there still.
FRESH_SECONDS = 0.5
_LONG_AGO = float("-inf")


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
    def was_looked_for(self) -> bool:
        """Whether it was found unread and there, to be handed out."""
        return self.read_at == _LONG_AGO

    @property
    def ordering(self) -> int:
        return self.row.stream_ordering


_Decided = tuple[PushActionRow, Decision | None]


def _count_pushed(decided: Sequence[_Decided]) -> int:
    return sum(decision is not None and decision.pushes for _, decision in decided)


class Backlog:
    """What one pusher with profile tags has decided to push and has not pushed yet.

    Each row is walked over once: the cost of one more event does not grow with what was dropped
    before, nor with how long a push has been waiting.

    A row comes in one of two ways. `offer` takes those that were read for all users at once, as the
    events were stored; what it drops costs the pusher nothing. `next` reads what was not offered:
    from before the start, or what could not be taken then. No row is left between the two: all up
    to `walked_to` were walked over, and an offer is taken only where it goes on from there.
    """

    # There is one for each pusher with profile tags.
    __slots__ = (
        "_failures",
        "_is_reading",
        "_key",
        "_metrics",
        "_missed_to",
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
        missed_to: int = 0,
    ) -> None:
        """
        Args:
            key: the pusher.
            tags: its profile tags.
            rows: reads what was decided for users.
            failures: where bad rows are reported.
            metrics: where decisions are counted, each once.
            now: the time in seconds.
            missed_to: up to where rows may have been offered before this one was there.
        """
        self._metrics = metrics
        self._missed_to = missed_to
        # Whether rows are being read: up to where is not known yet.
        self._is_reading = False
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

    # --- Offered ---

    def offer(self, rows: Sequence[PushActionRow], after: int, upto: int, missed_to: int) -> bool:
        """Take the user's rows of some new events, or leave them to `next`.

        Args:
            rows: all that are up to `upto` and were not offered before; others may be among them.
            after: up to where the pusher has pushed.
            upto: the last stream ordering.
            missed_to: up to where rows were offered to nobody.

        Returns:
            Whether there is something to push, or to read, so that the pusher has to wake up.
        """
        self._forget(after)
        is_next = self.walked_to >= max(self._missed_to, missed_to)
        if self._is_reading or not is_next or len(self._waiting) >= MAX_WAITING:
            return self.miss(upto)
        new = [row for row in rows if row.stream_ordering > self.walked_to]
        new.sort(key=attrgetter("stream_ordering"))
        decided = [(row, self._decide(row)) for row in new]
        if not self._takes(decided):
            return self.miss(upto)
        self._waiting += self._keep(decided)
        self.walked_to = max(self.walked_to, upto)
        return self._has_to_push()

    def miss(self, upto: int) -> bool:
        """Take none of the rows of some new events: `next` is to read them.

        Returns:
            True: the pusher has to wake up.
        """
        self._missed_to = max(self._missed_to, upto)
        return True

    def skip(self, after: int, upto: int) -> None:
        """Note that there is nothing between two stream orderings, the first excluded."""
        if self.walked_to <= after:
            self.walked_to = upto

    def position(self, after: int) -> int:
        """Up to where the pusher is done with all events, `after` at least."""
        self._forget(after)
        return self._waiting[0].ordering - 1 if self._waiting else self.walked_to

    def _takes(self, decided: Sequence[_Decided]) -> bool:
        """Whether rows can be taken as they are offered."""
        return len(self._waiting) + _count_pushed(decided) <= MAX_WAITING

    def _has_to_push(self) -> bool:
        # Whatever waits: a pusher pushes 20 and sleeps until it is woken up again.
        return bool(self._waiting)

    # --- Read ---

    async def next(self, after: int, upto: int, limit: int) -> list[DecidedRow]:
        """What to push now of a range of stream orderings, the first excluded.

        Returns:
            The oldest rows to push that are neither read nor gone, by rising stream ordering.
        """
        self._forget(after)
        while True:
            while len(self._waiting) < limit and self.walked_to < upto:
                await self._walk_on(upto, limit)
            await self._drop_read_and_gone()
            if len(self._waiting) < limit and self.walked_to < upto:
                continue
            if all(waiting.was_looked_for for waiting in self._waiting[:limit]):
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

    async def _walk_on(self, upto: int, most: int, *, with_received_ts: bool = False) -> None:
        """Read some rows more, the oldest, and walk over them until `most` are waiting."""
        self._is_reading = True
        try:
            rows = await self._rows.rows(
                self._key.user_id, self.walked_to, upto, BATCH, with_received_ts=with_received_ts
            )
        finally:
            self._is_reading = False
        for row in rows:
            if len(self._waiting) >= most:
                return
            self._waiting += self._keep([(row, self._decide(row))])
            self.walked_to = row.stream_ordering
        if len(rows) < BATCH:
            self.walked_to = upto

    def _keep(self, decided: Sequence[_Decided], is_first_time: bool = True) -> list[DecidedRow]:
        """Count what was decided; returns the rows to push."""
        to_push = []
        for row, decision in decided:
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

    def skip(self, after: int, upto: int) -> None:
        """Note that there is nothing between two stream orderings, the first excluded."""
        if self._kept_from is None:
            self._kept_from = self._walked_from = after
            self.walked_to = upto

    def position(self, after: int) -> int:
        """Up to where the pusher is done with all events, `after` at least."""
        self._forget(after)
        is_done = not self._waiting and self._kept_from is not None and self._kept_from <= after
        return self.walked_to if is_done else after

    def _takes(self, decided: Sequence[_Decided]) -> bool:
        if _count_pushed(decided):
            return False  # It is read again, with the time at which it was received.
        if self._kept_from is None:  # Nothing was before the first that is offered.
            self._kept_from = self._walked_from = self.walked_to
        return True

    def _has_to_push(self) -> bool:
        return False  # What waits for its time has a timer.

    async def next(self, after: int, upto: int, limit: int) -> list[DecidedRow]:
        """What to mail now of a range of stream orderings, the first excluded.

        Returns:
            The newest rows to push that are neither read nor gone, by rising stream ordering.
        """
        if self._kept_from is None:  # Nothing was walked over yet: begin at the newest.
            self._kept_from = self._walked_from = self.walked_to = upto
        self._forget(after)
        while True:
            # Where there is nothing to mail, Synapse takes all to be done that came meanwhile, too.
            while self.walked_to < (newest := max(upto, self._missed_to)):
                await self._walk_on(newest, BATCH + KEPT, with_received_ts=True)
                if len(self._waiting) > KEPT:
                    self._kept_from = self._waiting[-KEPT - 1].ordering
                    self._waiting = self._waiting[-KEPT:]
            await self._drop_read_and_gone()
            if len(self._waiting) < limit and self._kept_from > after:
                self._kept_from = await self._walk_back(after, self._kept_from)
            elif self.walked_to >= self._missed_to:
                return self._waiting[-limit:]

    async def _walk_back(self, after: int, upto: int) -> int:
        """Walk over some older rows; returns up to where rows were not."""
        rows = await self._rows.rows(
            self._key.user_id, after, upto, BATCH, newest_first=True, with_received_ts=True
        )
        rows.reverse()
        seen = [row for row in rows if row.stream_ordering > self._walked_from]
        unseen = [row for row in rows if row.stream_ordering <= self._walked_from]
        older = [
            *self._keep([(row, self._decide(row)) for row in unseen]),
            *self._keep([(row, self._decide(row)) for row in seen], is_first_time=False),
        ]
        self._waiting = [*older, *self._waiting]
        reached = after if len(rows) < BATCH else rows[0].stream_ordering - 1
        self._walked_from = min(self._walked_from, reached)
        return reached


class PusherStore:
    """Synapse's store, as a pusher with profile tags sees it."""

    __slots__ = ("_note_position", "_pusher", "_store", "backlog")

    def __init__(
        self,
        store: Any,
        pusher: seams.Pusher,
        backlog: Backlog,
        note_position: Callable[[seams.Pusher, Backlog], None],
    ) -> None:
        """
        Args:
            store: Synapse's store.
            pusher: whose store this becomes.
            backlog: decides what to push.
            note_position: called where the pusher found nothing to push.
        """
        self._store = store
        self._pusher = pusher
        self._note_position = note_position
        self.backlog = backlog

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
        waiting = await self.backlog.next(min_stream_ordering, max_stream_ordering, limit)
        if not waiting:
            self._note_position(self._pusher, self.backlog)
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
        waiting = await self.backlog.next(min_stream_ordering, max_stream_ordering, limit)
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
        if self.backlog.is_of_a_scope_alone(last_stream_ordering):
            # The count is as before. Without this the next receipt would say so to nobody, and the
            # notification would stay on the phone.
            seams.forget_badge(self._pusher)
        still_exists: bool = await self._store.update_pusher_last_stream_ordering_and_success(
            app_id, pushkey, user_id, last_stream_ordering, last_success
        )
        return still_exists


def backlog_of(pusher: seams.Pusher) -> Backlog | None:
    """The backlog of a running pusher with profile tags; None for one without."""
    store: object = pusher.store
    return store.backlog if isinstance(store, PusherStore) else None

# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a pusher with profile tags has decided to push, of either kind (specification 5)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from operator import attrgetter

import attr

from synapse_msc3881.cascade.profile_tags import Action, Decision
from synapse_msc3881.failures import Failures, Fallback
from synapse_msc3881.metrics import Metrics
from synapse_msc3881.storage.push_actions import PushActionRow, PushActionStore
from synapse_msc3881.storage.pusher_tags import PusherKey

#: How many rows one statement reads.
BATCH = 100

#: A pusher with so many rows waiting is offered no more, since Synapse asks for no more at once: a
#: row takes a kilobyte, and when a gateway fails, all of its pushers keep theirs.
MAX_WAITING = 20

#: What was read within the last so many seconds, and not handed out yet, is assumed still to exist.
FRESH_SECONDS = 0.5
_LONG_AGO = float("-inf")


@attr.s(auto_attribs=True, slots=True)
class DecidedRow:
    """A row that the pusher should push.

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
        """Whether it was found to exist and to be unread, ready to be handed out."""
        return self.read_at == _LONG_AGO

    @property
    def ordering(self) -> int:
        """The row's stream ordering."""
        return self.row.stream_ordering


Decided = tuple[PushActionRow, Decision | None]


def count_pushed(decided: Sequence[Decided]) -> int:
    """How many of the rows are to be pushed."""
    return sum(decision is not None and decision.pushes for _, decision in decided)


class Backlog(ABC):
    """What one pusher with profile tags has decided to push but has not pushed yet.

    Each row is walked over once: the cost of one more event grows neither with what was dropped
    before nor with how long a push has been waiting.

    A row arrives in one of two ways. `offer` takes those that were read for all users at once when
    the events were stored; what it drops costs the pusher nothing. `next` reads what was not
    offered: what is from before the start, or could not be taken at the time. No row is lost
    between the two: all up to `walked_to` were walked over, and an offer is taken only if it
    follows on from there.

    Which rows come first, and how many are kept, depends on the kind of pusher.
    """

    # There is one for each pusher with profile tags.
    __slots__ = (
        "_failures",
        "_key",
        "_metrics",
        "_missed_to",
        "_now",
        "_rows",
        "_waiting",
        "dropped",
        "dropped_before",
        "own",
        "tags",
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
        own: str | None = None,
    ) -> None:
        """
        Args:
            key: the pusher.
            tags: its profile tags.
            rows: reads what was decided for users.
            failures: where bad rows are reported.
            metrics: counts each decision once.
            now: the time in seconds.
            missed_to: up to where rows may have been offered before this backlog existed.
            own: the pusher's device, where it goes by the settings of that.
        """
        self._metrics = metrics
        self._missed_to = missed_to
        self._key = key
        self.tags = tags
        #: The pusher's device, where it goes by the settings of that; this may change.
        self.own = own
        self._rows = rows
        self._failures = failures
        self._now = now
        # By ascending stream ordering.
        self._waiting: list[DecidedRow] = []
        #: All rows up to this stream ordering were walked over.
        self.walked_to = 0
        #: How many rows have been dropped.
        self.dropped = 0
        #: How many of these are behind the pusher's position as it is written.
        self.dropped_before = 0

    @property
    def newly_dropped(self) -> int:
        """How many dropped rows the pusher's position, as it is written, is not past."""
        return self.dropped - self.dropped_before

    # --- Offered ---

    def offer(self, rows: Sequence[PushActionRow], after: int, upto: int, missed_to: int) -> bool:
        """Take the user's rows of some new events, or leave them to `next`.

        Args:
            rows: all up to `upto` that were not offered before; others may be among them.
            after: up to where the pusher has pushed.
            upto: the last stream ordering.
            missed_to: up to where rows were not offered to anyone.

        Returns:
            Whether there is something to push or to read, so that the pusher must wake up.
        """
        self._forget(after)
        is_next = self.walked_to >= max(self._missed_to, missed_to)
        if not is_next or len(self._waiting) >= MAX_WAITING:
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
        """Take none of the rows of some new events: `next` will read them.

        Returns:
            True: the pusher must wake up.
        """
        self._missed_to = max(self._missed_to, upto)
        return True

    @abstractmethod
    def skip(self, after: int, upto: int) -> None:
        """Note that there is nothing between two stream orderings, the first excluded."""

    @abstractmethod
    def position(self, after: int) -> int:
        """Up to where the pusher is done with all events, `after` at least."""

    @abstractmethod
    def _takes(self, decided: Sequence[Decided]) -> bool:
        """Whether rows can be taken as they are offered."""

    @abstractmethod
    def _has_to_push(self) -> bool:
        """Whether the pusher must wake up for what is waiting."""

    # --- Read ---

    @abstractmethod
    async def next(self, after: int, upto: int, limit: int) -> list[DecidedRow]:
        """What to push now from a range of stream orderings, the first excluded.

        Returns:
            So many rows at most that are neither read nor gone, by ascending stream ordering.
        """

    def is_of_a_scope_alone(self, stream_ordering: int) -> bool:
        """Whether a row that was handed out last is there only for a device scope."""
        return any(
            waiting.ordering == stream_ordering and not waiting.row.notif
            for waiting in self._waiting
        )

    def _forget(self, upto: int) -> None:
        """Forget what was pushed or given up."""
        self._waiting = [waiting for waiting in self._waiting if waiting.ordering > upto]
        self.walked_to = max(self.walked_to, upto)

    async def _walk_on(self, upto: int, most: int, *, with_received_ts: bool = False) -> None:
        """Read some more rows, the oldest, and walk over them until `most` are waiting."""
        self.miss(upto)  # What is offered meanwhile comes after these.
        rows = await self._rows.rows(
            self._key.user_id, self.walked_to, upto, BATCH, with_received_ts=with_received_ts
        )
        for row in rows:
            if len(self._waiting) >= most:
                return
            self._waiting += self._keep([(row, self._decide(row))])
            self.walked_to = row.stream_ordering
        if len(rows) < BATCH:
            self.walked_to = upto

    def _keep(self, decided: Sequence[Decided], is_first_time: bool = True) -> list[DecidedRow]:
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

        return row.outcomes(report_bad).decide(self.tags, self.own)

    async def _drop_read_and_gone(self) -> None:
        asked, now = list(self._waiting), self._now()
        old = [waiting for waiting in asked if now - waiting.read_at > FRESH_SECONDS]
        to_push = await self._rows.to_push(
            self._key.user_id,
            [waiting.row for waiting in asked],
            [waiting.row for waiting in old],
        )
        for waiting in asked:  # By the next time they will have waited.
            waiting.read_at = _LONG_AGO
        dropped = {waiting.ordering for waiting in asked} - to_push
        self._waiting = [waiting for waiting in self._waiting if waiting.ordering not in dropped]

# SPDX-License-Identifier: AGPL-3.0-or-later
"""What an e-mail pusher has decided to push (specification 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from synapse_msc3881.delivery.backlog import BATCH, Backlog, Decided, DecidedRow, count_pushed

#: An e-mail pusher keeps the newest rows in memory, at most so many; it reads older ones again.
KEPT = 100


class MailBacklog(Backlog):
    """The backlog of an e-mail pusher, which wants the newest rows.

    Rows may wait for a day, so only the newest are kept. If the user has read many of these
    meanwhile, older rows are fetched again, newest first.
    """

    __slots__ = ("_kept_from", "_walked_from")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # All rows to push after this one, up to and including `walked_to`, are kept.
        self._kept_from: int | None = None
        # All rows from here to `walked_to` have been counted.
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

    def _takes(self, decided: Sequence[Decided]) -> bool:
        if count_pushed(decided):
            return False  # It is read again, with the time at which it was received.
        if self._kept_from is None:  # There was nothing before the first offer.
            self._kept_from = self._walked_from = self.walked_to
        return True

    def _has_to_push(self) -> bool:
        return False  # What is waiting for its time has a timer.

    async def next(self, after: int, upto: int, limit: int) -> list[DecidedRow]:
        """What to mail now from a range of stream orderings, the first excluded.

        Returns:
            The newest rows to push that are neither read nor gone, by ascending stream ordering.
        """
        if self._kept_from is None:  # Nothing has been walked over yet: begin at the newest.
            self._kept_from = self._walked_from = self.walked_to = upto
        self._forget(after)
        while True:
            # If there is nothing to mail, Synapse also takes what came meanwhile to be done.
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
        """Walk over some older rows; returns up to where rows were not walked over."""
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

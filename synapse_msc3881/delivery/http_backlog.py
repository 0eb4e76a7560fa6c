# SPDX-License-Identifier: AGPL-3.0-or-later
"""What an http pusher has decided to push (specification 5)."""

from __future__ import annotations

from collections.abc import Sequence

from synapse_msc3881.delivery.backlog import (
    MAX_WAITING,
    Backlog,
    Decided,
    DecidedRow,
    count_pushed,
)


class HttpBacklog(Backlog):
    """The backlog of an http pusher, which wants the oldest rows, and each as soon as it is there.

    It keeps only what Synapse asks for at once, and reads the others later.
    """

    __slots__ = ()

    def skip(self, after: int, upto: int) -> None:
        """Note that there is nothing between two stream orderings, the first excluded."""
        if self.walked_to <= after:
            self.walked_to = upto

    def position(self, after: int) -> int:
        """Up to where the pusher is done with all events, `after` at least."""
        self._forget(after)
        return self._waiting[0].ordering - 1 if self._waiting else self.walked_to

    def _takes(self, decided: Sequence[Decided]) -> bool:
        """Whether rows can be taken as they are offered."""
        return len(self._waiting) + count_pushed(decided) <= MAX_WAITING

    def _has_to_push(self) -> bool:
        # Whatever is waiting: a pusher pushes 20 and sleeps until it is woken again.
        return bool(self._waiting)

    async def next(self, after: int, upto: int, limit: int) -> list[DecidedRow]:
        """What to push now from a range of stream orderings, the first excluded.

        Returns:
            The oldest rows to push that are neither read nor gone, by ascending stream ordering.
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

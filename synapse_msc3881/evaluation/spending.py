# SPDX-License-Identifier: AGPL-3.0-or-later
"""Bounds what device rules may take of the server's time at an event.

Rules are cheap to write and can be dear to evaluate: Synapse allows a user 10,000, each with
patterns that take milliseconds, and evaluating stops the server from doing anything else. So there
are three bounds:

- Of each event, a user's patterns have a **share** that is free and nobody can take away. It is
  counted in work, not in time, so that it is the same on every machine. Ordinary rules never need
  more, whatever others send. Where very many use all of theirs at one event, it is smaller.
- Who needs more pays by CPU time, and may be a little **in debt**. For whoever is over that, rules
  with patterns do not match until the debt is paid; all others do.
- What all users together take beyond their shares is bounded in the same way, so that many
  accounts do not get more than a few.
"""

from __future__ import annotations

import time
from collections.abc import Callable

#: What a user's patterns may take of one event for nothing, in nanoseconds as `prefilter`
#: reckons them.
FREE_NS = 4_000_000

#: What all users' patterns may take of one event so, and what is left to each user all the same.
FREE_OF_EVENT_NS = 100_000_000
ALWAYS_FREE_NS = 1_000_000

#: What a user's device rules may take beyond that, and how much of it is made up for in a second.
MAX_DEBT_SECONDS = 0.050
REPAID_EACH_SECOND = 0.010

#: The same for all users together.
MAX_DEBT_OF_ALL_SECONDS = 0.100
REPAID_FOR_ALL_EACH_SECOND = 0.050

_MAX_REMEMBERED = 1000


class TooCostlyError(Exception):
    """A user's device rules have taken more of the server's time than they may."""


class Spending:
    """Who owes the server how much of its time. One for each homeserver and process."""

    def __init__(
        self,
        clock: Callable[[], float] = time.thread_time,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            clock: seconds of CPU time. Not of the day: a server that others slow down would charge
                its users for it.
            now: seconds of the day, in which debts are paid.
        """
        self.clock = clock
        self._now = now
        # What was owed, and when. Who owes nothing need not be in it.
        self._owed: dict[str, tuple[float, float]] = {}
        self._owed_by_all = (0.0, 0.0)
        self._over: set[str] = set()
        self._max_remembered = _MAX_REMEMBERED

    def is_over(self, user_id: str) -> bool:
        """Whether a user was over the bound, and has not paid all of it since."""
        if user_id not in self._over:
            return False
        if self._owes(user_id, self._now()) > 0:
            return True
        self._over.discard(user_id)
        del self._owed[user_id]
        return False

    def left(self, user_id: str) -> float:
        """The seconds that a user may spend now, beyond the share of an event."""
        now = self._now()
        return min(
            MAX_DEBT_SECONDS - self._owes(user_id, now),
            MAX_DEBT_OF_ALL_SECONDS - self._all_owe(now),
        )

    def charge(self, user_id: str, seconds: float) -> None:
        """Note what a user's device rules took, beyond the share of an event."""
        now = self._now()
        owed = self._owes(user_id, now) + seconds
        self._owed[user_id] = (owed, now)
        self._owed_by_all = (self._all_owe(now) + seconds, now)
        if owed >= MAX_DEBT_SECONDS:
            self._over.add(user_id)
        if len(self._owed) > self._max_remembered:
            self._forget_who_owes_nothing(now)

    def _forget_who_owes_nothing(self, now: float) -> None:
        self._owed = {each: owed for each, owed in self._owed.items() if self._owes(each, now) > 0}
        self._over.intersection_update(self._owed)
        # So that it is looked through once for as many users again.
        self._max_remembered = max(_MAX_REMEMBERED, 2 * len(self._owed))

    def _owes(self, user_id: str, now: float) -> float:
        owed, since = self._owed.get(user_id, (0.0, now))
        return max(0.0, owed - (now - since) * REPAID_EACH_SECOND)

    def _all_owe(self, now: float) -> float:
        owed, since = self._owed_by_all
        return max(0.0, owed - (now - since) * REPAID_FOR_ALL_EACH_SECOND)

# SPDX-License-Identifier: AGPL-3.0-or-later
"""Bounds what one user's device rules may cost the server.

Rules are cheap to write and can be dear to evaluate: Synapse allows a user 10,000, each with
patterns that take milliseconds. Evaluating stops the server from doing anything else, so a user
may take a little of its CPU time for each event, on average, and more for a moment. Whoever has
taken more goes by `global` until that is made up for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

#: What a user's device rules may take for each event that concerns the user, on average.
SECONDS_PER_EVENT = 0.001

#: What they may take beyond that for a moment, such as for many events that match a costly rule.
MAX_DEBT_SECONDS = 0.050


class TooCostlyError(Exception):
    """A user's device rules have taken more of the server's time than they may."""


class Spending:
    """Who owes the server how much of its time. One for each homeserver and process."""

    def __init__(self, clock: Callable[[], float] = time.thread_time) -> None:
        """
        Args:
            clock: seconds of CPU time. Not of the day: a server that others slow down, or that
                was asleep, would charge its users for it.
        """
        self.clock = clock
        # Users who owe nothing are not in it.
        self._owed: dict[str, float] = {}

    def start_event(self, user_ids: Iterable[str]) -> set[str]:
        """Make an allowance for an event to each of the users whom it concerns.

        Returns:
            Those who owe too much all the same: the event goes by `global` for them.
        """
        refused: set[str] = set()
        if not self._owed:
            return refused
        for user_id in self._owed.keys() & user_ids:
            owed = self._owed[user_id] - SECONDS_PER_EVENT
            if owed > 0:
                self._owed[user_id] = owed
            else:
                del self._owed[user_id]
            if owed >= MAX_DEBT_SECONDS:
                refused.add(user_id)
        return refused

    def left(self, user_id: str) -> float:
        """The seconds that a user may still spend on the event at hand."""
        return MAX_DEBT_SECONDS - self._owed.get(user_id, 0.0)

    def charge(self, user_id: str, seconds: float) -> None:
        """Note what a user's device rules took."""
        self._owed[user_id] = self._owed.get(user_id, 0.0) + seconds

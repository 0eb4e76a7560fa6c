# SPDX-License-Identifier: AGPL-3.0-or-later
"""Bounds how much of the server's time is spent on compiling one user's rules.

This is separate from what they may take at events (`spending`): a changed rule should apply to
the next event. But compiling everything again and again, because all rules or the tags change, must
end. Above the bound, what is new is compiled a little at a time.
"""

from __future__ import annotations

from collections.abc import Callable

#: What may be spent on a user in a burst: as much as compiling rules up to Synapse's limits takes.
MAX_DEBT_SECONDS = 1.0

#: What may be spent per second on average.
REPAID_EACH_SECOND = 0.01

_MAX_REMEMBERED = 1000


class CompileDebts:
    """How much was spent lately on which user. One for each homeserver and process."""

    def __init__(self, now: Callable[[], float]) -> None:
        """
        Args:
            now: the time, in seconds.
        """
        self._now = now
        # What was owed, and when.
        self._owed: dict[str, tuple[float, float]] = {}
        self._max_remembered = _MAX_REMEMBERED

    def is_over(self, user_id: str) -> bool:
        """Whether too much was spent on a user."""
        return self._owes(user_id, self._now()) > MAX_DEBT_SECONDS

    def charge(self, user_id: str, seconds: float) -> None:
        """Record what was spent on a user."""
        now = self._now()
        self._owed[user_id] = (self._owes(user_id, now) + seconds, now)
        if len(self._owed) > self._max_remembered:
            self._owed = {each: owed for each, owed in self._owed.items() if self._owes(each, now)}
            self._max_remembered = max(_MAX_REMEMBERED, 2 * len(self._owed))

    def _owes(self, user_id: str, now: float) -> float:
        owed, since = self._owed.get(user_id, (0.0, now))
        return max(0.0, owed - (now - since) * REPAID_EACH_SECOND)

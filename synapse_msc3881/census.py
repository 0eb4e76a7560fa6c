# SPDX-License-Identifier: AGPL-3.0-or-later
"""Counts what is stored, for the metrics, on the main process: pushers are written there, and it
hears of every change to device rules.

Counting reads whole tables, so neither a scrape nor a request does it: a change makes it due.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from synapse_msc3881.metrics import Metrics
from synapse_msc3881.storage.stored_counts import StoredCounts

logger = logging.getLogger(__name__)

#: Milliseconds from a change to counting.
DELAY_MS = 1000.0

#: Milliseconds from a failed count to the next try.
RETRY_MS = 60_000.0

#: Counting takes at most this fraction of the time: one part in so many.
_REST = 100

#: Runs a function as a background process after some milliseconds, as `ModuleApi` does.
CallLater = Callable[..., Any]


class Census:
    """Counts again soon after something has changed; the more that costs, the later."""

    def __init__(
        self,
        counts: StoredCounts,
        metrics: Metrics,
        call_later: CallLater,
        now: Callable[[], float],
    ) -> None:
        """
        Args:
            counts: counts what is stored.
            metrics: shows it.
            call_later: runs the count in the background.
            now: the time in seconds.
        """
        self._counts = counts
        self._metrics = metrics
        self._call_later = call_later
        self._now = now
        self._delay_ms = DELAY_MS
        self._is_due = False

    def changed(self) -> None:
        """Note that a pusher, profile tags or device rules have changed."""
        if not self._is_due:
            self._is_due = True
            self._call_later(self._delay_ms, self._count, desc="msc3881_census")

    async def _count(self) -> None:
        # What changes from here on may not be counted.
        self._is_due = False
        started = self._now()
        try:
            found = await self._counts.read()
        except Exception as error:  # noqa: BLE001 - the database may be away
            logger.warning("msc3881: counting what is stored failed, for now: %s", error)
            self._delay_ms = RETRY_MS
            self.changed()
            return
        self._delay_ms = max(DELAY_MS, (self._now() - started) * 1000 * _REST)
        self._metrics.show_stored(found.users, found.pushers, found.own)

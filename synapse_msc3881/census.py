# SPDX-License-Identifier: AGPL-3.0-or-later
"""Counts what is stored, for the metrics, on the main process: there pushers are written, and
there all changes of device rules are heard of.

Counting goes through the tables, so neither a scrape nor a request does it: a change makes it due.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from synapse_msc3881.metrics import Metrics
from synapse_msc3881.storage.stored_counts import StoredCounts

logger = logging.getLogger(__name__)

#: Milliseconds from a change to counting.
DELAY_MS = 1000.0

#: Milliseconds from counting that failed to trying again.
RETRY_MS = 60_000.0

#: Counting takes at most one part in so many of the time.
_REST = 100

#: Runs a function as a background process after so many milliseconds, as `ModuleApi` does it.
CallLater = Callable[..., Any]


class Census:
    """Counts again a little after something changed; the more it costs, the later."""

    def __init__(self, counts: StoredCounts, metrics: Metrics, call_later: CallLater) -> None:
        self._counts = counts
        self._metrics = metrics
        self._call_later = call_later
        self._delay_ms = DELAY_MS
        self._is_due = False

    def changed(self) -> None:
        """Say that a pusher, profile tags or device rules have changed."""
        if not self._is_due:
            self._is_due = True
            self._call_later(self._delay_ms, self._count, desc="msc3881_census")

    async def _count(self) -> None:
        # What changes from here on is not sure to be counted.
        self._is_due = False
        started = time.monotonic()
        try:
            found = await self._counts.read()
        except Exception as error:  # noqa: BLE001 - the database may be away
            logger.warning("msc3881: counting what is stored failed, for now: %s", error)
            self._delay_ms = RETRY_MS
            self.changed()
            return
        self._delay_ms = max(DELAY_MS, (time.monotonic() - started) * 1000 * _REST)
        self._metrics.show_stored(found.users, found.pushers)

# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the module counts, in Synapse's own ``/metrics``."""

from __future__ import annotations

import logging
from collections.abc import Callable

from prometheus_client import Counter

logger = logging.getLogger("synapse_msc3881")

_fallbacks = Counter(
    "synapse_msc3881_fallbacks",
    "Times the module failed at something and did what Synapse does instead, by seam",
    labelnames=["seam", "server_name"],
)

#: A user whose rules keep failing is logged once in this time, so that the log does not fill.
LOG_INTERVAL_SECONDS = 3600
_MAX_REMEMBERED = 10_000


class Failures:
    """Reports the module's own failures: each counted, each user and seam logged once an hour."""

    def __init__(self, server_name: str, now: Callable[[], float]) -> None:
        """
        Args:
            server_name: the homeserver's name, the label of its metrics.
            now: the time in seconds.
        """
        self._server_name = server_name
        self._now = now
        self._logged: dict[tuple[str, str], float] = {}

    def report(self, seam: str, user_id: str, error: BaseException, instead: str) -> None:
        """Count a failure, and log it unless the same was logged within the hour.

        Args:
            seam: where it failed: "load", "compile", "evaluate", "fire", "read", "explain" or
                "copy".
            user_id: whom it concerns.
            error: what was raised.
            instead: what is done instead, for the log.
        """
        _fallbacks.labels(seam=seam, server_name=self._server_name).inc()
        if not self._is_due((seam, user_id)):
            return
        # The error's text may quote a user's rule, so it is for debugging only.
        logger.error(
            "msc3881: %s failed for %s (%s); %s. Not logged again for this user for %d s",
            seam,
            user_id,
            type(error).__name__,
            instead,
            LOG_INTERVAL_SECONDS,
        )
        logger.debug("msc3881: %s failed for %s", seam, user_id, exc_info=error)

    def _is_due(self, key: tuple[str, str]) -> bool:
        now = self._now()
        last = self._logged.get(key)
        if last is not None and now - last < LOG_INTERVAL_SECONDS:
            return False
        if len(self._logged) >= _MAX_REMEMBERED:
            self._logged.clear()
        self._logged[key] = now
        return True

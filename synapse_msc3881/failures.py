# SPDX-License-Identifier: AGPL-3.0-or-later
"""What can fail, and what is done instead: nothing in the module may fail an event."""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import Enum

logger = logging.getLogger("synapse_msc3881")

#: A user whose rules keep failing is logged once in this time, so that the log does not fill up.
LOG_INTERVAL_SECONDS = 3600
_MAX_REMEMBERED = 10_000


class Fallback(Enum):
    """Something that can fail, with what is done instead.

    Attributes:
        reason: its name in the metric and in the log.
        instead: what is done instead, for the log.
    """

    LOAD = "load", "this event uses the rules as they were, or the `global` rules"
    COMPILE = (
        "compile",
        "until the rules change, events use the rules as they were, or the `global` rules",
    )
    COMPILE_RULE = "compile_rule", "the rule is left out"
    COMPILE_GLOBAL = "compile_global", "`global` counts as matching"
    EVALUATE = "evaluate", "this event uses the `global` rules"
    COST = "cost", "some of the user's rules do not match"
    FIRE = "fire", "this push uses the `global` rules"
    OFFER = "offer", "the pusher is woken up and reads its events itself"
    READ_RULES = "read_rules", "the rule is left out"
    READ_TAGS = "read_tags", 'the pusher has the tags ["global"]'
    EXPLAIN = "explain", "it is explained by the `global` rules"
    COPY = "copy", "what cannot be copied to the new room is left out"
    COPY_GLOBAL = "copy_global", "the rule is left out of the device's own settings"
    FORGET = "forget", "what is left of the device's own settings is deleted at the next start"
    SHOW_OWN = "show_own", "the device is shown the account's `global` rules"

    def __init__(self, reason: str, instead: str) -> None:
        self.reason = reason
        self.instead = instead


class Failures:
    """Reports the module's own failures: all are counted, and each logged once an hour per user."""

    def __init__(self, count: Callable[[Fallback], None], now: Callable[[], float]) -> None:
        """
        Args:
            count: counts one.
            now: the time in seconds.
        """
        self._count = count
        self._now = now
        self._logged: dict[tuple[Fallback, str, str], float] = {}

    def report(self, fallback: Fallback, user_id: str, error: BaseException, row: str = "") -> None:
        """Count a failure, and log it unless the same was logged within the hour.

        Args:
            fallback: what failed.
            user_id: the user concerned.
            error: what was raised.
            row: the row that is to blame, in words for the log: each bad row is logged.
        """
        self._count(fallback)
        if not self._is_due((fallback, user_id, row)):
            return
        # The error's text may quote a user's rule, so it is for debugging only.
        logger.error(
            "msc3881: %s failed for %s (%s%s); %s. Not logged again for this user for %d s",
            fallback.reason,
            user_id,
            type(error).__name__,
            f" in {row}" if row else "",
            fallback.instead,
            LOG_INTERVAL_SECONDS,
        )
        logger.debug("msc3881: %s failed for %s", fallback.reason, user_id, exc_info=error)

    def _is_due(self, key: tuple[Fallback, str, str]) -> bool:
        now = self._now()
        last = self._logged.get(key)
        if last is not None and now - last < LOG_INTERVAL_SECONDS:
            return False
        if len(self._logged) >= _MAX_REMEMBERED:
            self._logged.clear()
        self._logged[key] = now
        return True

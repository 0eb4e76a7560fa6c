# SPDX-License-Identifier: AGPL-3.0-or-later
"""Bounds the server time that device rules may take at an event.

Rules are cheap to write and can be expensive to evaluate: Synapse allows a user 10,000, each with
patterns that take milliseconds, and evaluating stops the server from doing anything else. So there
are three bounds:

- At each event, a user's patterns have a **share** that is free and nobody can take away. It is
  counted in work, not in time, so that it is the same on every machine. Ordinary rules never need
  more, whatever others send. If very many users need all of theirs at one event, it is smaller.
- Whoever needs more pays for it in CPU time, and may be a little **in debt**. Beyond that, rules
  with patterns do not match until the debt is paid; all others do.
- What all users together take beyond their shares is bounded in the same way, so that many
  accounts get no more than a few.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import attr

from synapse_msc3881.evaluation.conditions import pattern_ns
from synapse_msc3881.evaluation.prefilter import LOOK_NS
from synapse_msc3881.evaluation.running import CompiledRules, RunNative

#: What a user's patterns may take at one event free of charge, in nanoseconds as `prefilter`
#: estimates them.
FREE_NS = 4_000_000

#: The same for all users' patterns together, and what remains free for each user even beyond that.
FREE_OF_EVENT_NS = 100_000_000
ALWAYS_FREE_NS = 1_000_000

#: What a user's device rules may take beyond that, and how much of it is paid off per second.
MAX_DEBT_SECONDS = 0.050
REPAID_EACH_SECOND = 0.010

#: The same for all users together.
MAX_DEBT_OF_ALL_SECONDS = 0.100
REPAID_FOR_ALL_EACH_SECOND = 0.050

_MAX_REMEMBERED = 1000

T = TypeVar("T")


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
            clock: seconds of CPU time. By wall-clock time, users would be charged for whatever else
                slows the server down.
            now: seconds of wall-clock time, in which debts are paid.
        """
        self.clock = clock
        self._now = now
        # What was owed, and when. Users who owe nothing may be missing.
        self._owed: dict[str, tuple[float, float]] = {}
        self._owed_by_all = (0.0, 0.0)
        self._over: set[str] = set()
        self._max_remembered = _MAX_REMEMBERED

    def is_over(self, user_id: str) -> bool:
        """Whether a user was over the bound and has not yet paid off the whole debt."""
        if user_id not in self._over:
            return False
        if self._owes(user_id, self._now()) > 0:
            return True
        self._over.discard(user_id)
        del self._owed[user_id]
        return False

    def left(self, user_id: str) -> float:
        """How many seconds a user may spend now beyond an event's share."""
        now = self._now()
        return min(
            MAX_DEBT_SECONDS - self._owes(user_id, now),
            MAX_DEBT_OF_ALL_SECONDS - self._all_owe(now),
        )

    def charge(self, user_id: str, seconds: float) -> None:
        """Record what a user's device rules took beyond an event's share."""
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
        # The next look through it comes only after as many users again.
        self._max_remembered = max(_MAX_REMEMBERED, 2 * len(self._owed))

    def _owes(self, user_id: str, now: float) -> float:
        owed, since = self._owed.get(user_id, (0.0, now))
        return max(0.0, owed - (now - since) * REPAID_EACH_SECOND)

    def _all_owe(self, now: float) -> float:
        owed, since = self._owed_by_all
        return max(0.0, owed - (now - since) * REPAID_FOR_ALL_EACH_SECOND)


@attr.s(auto_attribs=True, slots=True, eq=False)
class EventShare:
    """How many nanoseconds all users' patterns may still take at one event free of charge."""

    left_ns: int = FREE_OF_EVENT_NS

    def take(self, work_ns: int) -> bool:
        """Take some of it; returns whether enough was left."""
        self.left_ns -= work_ns
        return self.left_ns >= 0


class MeteredRun:
    """Runs rules for one event and one user, who pays for whatever exceeds the event's share.

    Attributes:
        run_native: runs rules on the event.
        user, is_over, skipped, complete_scopes: as in `running.Run`.
    """

    __slots__ = (
        "_known",
        "_limit",
        "_share",
        "_spending",
        "_spent",
        "_started",
        "_work",
        "complete_scopes",
        "is_over",
        "run_native",
        "skipped",
        "user",
    )

    def __init__(
        self,
        run_native: RunNative,
        user: tuple[Any, ...],
        spending: Spending,
        share: EventShare,
        complete_scopes: int,
    ) -> None:
        """
        Args:
            run_native: runs rules on the event.
            user: as above.
            spending: what this user and others have spent.
            share: what is left of the event's share.
            complete_scopes: how many of the user's scopes are complete.
        """
        self.run_native = run_native
        self.user = user
        self._spending = spending
        self._share = share
        self._work = 0
        self._started: float | None = None
        self.complete_scopes = complete_scopes
        # Few users need it, and each is a user at an event: so it is made when it is needed.
        self._known: dict[object, Any] | None = None
        self.is_over = spending.is_over(user[0])
        self.skipped = 0

    def __call__(self, rules: CompiledRules) -> Sequence[Any]:
        """The actions of the first rule that matches."""
        return self.run_native(rules, *self.user)

    def once(self, what: object, find: Callable[[], T]) -> T:
        """What `find` returned when this was first asked."""
        if self._known is None:
            self._known = {}
        if what not in self._known:
            self._known[what] = find()
        found: T = self._known[what]
        return found

    def may(self, work_ns: int) -> bool:
        """Whether work that takes roughly this long may be done; if not, it counts as skipped."""
        if not self.is_over:
            work = self._work = self._work + work_ns
            if work <= ALWAYS_FREE_NS:
                return True
            if work <= FREE_NS and self._share.take(min(work_ns, work - ALWAYS_FREE_NS)):
                return True
            now = self._spending.clock()
            if self._started is None:
                self._started = now
                self._spent: float | None = None
                self._limit = now + self._spending.left(self.user[0])
            if now < self._limit:
                return True
            self._spent = now - self._started
            self.is_over = True
        self.skipped += 1
        return False

    def name_ns(self) -> int:
        """Roughly how many nanoseconds the user's name adds to a pattern."""
        _user_id, name, *_ = self.user
        return pattern_ns(name or "") - pattern_ns("")

    def look_at(self, groups: int) -> None:
        """Make the user pay for looking at this many groups of rules, more than usual."""
        if not self.is_over:
            self.may(LOOK_NS * groups)

    def settle(self) -> None:
        """Charge the user for what it took."""
        if self._started is None:
            return
        # What follows the first refusal takes no time that matters.
        spent = self._spending.clock() - self._started if self._spent is None else self._spent
        if spent > 0:
            self._spending.charge(self.user[0], spent)

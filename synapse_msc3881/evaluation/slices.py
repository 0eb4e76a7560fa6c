# SPDX-License-Identifier: AGPL-3.0-or-later
"""Long work on the reactor's thread, done in slices between which everything else can run.

However long one user's rules take, another request waits no longer than a slice and a step. Urgent
work goes first, then whatever has taken the fewest slices: a thousand users with a few rules are
done before one with thousands, whoever came first.

All work together is bounded as well. If there has been little else for a while, each slice is
followed by a pause: however many accounts cause work, most of the time is left for everything else.
"""

from __future__ import annotations

import heapq
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import attr

logger = logging.getLogger(__name__)

#: How much CPU time a slice takes, not counting its last step.
SLICE_SECONDS = 0.001

#: Those who wait for a piece of work get what is done of it after this time, or after the shorter
#: one if it has by then taken this much CPU time, which nothing ordinary does.
MAX_WAIT_SECONDS = 2.0
MAX_WAIT_FOR_MUCH_SECONDS = 0.5
MUCH_SECONDS = 0.1

#: How much CPU time all work may take in a burst: more than compiling takes after a start. Beyond
#: that, work gets this share of the time.
FREE_OF_ALL_SECONDS = 10.0
SHARE_OF_ALL = 0.25

#: Runs a coroutine as a background process after some milliseconds, like `ModuleApi`'s.
CallLater = Callable[..., Any]

#: Lets the reactor do everything else, for at least this many seconds.
Pause = Callable[[float], Awaitable[None]]


@attr.s(auto_attribs=True, slots=True, eq=False)
class _Work:
    steps: Iterator[object]
    done: Callable[[float, BaseException | None], None]
    late: Callable[[], None] | None
    since: float
    number: int
    spent: float = 0.0
    is_waited_for: bool = True

    def __lt__(self, other: _Work) -> bool:
        # First come, first served, except for work that takes longer than a slice.
        return self._rank < other._rank

    @property
    def _rank(self) -> tuple[bool, int, int]:
        return self.late is not None, int(self.spent / SLICE_SECONDS), self.number


class Slices:
    """Does the work of one homeserver on this process."""

    def __init__(
        self,
        call_later: CallLater,
        pause: Pause,
        clock: Callable[[], float] = time.thread_time,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            call_later: starts a background process.
            pause: lets the reactor do everything else.
            clock: seconds of CPU time.
            now: seconds of wall-clock time, for those who wait.
        """
        self._call_later = call_later
        self._pause = pause
        self._clock = clock
        self._now = now
        self._work: list[_Work] = []
        self._waited_for: deque[_Work] = deque()
        # Those of them that have taken a lot.
        self._dear: list[_Work] = []
        self._number = 0
        self._is_working = False
        # What was spent lately on all work, and when.
        self._owed = (0.0, 0.0)
        #: How many slices there have been so far.
        self.slices = 0

    def do(
        self,
        steps: Iterator[object],
        done: Callable[[float, BaseException | None], None],
        late: Callable[[], None] | None = None,
    ) -> None:
        """Do something step by step, soon.

        Args:
            steps: the work, in short steps. Nothing else may iterate over them.
            done: called at the end, with the CPU time taken and whatever was raised.
            late: called before the end if that is not reached within `MAX_WAIT_SECONDS`, or
                `MAX_WAIT_FOR_MUCH_SECONDS` if it takes much. None if the work is urgent: nothing
                can be done without it.
        """
        self._number += 1
        work = _Work(steps, done, late, self._now(), self._number)
        heapq.heappush(self._work, work)
        if late is not None:
            self._waited_for.append(work)
        if not self._is_working:
            self._is_working = True
            self._call_later(0, self._go_on, desc="msc3881_slices")

    async def _go_on(self) -> None:
        try:
            while self._work:
                pause = self._charge_all(self._do_slice())
                if self._work:
                    is_urgent = self._work[0].late is None
                    await self._pause(0 if is_urgent else pause)
        finally:
            self._is_working = False

    def _charge_all(self, spent: float) -> float:
        """Record what a slice took; returns how long to pause for it."""
        now = self._now()
        owed, since = self._owed
        owed = max(0.0, owed - (now - since) * SHARE_OF_ALL) + spent
        self._owed = (owed, now)
        return 0.0 if owed <= FREE_OF_ALL_SECONDS else spent * (1 / SHARE_OF_ALL - 1)

    def _do_slice(self) -> float:
        """Do one slice; returns how much CPU time it took."""
        self.slices += 1
        ended: list[tuple[_Work, BaseException | None]] = []
        began = now = self._clock()
        ends = now + SLICE_SECONDS
        while self._work and now < ends:
            work = heapq.heappop(self._work)
            goes_on, error = _take_step(work)
            before, now = now, self._clock()
            was_dear = work.spent >= MUCH_SECONDS
            work.spent += now - before
            if work.spent >= MUCH_SECONDS and not was_dear:
                self._dear.append(work)
            if goes_on:
                heapq.heappush(self._work, work)
            else:
                ended.append((work, error))
        # Those who wait continue within these calls, and may add more work.
        for work, error in ended:
            work.is_waited_for = False
            _call(work.done, work.spent, error)
        self._tell_who_waits()
        return now - began

    def _tell_who_waits(self) -> None:
        now = self._now()
        while self._waited_for and _wait_ends(self._waited_for[0], now - MAX_WAIT_SECONDS):
            self._waited_for.popleft()
        if self._dear:
            since = now - MAX_WAIT_FOR_MUCH_SECONDS
            self._dear = [work for work in self._dear if not _wait_ends(work, since)]


def _wait_ends(work: _Work, since: float) -> bool:
    """Whether nobody waits for the work any longer; those who have waited since then are told."""
    if work.is_waited_for and work.late is not None and work.since <= since:
        work.is_waited_for = False
        _call(work.late)
    return not work.is_waited_for


def _take_step(work: _Work) -> tuple[bool, BaseException | None]:
    """Whether the work continues after the step, and what the step raised."""
    try:
        next(work.steps)
    except StopIteration:
        return False, None
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - a panic in Rust is no Exception
        return False, error
    return True, None


def _call(function: Callable[..., None], *args: object) -> None:
    try:
        function(*args)
    except Exception:  # The other work must continue.
        logger.exception("msc3881: telling of work that was done failed")

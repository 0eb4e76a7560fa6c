# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whose pushers wake up when events have been stored, or when a pusher starts (specification 5).

For each batch of new events, Synapse asks in one statement whose pushers to wake. Ours brings the
rows as well, and each user's running pushers walk their tags over them at once, in memory: a pusher
that pushes nothing is not woken, and one that is woken already has the row.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from synapse_msc3881 import seams
from synapse_msc3881.delivery.positions import Positions
from synapse_msc3881.delivery.pusher_store import backlog_of
from synapse_msc3881.delivery.starting import FirstLook
from synapse_msc3881.evaluation.device_scopes import DeviceScopes
from synapse_msc3881.failures import Failures, Fallback
from synapse_msc3881.storage.push_actions import PushActionRow, PushActionStore, UserRow

if TYPE_CHECKING:
    from synapse.server import HomeServer

#: With more rows than this at once, only the users are asked for, and the pushers read their own.
MAX_ROWS = 10_000


class Waking:
    """The module's part in waking the pushers of one homeserver."""

    def __init__(
        self,
        hs: HomeServer,
        scopes: DeviceScopes,
        push_actions: PushActionStore,
        positions: Positions,
        failures: Failures,
    ) -> None:
        """
        Args:
            hs: the homeserver.
            scopes: knows whose pushers have profile tags.
            push_actions: what was decided for users.
            positions: writes the positions of pushers that are not woken.
            failures: where to report pushers that cannot take what they are offered.
        """
        self._hs = hs
        self._scopes = scopes
        self._push_actions = push_actions
        self._positions = positions
        self._failures = failures
        self._first_look = FirstLook(push_actions)
        # The questions in progress, the earliest first, each by its last stream ordering.
        self._asked: list[_Question] = []
        # Up to here, users were told whom it concerned.
        self._answered_to = 0
        # Up to here, rows may have been offered to no pusher.
        self._missed_to = 0

    async def users_to_wake(
        self,
        native: Callable[[int, int], Awaitable[Iterable[str]]],
        min_stream_ordering: int,
        max_stream_ordering: int,
    ) -> Iterable[str]:
        """Wrap the question of whose pushers to wake."""
        if not self._scopes.users:
            self._missed_to = max(self._missed_to, max_stream_ordering)
            return await native(min_stream_ordering, max_stream_ordering)
        # Synapse asks again about the last event of the previous time.
        after = min_stream_ordering - (min_stream_ordering > self._answered_to)
        question = _Question()
        self._asked.append(question)
        try:
            users = await self._users_to_wake(after, max_stream_ordering, question)
        except Exception:
            self._missed_to = max(self._missed_to, max_stream_ordering)
            raise
        finally:
            self._asked.remove(question)
        self._answered_to = max(self._answered_to, max_stream_ordering)
        return users

    async def may_have_push(
        self, native: Callable[[str, int], Awaitable[bool]], user_id: str, min_stream_ordering: int
    ) -> bool:
        """Wrap the question whether a starting pusher may have something to push."""
        if user_id not in self._scopes.users:
            return await native(user_id, min_stream_ordering)
        # What is stored later is offered to them.
        upto = {
            backlog: pusher.max_stream_ordering
            for pusher in seams.running_pushers(self._hs, user_id)
            if (backlog := backlog_of(pusher)) is not None
            and pusher.last_stream_ordering >= min_stream_ordering
        }
        may_have = await self._first_look.may_have_push(user_id, min_stream_ordering)
        if not may_have:
            for backlog, ordering in upto.items():
                backlog.skip(min_stream_ordering, ordering)
        return may_have

    async def _users_to_wake(self, after: int, upto: int, question: _Question) -> list[str]:
        rows = await self._push_actions.rows_of_all(after, upto, MAX_ROWS)
        if rows is None:
            users = await self._push_actions.users_to_wake(after + 1, upto)
            return [user_id for user_id in users if self._miss(user_id, upto)]
        by_user = _by_user(rows)
        if self._asked[0] is not question:
            # The rows of an earlier question are not known yet, so these would not follow on.
            return [user_id for user_id in by_user if self._miss(user_id, upto)]
        return [
            user_id for user_id, of_user in by_user.items() if self._offer(user_id, of_user, upto)
        ]

    def _offer(self, user_id: str, user_rows: Sequence[UserRow], upto: int) -> bool:
        """Offer a user's rows to the running pushers; returns whether any of them must wake up."""
        pushers = seams.running_pushers(self._hs, user_id)
        if not pushers:
            return False
        wakes = False
        rows = list(map(PushActionRow.of, user_rows))
        for pusher in pushers:
            backlog = backlog_of(pusher)
            if backlog is None:
                wakes = wakes or any(row.notif for row in rows)
                continue
            try:
                offered = backlog.offer(rows, pusher.last_stream_ordering, upto, self._missed_to)
                self._positions.note(pusher, backlog)
            except Exception as error:  # noqa: BLE001 - it must not keep other pushers asleep
                self._failures.report(Fallback.OFFER, user_id, error)
                offered = backlog.miss(upto)
            wakes = offered or wakes
        return wakes

    def _miss(self, user_id: str, upto: int) -> bool:
        """Have a user's running pushers read their rows; returns whether there are any."""
        pushers = list(seams.running_pushers(self._hs, user_id))
        for pusher in pushers:
            if (backlog := backlog_of(pusher)) is not None:
                backlog.miss(upto)
        return bool(pushers)


def _by_user(rows: Sequence[UserRow]) -> Mapping[str, Sequence[UserRow]]:
    if len({row[0] for row in rows}) == len(rows):  # One event, most of the time.
        return {row[0]: (row,) for row in rows}
    by_user: dict[str, list[UserRow]] = {}
    for row in rows:
        by_user.setdefault(row[0], []).append(row)
    return by_user


class _Question:
    """Stands for one question of whose pushers to wake."""

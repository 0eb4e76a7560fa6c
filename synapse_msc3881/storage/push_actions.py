# SPDX-License-Identifier: AGPL-3.0-or-later
"""Reads Synapse's table `event_push_actions`, including rows that only a device scope caused.

Such a row has ``notif = 0``, so that no count includes it, and starts with our mark.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, cast

import attr

from synapse_msc3881 import seams
from synapse_msc3881.cascade.outcomes import MARK
from synapse_msc3881.cascade.profile_tags import Action
from synapse_msc3881.cascade.stored_outcomes import Outcomes

if TYPE_CHECKING:
    from synapse.module_api import LoggingTransaction, ModuleApi
    from synapse.server import HomeServer

# Rows to push for someone: those of `global`, and ours. Not LIKE with a parameter, for which
# SQLite would plan each statement again.
_OURS = f'[{{"{MARK}"'
_RELEVANT = f"(notif = 1 OR SUBSTR(actions, 1, {len(_OURS)}) = '{_OURS}')"

# In one statement: SQLite may take few parameters.
_PAIRS_AT_ONCE = 100


@attr.s(auto_attribs=True, frozen=True, slots=True)
class PushActionRow:
    """What was decided for one user when one event arrived."""

    event_id: str
    room_id: str
    thread_id: str
    stream_ordering: int
    actions: str  # as stored: JSON, or shortened by Synapse
    highlight: bool
    notif: bool
    received_ts: int | None = None  # milliseconds; read only for e-mail

    @classmethod
    def of(cls, row: UserRow) -> PushActionRow:
        """The row, whoever its user is."""
        return cls(*row[1:])

    def outcomes(self, report_bad: Callable[[Exception], None]) -> Outcomes:
        """What the row says about the user's scopes.

        Args:
            report_bad: called if it cannot be read, so that only `global` is left.
        """
        try:
            return read_outcomes(self.actions, self.highlight, self.notif)
        except Exception as error:  # noqa: BLE001 - a bad row must not stop whoever reads it
            report_bad(error)
            return Outcomes.of_global(self._readable_actions(), self.notif)

    def _readable_actions(self) -> list[Action]:
        try:
            return seams.deserialize_actions(self.actions, self.highlight)
        except Exception:  # noqa: BLE001 - as above
            return ["notify"]  # What `global` says.


# Users with the same tags who mute the same room have equal rows, and all of a user's pushers read
# the user's.
@functools.lru_cache(maxsize=500)
def read_outcomes(actions: str, highlight: bool, notif: bool) -> Outcomes:
    """What a row says about the user's scopes.

    Raises:
        Exception: it cannot be read.
    """
    return Outcomes.read(seams.deserialize_actions(actions, highlight), notif)


#: A user's ID, and the fields of the user's row. A plain tuple, as it is read: there is one for
#: each member of a room, and Python's garbage collector does not track it.
UserRow = tuple[str, str, str, str, int, str, bool, bool]


class PushActionStore:
    """Synapse's table of push actions, read only."""

    def __init__(self, hs: HomeServer, api: ModuleApi) -> None:
        self._hs = hs
        self._api = api

    async def users_to_wake(self, low: int, high: int) -> list[str]:
        """The users with something to push between two stream orderings, both included."""

        def users_txn(txn: LoggingTransaction) -> list[str]:
            txn.execute(
                "SELECT DISTINCT user_id FROM event_push_actions"
                f" WHERE stream_ordering >= ? AND stream_ordering <= ? AND {_RELEVANT}",
                (low, high),
            )
            return [user_id for (user_id,) in txn]

        return await self._api.run_db_interaction("msc3881_users_to_wake", users_txn)

    async def rows_of_all(self, after: int, upto: int, limit: int) -> list[UserRow] | None:
        """The rows of all users in a range of stream orderings, the first excluded.

        Args:
            after: the stream ordering before the first.
            upto: the last stream ordering.
            limit: how many rows at most.

        Returns:
            The rows, in no particular order; None if there are more than `limit`.
        """

        def rows_txn(txn: LoggingTransaction) -> list[UserRow] | None:
            txn.execute(
                "SELECT user_id, event_id, room_id, thread_id, stream_ordering, actions,"
                " highlight, notif FROM event_push_actions"
                f" WHERE stream_ordering > ? AND stream_ordering <= ? AND {_RELEVANT} LIMIT ?",
                (after, upto, limit + 1),
            )
            rows = cast("list[UserRow]", txn.fetchall())
            return rows if len(rows) <= limit else None

        return await self._api.run_db_interaction("msc3881_push_actions_of_all", rows_txn)

    async def which_have_any(self, pairs: Sequence[tuple[str, int]]) -> set[tuple[str, int]]:
        """Which users may have something to push after a stream ordering.

        Args:
            pairs: user ids, each with a stream ordering.

        Returns:
            Those of them that may.
        """

        def which_have_any_txn(txn: LoggingTransaction) -> set[tuple[str, int]]:
            found: set[tuple[str, int]] = set()
            for first in range(0, len(pairs), _PAIRS_AT_ONCE):
                some = pairs[first : first + _PAIRS_AT_ONCE]
                marks = ", ".join(["(?, ?)"] * len(some))
                txn.execute(
                    f"WITH pairs (of_user, after) AS (VALUES {marks})"
                    # A subquery with LIMIT is run for each pair: one look at an index. It asks for
                    # what is later of the same user in that index's order, as PostgreSQL would take
                    # "=" with few users for a reason to go through the table, or others' rows.
                    " SELECT of_user, after FROM pairs WHERE 1 = ("
                    " SELECT 1 FROM event_push_actions"
                    " WHERE (user_id, stream_ordering) > (of_user, after) AND user_id <= of_user"
                    f" AND {_RELEVANT} ORDER BY user_id, stream_ordering LIMIT 1)",
                    [value for pair in some for value in pair],
                )
                found.update((user_id, after) for user_id, after in txn)
            return found

        return await self._api.run_db_interaction("msc3881_which_have_any", which_have_any_txn)

    async def rows(
        self,
        user_id: str,
        after: int,
        upto: int,
        limit: int,
        *,
        newest_first: bool = False,
        with_received_ts: bool = False,
    ) -> list[PushActionRow]:
        """Some of a user's rows in a range of stream orderings, the first excluded.

        Args:
            user_id: whose.
            after: the stream ordering before the first.
            upto: the last stream ordering.
            limit: how many rows at most.
            newest_first: whether to return the newest, by descending stream ordering; otherwise the
                oldest, ascending.
            with_received_ts: whether to read when each event was received.
        """
        received_ts, events = "NULL", ""
        if with_received_ts:
            received_ts, events = "e.received_ts", "INNER JOIN events AS e USING (event_id)"

        def rows_txn(txn: LoggingTransaction) -> list[PushActionRow]:
            txn.execute(
                "SELECT ep.event_id, ep.room_id, ep.thread_id, ep.stream_ordering, ep.actions,"
                f" ep.highlight, ep.notif, {received_ts}"
                f" FROM event_push_actions AS ep {events}"
                " WHERE ep.user_id = ? AND ep.stream_ordering > ? AND ep.stream_ordering <= ?"
                f" AND {_RELEVANT}"
                f" ORDER BY ep.stream_ordering {'DESC' if newest_first else 'ASC'} LIMIT ?",
                (user_id, after, upto, limit),
            )
            return [PushActionRow(*row) for row in txn]

        return await self._api.run_db_interaction("msc3881_push_action_rows", rows_txn)

    async def to_push(
        self, user_id: str, rows: Collection[PushActionRow], look_for: Collection[PushActionRow]
    ) -> set[int]:
        """The stream orderings of the user's rows that are still to be pushed.

        A row is not, once its event has been read, according to Synapse; nor once Synapse has
        deleted it, as it does if the event was redacted or is a day old.

        Args:
            user_id: whose.
            rows: the rows in question.
            look_for: those of them that may be gone. For the others, only the receipts are read.
        """
        if not rows:
            return set()

        def to_push_txn(txn: LoggingTransaction) -> set[int]:
            gone = {row.stream_ordering for row in look_for} - _there_txn(txn, user_id, look_for)
            receipts = seams.read_receipts_txn(
                txn,
                self._hs,
                user_id,
                {row.room_id for row in rows},
                {row.thread_id for row in rows},
            )
            return {
                row.stream_ordering
                for row in rows
                if row.stream_ordering not in gone
                and (
                    row.room_id not in receipts
                    or receipts[row.room_id].is_unread(row.thread_id, row.stream_ordering)
                )
            }

        return await self._api.run_db_interaction("msc3881_push_actions_to_push", to_push_txn)


def _there_txn(txn: LoggingTransaction, user_id: str, rows: Collection[PushActionRow]) -> set[int]:
    if not rows:
        return set()
    marks = ", ".join("?" * len(rows))
    txn.execute(
        "SELECT stream_ordering FROM event_push_actions"
        f" WHERE user_id = ? AND stream_ordering IN ({marks})",
        [user_id, *(row.stream_ordering for row in rows)],
    )
    return {ordering for (ordering,) in txn}

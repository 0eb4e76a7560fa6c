# SPDX-License-Identifier: AGPL-3.0-or-later
"""The positions of pushers that drop everything: written now and then, and at shutdown.

Synapse writes a pusher's position as it pushes. One that drops everything never gets that far, and
would begin far behind after a restart. And if the process is killed and then starts without the
module, what was dropped since the last position rings.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

import attr
from synapse.module_api import ModuleApi

from synapse_msc3881 import seams
from synapse_msc3881.delivery.backlog import Backlog
from synapse_msc3881.delivery.pusher_store import backlog_of
from synapse_msc3881.storage.pusher_positions import PusherPosition, PusherPositionStore
from synapse_msc3881.storage.pusher_tags import PusherKey

if TYPE_CHECKING:
    from synapse.server import HomeServer

#: A position is written after so many dropped rows. A restart walks over fewer than that again.
ROWS_PER_POSITION = 1000

#: And after so long, if it has dropped anything.
MS_PER_POSITION = 10 * 60 * 1000

# The pushers of a room get there together: one transaction for them all.
_DELAY_MS = 1000
_BATCH = 500

# At most so many are written at shutdown: whoever stops the server has to wait for it.
_MOST_AT_THE_END = 50_000


class Positions:
    """Writes the positions of the pushers of one process."""

    def __init__(self, hs: HomeServer, api: ModuleApi, store: PusherPositionStore) -> None:
        self._hs = hs
        self._api = api
        self._store = store
        self._due: dict[seams.Pusher, Backlog] = {}
        # Pushers that have dropped something since `_write_behind` last ran.
        self._behind: set[seams.Pusher] = set()
        seams.before_shutdown(hs, "msc3881_write_positions", self.write_all)

    def note(self, pusher: seams.Pusher, backlog: Backlog) -> None:
        """Have a pusher's position written soon, if it has dropped enough since the last time.

        If it has dropped anything at all, it is written within `MS_PER_POSITION`.
        """
        if backlog.newly_dropped:
            self._fall_behind([pusher])
        if backlog.newly_dropped < ROWS_PER_POSITION or pusher in self._due:
            return
        if not self._due:
            self._api.delayed_background_call(
                _DELAY_MS, self._write_due, desc="msc3881_write_positions"
            )
        self._due[pusher] = backlog

    def _fall_behind(self, pushers: Collection[seams.Pusher]) -> None:
        if pushers and not self._behind:
            self._api.delayed_background_call(
                MS_PER_POSITION, self._write_behind, desc="msc3881_write_positions"
            )
        self._behind.update(pushers)

    async def write_all(self) -> None:
        """Write the positions of all running pushers that have dropped something."""
        dropped = _that_dropped(seams.all_running_pushers(self._hs))
        await self.write(dropped[:_MOST_AT_THE_END])

    async def write(self, pushers: Iterable[tuple[seams.Pusher, Backlog]]) -> None:
        """Write the positions of those of the pushers that still run.

        Those that are not past all that they dropped, or could not be written, are written again
        within `MS_PER_POSITION`.
        """
        running = [(pusher, backlog) for pusher, backlog in pushers if self._is_running(pusher)]
        try:
            for start in range(0, len(running), _BATCH):
                await self._write_batch(running[start : start + _BATCH])
        finally:
            self._fall_behind([pusher for pusher, backlog in running if backlog.newly_dropped])

    async def _write_due(self) -> None:
        due, self._due = self._due, {}
        await self.write(due.items())

    async def _write_behind(self) -> None:
        behind, self._behind = self._behind, set()
        await self.write(_that_dropped(behind))

    async def _write_batch(self, batch: Collection[tuple[seams.Pusher, Backlog]]) -> None:
        moves = [_Move.of(pusher, backlog) for pusher, backlog in batch]
        if positions := [move.position for move in moves if move.is_forward]:
            await self._store.move(positions)
        for move in moves:
            move.end()

    def _is_running(self, pusher: seams.Pusher) -> bool:
        running = seams.running_pusher(self._hs, pusher.user_id, pusher.app_id, pusher.pushkey)
        return running is pusher


@attr.s(auto_attribs=True, frozen=True, slots=True)
class _Move:
    """The position of a pusher while it is being written."""

    pusher: seams.Pusher
    backlog: Backlog
    reached: int
    dropped: int

    @classmethod
    def of(cls, pusher: seams.Pusher, backlog: Backlog) -> _Move:
        """The position as it is now."""
        reached = backlog.position(pusher.last_stream_ordering)
        # What was dropped after something that still waits is not behind it.
        dropped = backlog.dropped if reached == backlog.walked_to else 0
        return cls(pusher, backlog, reached, dropped)

    @property
    def is_forward(self) -> bool:
        """Whether there is anything to write."""
        return self.reached > self.pusher.last_stream_ordering

    @property
    def position(self) -> PusherPosition:
        """What is written."""
        pusher = self.pusher
        return PusherPosition(
            PusherKey(pusher.user_id, pusher.app_id, pusher.pushkey), self.reached
        )

    def end(self) -> None:
        """Note that it is written; the pusher may have pushed meanwhile, or dropped more."""
        pusher, backlog = self.pusher, self.backlog
        pusher.last_stream_ordering = max(pusher.last_stream_ordering, self.reached)
        backlog.dropped_before = max(backlog.dropped_before, self.dropped)


def _that_dropped(pushers: Iterable[seams.Pusher]) -> list[tuple[seams.Pusher, Backlog]]:
    """The pushers that have dropped something since their position was last written."""
    return [
        (pusher, backlog)
        for pusher in pushers
        if (backlog := backlog_of(pusher)) is not None and backlog.newly_dropped
    ]

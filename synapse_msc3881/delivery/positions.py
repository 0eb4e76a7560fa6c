# SPDX-License-Identifier: AGPL-3.0-or-later
"""The positions of pushers that drop everything: written now and then, and at shutdown.

Synapse writes a pusher's position as it pushes. One that drops everything never gets that far, and
would begin far behind after a restart. And if the process is killed and then starts without the
module, what was dropped since the last position rings.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

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
        if backlog.dropped:
            if not self._behind:
                self._api.delayed_background_call(
                    MS_PER_POSITION, self._write_behind, desc="msc3881_write_positions"
                )
            self._behind.add(pusher)
        if backlog.dropped < ROWS_PER_POSITION or pusher in self._due:
            return
        if not self._due:
            self._api.delayed_background_call(
                _DELAY_MS, self._write_due, desc="msc3881_write_positions"
            )
        self._due[pusher] = backlog

    async def write_all(self) -> None:
        """Write the positions of all running pushers that have dropped something."""
        dropped = _that_dropped(seams.all_running_pushers(self._hs))
        await self.write(dropped[:_MOST_AT_THE_END])

    async def write(self, pushers: Iterable[tuple[seams.Pusher, Backlog]]) -> None:
        """Write the positions of those of the pushers that still run."""
        remaining = [(pusher, backlog) for pusher, backlog in pushers if self._is_running(pusher)]
        while remaining:
            batch, remaining = remaining[:_BATCH], remaining[_BATCH:]
            await self._write_batch(batch)

    async def _write_due(self) -> None:
        due, self._due = self._due, {}
        await self.write(due.items())

    async def _write_behind(self) -> None:
        behind, self._behind = self._behind, set()
        await self.write(_that_dropped(behind))

    async def _write_batch(self, batch: Collection[tuple[seams.Pusher, Backlog]]) -> None:
        positions = []
        for pusher, backlog in batch:
            key = PusherKey(pusher.user_id, pusher.app_id, pusher.pushkey)
            reached = backlog.position(pusher.last_stream_ordering)
            positions.append(PusherPosition(key, reached))
            backlog.dropped = 0
        await self._store.move(positions)
        for (pusher, _), position in zip(batch, positions, strict=True):
            # The pusher may have pushed meanwhile.
            pusher.last_stream_ordering = max(pusher.last_stream_ordering, position.reached)

    def _is_running(self, pusher: seams.Pusher) -> bool:
        running = seams.running_pusher(self._hs, pusher.user_id, pusher.app_id, pusher.pushkey)
        return running is pusher


def _that_dropped(pushers: Iterable[seams.Pusher]) -> list[tuple[seams.Pusher, Backlog]]:
    """The pushers that have dropped something since their position was last written."""
    return [
        (pusher, backlog)
        for pusher in pushers
        if (backlog := backlog_of(pusher)) is not None and backlog.dropped
    ]

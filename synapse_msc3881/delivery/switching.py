# SPDX-License-Identifier: AGPL-3.0-or-later
"""Running pushers, when a device gets its own settings or loses them (specification 9)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from synapse_msc3881 import seams
from synapse_msc3881.cascade.profile_tags import DEFAULT_TAGS
from synapse_msc3881.delivery.backlog import Backlog
from synapse_msc3881.delivery.own_devices import OwnDevices
from synapse_msc3881.delivery.positions import Positions
from synapse_msc3881.delivery.pusher_store import backlog_of
from synapse_msc3881.delivery.tagged_config import own_device_of, profile_tags_of
from synapse_msc3881.failures import Failures, Fallback
from synapse_msc3881.storage.pusher_tags import PusherKey

if TYPE_CHECKING:
    from synapse.server import HomeServer

    from synapse_msc3881.census import CallLater

# A pusher that starts within this many seconds of a switch may have been read before it.
_SWITCH_SECONDS = 60.0

# Milliseconds until another try, if a switch could not be read.
_RETRY_MS = 60_000.0


class Switching:
    """Has the running pushers of one process follow each switch, whichever process makes it."""

    def __init__(
        self,
        hs: HomeServer,
        own: OwnDevices,
        attach: Callable[[seams.Pusher, tuple[str, ...], str | None], None],
        positions: Positions,
        failures: Failures,
        call_later: CallLater,
    ) -> None:
        """
        Args:
            hs: the homeserver.
            own: hears of switches.
            attach: has a running pusher decide by profile tags, or by its device's own settings.
            positions: writes those of pushers that no longer follow a device.
            failures: where a switch that could not be read is reported.
            call_later: runs what a switch makes necessary in the background.
        """
        self._hs = hs
        self._attach = attach
        self._positions = positions
        self._failures = failures
        self._call_later = call_later
        self._queue = seams.make_linearizer(hs, "msc3881_own_settings")
        #: For whom a switch was heard of lately, and when.
        self.recent: dict[str, float] = {}
        # Whose pushers have not been looked at since a switch was heard of.
        self._unread: set[str] = set()
        own.on_switch = self._hear_of_switch
        own.on_answer = self._follow_now

    def _hear_of_switch(self, user_id: str) -> None:
        now = time.monotonic()
        self.recent = {
            each: then for each, then in self.recent.items() if now - then < _SWITCH_SECONDS
        }
        self.recent[user_id] = now
        self.look_again(user_id)

    def look_again(self, user_id: str, delay_ms: float = 0) -> None:
        """Read in the background which devices' settings a user's pushers are to follow."""
        self._unread.add(user_id)
        self._call_later(delay_ms, self._follow_now, user_id, desc="msc3881_switch_own_settings")

    async def _follow_now(self, user_id: str) -> None:
        """Have a user's running pushers follow their devices' settings, or stop doing so.

        They continue where they are, so that nothing is lost and nothing is pushed twice. Whoever
        comes second waits for the first, and has nothing left to do. Never raises.
        """
        async with self._queue.queue(user_id):  # The last to read has the last word.
            if user_id not in self._unread:
                return
            self._unread.discard(user_id)
            if not seams.running_pushers(self._hs, user_id):
                return
            try:
                configs = [*await seams.pushers_of(self._hs, user_id)]
                no_longer = [*self._follow(configs)]
                # Otherwise `global` would push after a restart what was dropped.
                await self._positions.write(no_longer)
            except Exception as error:  # noqa: BLE001 - the database may be away
                self._failures.report(Fallback.READ_TAGS, user_id, error)
                self.look_again(user_id, _RETRY_MS)

    def _follow(
        self, configs: Iterable[seams.PusherConfig]
    ) -> Iterator[tuple[seams.Pusher, Backlog]]:
        """Have running pushers follow what was read; returns those that no longer follow a device.

        These keep their backlogs: earlier events are pushed as they were decided then, and for all
        others nothing is recorded for the device, so that `global` decides.
        """
        for config in configs:
            pusher = seams.running_pusher(self._hs, *PusherKey.of(config))
            if pusher is None or profile_tags_of(config) != DEFAULT_TAGS:
                continue
            own, backlog = own_device_of(config), backlog_of(pusher)
            if backlog is None and own is not None:
                self._attach(pusher, DEFAULT_TAGS, own)
                seams.wake(pusher)
            elif backlog is not None and backlog.tags == DEFAULT_TAGS:
                if own is None:
                    yield pusher, backlog
                else:
                    backlog.own = own

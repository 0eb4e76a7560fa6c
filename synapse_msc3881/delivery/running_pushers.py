# SPDX-License-Identifier: AGPL-3.0-or-later
"""Pushers as they run: started and stopped with what walks their profile tags (specification 6)."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING

from synapse_msc3881 import seams
from synapse_msc3881.cascade.profile_tags import DEFAULT_TAGS
from synapse_msc3881.delivery.http_backlog import HttpBacklog
from synapse_msc3881.delivery.mail_backlog import MailBacklog
from synapse_msc3881.delivery.own_devices import OwnDevices
from synapse_msc3881.delivery.positions import Positions
from synapse_msc3881.delivery.pusher_store import PusherStore
from synapse_msc3881.delivery.starting import PusherStart
from synapse_msc3881.delivery.stopping import Stopping
from synapse_msc3881.delivery.stored_pushers import StoredPushers
from synapse_msc3881.delivery.switching import Switching
from synapse_msc3881.delivery.tagged_config import own_device_of, profile_tags_of
from synapse_msc3881.failures import Failures
from synapse_msc3881.storage.push_actions import PushActionStore
from synapse_msc3881.storage.pusher_tags import PusherKey

if TYPE_CHECKING:
    from synapse.server import HomeServer

    from synapse_msc3881.census import CallLater
    from synapse_msc3881.metrics import Metrics


class RunningPushers:
    """The module's part in the pushers that run in one process."""

    def __init__(
        self,
        hs: HomeServer,
        is_main: bool,
        stored: StoredPushers,
        push_actions: PushActionStore,
        positions: Positions,
        own: OwnDevices,
        failures: Failures,
        metrics: Metrics,
        call_later: CallLater,
    ) -> None:
        """
        Args:
            hs: the homeserver.
            is_main: whether this is the main process.
            stored: the pushers that are started.
            push_actions: what was decided for users.
            positions: writes the positions of pushers that push nothing.
            own: hears that a device gets its own settings, or loses them.
            failures: where bad rows are reported.
            metrics: counts what pushers decide.
            call_later: runs something in the background.
        """
        self._hs = hs
        self._is_main = is_main
        self._stored = stored
        self._push_actions = push_actions
        self._positions = positions
        self._failures = failures
        self._metrics = metrics
        self._start = PusherStart()
        self._stopping = Stopping()
        self._switching = Switching(hs, own, self._attach, positions, failures, call_later)

    async def get_enabled_pushers(
        self, native: Callable[..., Awaitable[Iterator[seams.PusherConfig]]]
    ) -> Iterator[seams.PusherConfig]:
        """Wrap the read of all pushers of the server, to start them."""
        self._start.begin()
        if not self._is_main:  # Only now, since what is wrapped is created late in the startup.
            seams.wrap(self._hs, seams.pushers.STOP_PUSHER, self.stop_replicated)
        try:
            return self._start.unchanged(await self._stored.read(native))
        except Exception:
            self._start.fail()
            raise

    async def process_pusher_change(
        self,
        native: Callable[..., Awaitable[seams.Pusher | None]],
        app_id: str,
        pushkey: str,
        user_id: str,
    ) -> seams.Pusher | None:
        """Wrap the start of a pusher that was set, which stops it if it was disabled."""
        self._start.overtake(PusherKey(user_id, app_id, pushkey))
        return await native(app_id, pushkey, user_id)

    def maybe_stop_pusher(
        self, native: Callable[..., None], app_id: str, pushkey: str, user_id: str
    ) -> None:
        """Wrap the stop of a pusher that was removed or disabled."""
        key = PusherKey(user_id, app_id, pushkey)
        self._stop(key, lambda: native(app_id, pushkey, user_id))

    def stop_replicated(
        self, native: Callable[..., None], user_id: str, app_id: str, pushkey: str
    ) -> None:
        """The same on a worker, when it hears of it."""
        key = PusherKey(user_id, app_id, pushkey)
        self._stop(key, lambda: native(user_id, app_id, pushkey))

    def _stop(self, key: PusherKey, native: Callable[[], None]) -> None:
        self._start.overtake(key)
        pusher = seams.running_pusher(self._hs, key.user_id, key.app_id, key.pushkey)
        native()
        if pusher is not None:
            self._stopping.end(pusher)

    def equip(self, pusher: seams.Pusher, config: seams.PusherConfig) -> seams.Pusher:
        """Give a new pusher what walks its profile tags."""
        replaced = seams.running_pusher(self._hs, pusher.user_id, pusher.app_id, pusher.pushkey)
        if replaced is not None:
            self._stopping.replace(replaced, pusher)
        tags, own = profile_tags_of(config), own_device_of(config)
        if own is not None or tags != DEFAULT_TAGS:
            self._attach(pusher, tags, own)
        if pusher.user_id in self._switching.recent:  # Its config may have been read before.
            self._switching.look_again(pusher.user_id)
        return pusher

    def _attach(self, pusher: seams.Pusher, tags: tuple[str, ...], own: str | None) -> None:
        """Have a pusher decide by more than `global` what to push."""
        seams.ensure_position(pusher)
        key = PusherKey(pusher.user_id, pusher.app_id, pusher.pushkey)
        make_backlog = MailBacklog if isinstance(pusher, seams.EmailPusher) else HttpBacklog
        backlog = make_backlog(
            key,
            tags,
            self._push_actions,
            self._failures,
            self._metrics,
            time.monotonic,
            # Synapse counts it as running at once: what comes later is offered to it.
            missed_to=pusher.max_stream_ordering,
            own=own,
        )
        pusher.store = PusherStore(  # type: ignore[assignment]
            pusher.store, pusher, backlog, self._positions.note
        )
